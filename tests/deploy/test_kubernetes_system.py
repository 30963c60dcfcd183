"""What the overlay `dev` runs, on this machine: real worker, gateway and client.

They have the variables of their pods, and what their pods mount: Secrets by the commands of
docs/security.md, and certificates with the names that cert-manager is asked for.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import Consistency, Item, SentinelClient, SentinelError
from tests import photos, processes
from tests.deploy import files
from tests.deploy.contained import moved, start
from tests.search_server.access.secured import sentinel
from tests.waiting import until

pytestmark = pytest.mark.slow

OVERLAY = "overlays/dev"
Secrets = dict[str, dict[str, bytes]]


@dataclass(frozen=True, slots=True)
class System:
    """What runs; the app's variables; the folder of the document's commands."""

    gateway: processes.Server
    app: dict[str, str]
    secrets: Secrets
    folder: Path


def certificates(folder: Path) -> Secrets:
    """What cert-manager puts into Secrets, with another CA."""
    made: Secrets = {}
    for manifest in files.rendered(OVERLAY):
        if manifest["kind"] == "Certificate" and "dnsNames" in manifest["spec"]:
            names = manifest["spec"]["dnsNames"]
            sentinel("certs", str(folder), *[word for one in names for word in ("--name", one)])
            pairs = {"tls.crt": "server.pem", "tls.key": "server-key.pem", "ca.crt": "ca.pem"}
            made[manifest["spec"]["secretName"]] = {
                name: (folder / file).read_bytes() for name, file in pairs.items()
            }
    return made


def pod(name: str, secrets: Secrets, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The only container of a pod, and its variables, with its volumes below a folder."""
    (found,) = [one for one in files.deployments(OVERLAY) if one["metadata"]["name"] == name]
    spec = found["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for volume in spec["volumes"]:
        (folder / volume["name"]).mkdir(parents=True)
        held = volume.get("secret", {"secretName": "", "optional": True})
        if not held.get("optional"):
            wanted = {one["key"] for one in held.get("items", [])}
            for file, content in secrets[held["secretName"]].items():
                if not wanted or file in wanted:
                    (folder / volume["name"] / file).write_bytes(content)
    (described,) = [one for one in files.containers() if one.where == f"k8s/{OVERLAY}: {name}"]
    mounts = {one["mountPath"]: folder / one["name"] for one in container["volumeMounts"]}
    return container, moved(described.environment, mounts)


def passes(probe: dict[str, Any], server: processes.Server) -> bool:
    """Ask as the kubelet does: it does not look at the certificate."""
    asked = probe["httpGet"]
    assert (asked["scheme"], asked["port"]) == ("HTTPS", "metrics")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    port = server.metrics_address.rpartition(":")[2]
    try:
        with direct.open(f"https://127.0.0.1:{port}{asked['path']}", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        assert error.code == 503  # not yet
        return False


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder, base = tmp_path_factory.mktemp("commands"), tmp_path_factory.mktemp("pods")
    secrets = files.secrets_of_the_document(folder) | certificates(base / "pki")
    with ExitStack() as stack:
        started = []
        addresses: dict[str, str] = {}
        for name, module in (
            ("sentinel-worker", "embedder_server"),
            ("sentinel-gateway", "search_server"),
        ):
            container, variables = pod(name, secrets, base / name)
            server = start(
                base / name,
                module,
                {**variables, **addresses},
                secrets=base,
                name="sentinel-worker",
            )
            stack.callback(server.stop)
            for kind in ("startup", "liveness", "readiness"):
                until(lambda k=kind, c=container, s=server: passes(c[f"{k}Probe"], s), 60)
            port = server.address.rpartition(":")[2]
            addresses["SENTINEL_GATEWAY_WORKERS"] = f"dns:///sentinel-worker:{port}"
            started.append(server)
        _, app = pod("sentinel-app", secrets, base / "app")
        yield System(started[-1], app, secrets, folder)


def test_ones_own_key_stores_and_finds(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the document says: with the CA of the gateway's Secret, by the name of its Service."""
    ca = system.folder / "ca.pem"
    ca.write_bytes(system.secrets["sentinel-gateway-tls"]["ca.crt"])
    monkeypatch.setenv("SENTINEL_TLS_CA", str(ca))
    monkeypatch.setenv("SENTINEL_TLS_SERVER_NAME", "sentinel-gateway")
    monkeypatch.setenv("SENTINEL_API_KEY_FILE", str(system.folder / "my-key"))
    with SentinelClient(f"127.0.0.1:{system.gateway.address.rpartition(':')[2]}") as client:
        client.create_collection("photos")
        items = [Item(id=name, image=photos.photo(name)) for name in ("chelsea", "coffee")]
        client.upsert(items, collection="photos")
        (hit,) = client.search(
            "a cat", collection="photos", limit=1, consistency=Consistency.STRONG
        )
        assert hit.id == "chelsea"


def test_the_app_reads_and_writes_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENTINEL_TLS_CA", "SENTINEL_API_KEY_FILE"):
        monkeypatch.setenv(name, system.app[name])
    assert [file.name for file in Path(system.app["SENTINEL_TLS_CA"]).parent.iterdir()] == [
        "ca.crt"
    ]
    with SentinelClient(f"localhost:{system.gateway.address.rpartition(':')[2]}") as client:
        list(client.list_collections())
        with pytest.raises(SentinelError) as caught:
            client.create_collection("videos")
        assert caught.value.reason == "SCOPE_MISSING"
