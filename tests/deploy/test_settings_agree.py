"""Every variable, port, volume and image of the deployment files is one that the code knows."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from embedder_server.settings import EmbedderSettings
from search_server.settings import GatewaySettings
from sentinel_client._config import ADDRESS_VARIABLE
from sentinel_core.settings import ServerSettings
from tests.deploy import files

SETTINGS: dict[str, type[ServerSettings]] = {
    "sentinel-gateway": GatewaySettings,
    "sentinel-worker": EmbedderSettings,
}
APP_PORT = 8501
METRICS_PORT = 9464
# What is not ours, but belongs into our images; and what health checks read.
FOREIGN = {"HF_HOME", "NVIDIA_DRIVER_CAPABILITIES", "SENTINEL_TLS_CA"}

every_container = pytest.mark.parametrize("container", files.containers(), ids=lambda c: c.where)


def settings_of(container: files.Container, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """The settings that the container's process would read."""
    for name, value in container.environment.items():
        monkeypatch.setenv(name, value)
    if "SENTINEL_GATEWAY_KEYS_FILE" in container.environment:  # from the Secret
        monkeypatch.setenv("SENTINEL_GATEWAY_PAGE_TOKEN_SECRET", "secret")
    return SETTINGS[container.image](_env_file=None)


@every_container
def test_every_variable_is_a_setting(
    container: files.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (set(container.environment) | container.handed_on) - FOREIGN
    if container.image == "sentinel-app":
        assert names == {ADDRESS_VARIABLE, "SENTINEL_API_KEY_FILE"}
        return
    kind = SETTINGS[container.image]
    prefix = str(kind.model_config["env_prefix"])
    assert names <= {f"{prefix}{field}".upper() for field in kind.model_fields}
    assert settings_of(container, monkeypatch).host == "0.0.0.0"


def test_the_secret_of_the_manifests_holds_settings() -> None:
    """What deploy/README.md has people put into it; the rest is for the object store's library."""
    readme = (files.DEPLOY / "README.md").read_text()
    keys = set(re.findall(r"--from-literal=(SENTINEL_\w+)=", readme))
    assert keys
    assert keys <= {f"SENTINEL_GATEWAY_{field}".upper() for field in GatewaySettings.model_fields}


@every_container
def test_ports_are_those_the_process_opens(
    container: files.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposed = {
        int(port)
        for line in re.findall(
            r"^EXPOSE (.*)$", files.target(container.image.removeprefix("sentinel-")), re.MULTILINE
        )
        for port in line.split()
    }
    if container.image == "sentinel-app":
        opened = {APP_PORT}
    else:
        settings = settings_of(container, monkeypatch)
        assert settings.metrics_port == METRICS_PORT
        opened = {settings.port, settings.metrics_port}
    assert exposed == opened
    assert container.ports <= opened


@every_container
def test_what_is_written_lies_on_a_volume_and_every_volume_is_written(
    container: files.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root file system is read-only."""
    written = {"/tmp"}
    if container.image == "sentinel-gateway":
        settings = settings_of(container, monkeypatch)
        assert isinstance(settings, GatewaySettings)
        uris = (settings.object_store_uri, settings.milvus_uri)
        written |= {uri for uri in uris if "://" not in uri}
        # The image's own volume; an overlay that stores elsewhere mounts an empty one there.
        written.add("/data")
    if container.image == "sentinel-worker":
        settings = settings_of(container, monkeypatch)
        assert isinstance(settings, EmbedderSettings)
        written |= {str(settings.cache_dir), container.environment["HF_HOME"]}
    for path in written:
        assert any(PurePosixPath(path).is_relative_to(mount) for mount in container.mounts), path
    for mount in container.mounts:
        assert any(PurePosixPath(path).is_relative_to(mount) for path in written), mount


@every_container
def test_images_carry_the_version_of_the_project(container: files.Container) -> None:
    assert container.tag.removesuffix("-cpu").removesuffix("-cuda") == files.VERSION
    assert f"ARG VERSION={files.VERSION}\n" in files.target("base")
    files.target(container.image.removeprefix("sentinel-"))  # there is such a stage


def test_the_address_book_agrees() -> None:
    """Who is asked for where: gateway → workers, app → gateway, Prometheus → both."""
    services = files.compose()["services"]
    assert services["gateway"]["environment"]["SENTINEL_GATEWAY_WORKERS"] == "dns:///worker:50051"
    for name, service in services.items():
        if service["image"].startswith("sentinel-worker"):
            assert service["networks"]["default"]["aliases"] == ["worker"], name
    assert services["app"]["environment"]["SENTINEL_ADDRESS"] == "gateway:50050"
    scraped = yaml.safe_load((files.DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    for job in scraped["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            assert found["names"] in (["gateway"], ["worker"])
            assert found["port"] == METRICS_PORT


@pytest.mark.parametrize("overlay", files.OVERLAYS)
def test_services_and_variables_of_kubernetes_agree(overlay: str) -> None:
    manifests = files.rendered(overlay)
    services = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Service"}
    pods = {d["metadata"]["name"]: d["spec"]["template"] for d in files.deployments(overlay)}
    for container in files.containers():
        if not container.where.startswith(f"k8s/{overlay}:"):
            continue
        for value in container.environment.values():
            for name, port in re.findall(r"dns:///([\w-]+):(\d+)", value):
                assert services[name]["clusterIP"] == "None", "only a headless name has every pod"
                assert int(port) in {p["port"] for p in services[name]["ports"]}
    for name, service in services.items():
        assert service["selector"].items() <= pods[name]["metadata"]["labels"].items()
        named = {
            port["name"]: port["containerPort"]
            for port in pods[name]["spec"]["containers"][0]["ports"]
        }
        for port in service["ports"]:
            assert named[port["targetPort"]] == port["port"]


def test_processes_get_the_time_that_their_drain_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    graces: dict[str, float] = {}
    for name, service in files.compose()["services"].items():
        grace = str(service.get("stop_grace_period", "0s"))
        graces[f"docker-compose.yaml: {name}"] = float(grace.removesuffix("s"))
    for overlay in files.OVERLAYS:
        for deployment in files.deployments(overlay):
            pod = deployment["spec"]["template"]["spec"]
            where = f"k8s/{overlay}: {deployment['metadata']['name']}"
            graces[where] = pod.get("terminationGracePeriodSeconds", 30)
    for container in files.containers():
        if container.image in SETTINGS:
            with monkeypatch.context() as patch:
                settings = settings_of(container, patch)
            drain = settings.drain_pause_seconds + settings.drain_seconds
            assert settings.drain_pause_seconds > 0, container.where
            # Two seconds for what follows the drain.
            assert graces[container.where] >= drain + 2, container.where


def test_nothing_but_the_gateway_is_published_beyond_this_machine() -> None:
    """The others ask for no key."""
    for name, service in files.compose()["services"].items():
        for port in service.get("ports", []):
            assert name == "gateway" or port.startswith("127.0.0.1:"), (name, port)


def test_only_who_needs_them_reaches_milvus_and_what_it_stores_in() -> None:
    reached: dict[str, set[str]] = {}
    for name, service in files.compose()["services"].items():
        for network in service.get("networks", ["default"]):
            reached.setdefault(network, set()).add(name)
    assert reached["milvus"] == {"milvus", "gateway", "prometheus"}
    assert reached["storage"] == {"milvus", "etcd", "minio"}
    assert "milvus" not in reached["default"]


def test_our_containers_are_hardened() -> None:
    for name, service in files.compose()["services"].items():
        if service["image"].startswith("sentinel-"):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["init"] is True, name
    assert "USER 10001:10001" in files.target("base")
    for name in ("gateway", "worker", "app"):
        assert re.search(r"^ENTRYPOINT \[", files.target(name), re.MULTILINE), "signals must arrive"


def test_volumes_and_networks_are_declared() -> None:
    document: dict[str, Any] = files.compose()
    used_volumes = {
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used_volumes == set(document["volumes"])
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (files.ROOT / volume.split(":")[0]).exists(), volume
        assert set(service.get("networks", ["default"])) <= set(document["networks"])


def test_the_example_names_every_variable_with_its_default() -> None:
    example = (files.ROOT / ".env.example").read_text()
    lines = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", example, re.MULTILINE))
    lines.pop("COMPOSE_PROFILES")
    variables = files.compose_variables()
    assert set(lines) == set(variables)
    for name, default in variables.items():
        assert default is None or lines[name] == default, name
