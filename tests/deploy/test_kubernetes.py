"""The manifests as kubectl renders them: right by Kubernetes' own schemas, and by our rules."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest

from sentinel.embedding.v1 import embedding_service_pb2
from sentinel_core.server import LIVENESS
from tests.deploy import files

# The oldest one with gRPC probes that are no longer new, and the newest one there are schemas of.
KUBERNETES = ("1.29", "1.37")
WORKER_SERVICE = embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

every_overlay = pytest.mark.parametrize("overlay", files.OVERLAYS)


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    return {
        deployment["metadata"]["name"]: deployment["spec"]["template"]["spec"]
        for deployment in files.deployments(overlay)
    }


@every_overlay
@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_fit_the_schemas(overlay: str, version: str) -> None:
    """A kind without a schema raises, too. cert-manager's are not among Kubernetes' own."""
    for manifest in files.rendered(overlay):
        if manifest["apiVersion"] == "cert-manager.io/v1" and overlay == "overlays/secure":
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_check_finds_wrong_types_unknown_fields_and_unknown_kinds() -> None:
    good = files.deployments("base")[0]
    for change in (
        {"kind": "Deploymnet"},
        {"apiVersion": "apps/v2"},
        {"spec": {**good["spec"], "replicas": "three"}},
        {"spec": {**good["spec"], "replica": 3}},
    ):
        with pytest.raises(
            (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
        ):
            kubernetes_validate.validate(copy.deepcopy(good) | change, KUBERNETES[-1], strict=True)


def test_the_secure_overlay_leaves_nothing_open() -> None:
    """Every port has TLS, both servers ask for keys, and the certificates have the right names."""
    overlay = "overlays/secure"
    manifests = files.rendered(overlay)
    certificates = {
        m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Certificate"
    }
    issuers = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Issuer"}
    assert all(one["issuerRef"]["name"] in issuers for one in certificates.values())
    secrets = {one["secretName"] for one in certificates.values()}
    assert issuers["sentinel"]["ca"]["secretName"] in secrets
    readme = (files.DEPLOY / "README.md").read_text()
    for name in ("sentinel-gateway", "sentinel-worker"):
        pod = pods(overlay)[name]
        (container,) = pod["containers"]
        values = {one["name"]: one["value"] for one in container["env"]}
        prefix = "SENTINEL_GATEWAY_" if "gateway" in name else "SENTINEL_EMBEDDER_"
        assert values[f"{prefix}INSECURE"] == "false"
        volumes = {
            one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one
        }
        mounts = {one["mountPath"]: volumes.get(one["name"]) for one in container["volumeMounts"]}
        assert mounts["/tls"] == certificates[name]["secretName"]
        assert f"secret generic {mounts['/keys']}" in readme
        for setting in ("TLS_CERT", "TLS_KEY", "KEYS_FILE"):
            assert values[prefix + setting].rpartition("/")[0] in ("/tls", "/keys")
        assert name in certificates[name]["dnsNames"]  # what `dns:///name:port` is checked against
        for kind in ("startup", "liveness", "readiness"):
            probe = container[f"{kind}Probe"]
            assert "grpc" not in probe
            assert probe["httpGet"]["scheme"] == "HTTPS"
    (gateway,) = pods(overlay)["sentinel-gateway"]["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/livez", "Milvus down must restart none"
    policies = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert "from" in rule or name == "sentinel-app"


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/gpu"])
def test_probes_ask_for_health_names_that_exist(overlay: str) -> None:
    known = {
        "sentinel-gateway": {"", LIVENESS},
        "sentinel-worker": {WORKER_SERVICE},
    }
    ports = {"sentinel-gateway": 50050, "sentinel-worker": 50051}
    for name, names in known.items():
        (container,) = pods(overlay)[name]["containers"]
        probes = {
            kind: container[f"{kind}Probe"]["grpc"] for kind in ("startup", "liveness", "readiness")
        }
        assert {probe.get("service", "") for probe in probes.values()} == names, name
        assert {probe["port"] for probe in probes.values()} == {ports[name]}
    (gateway,) = pods(overlay)["sentinel-gateway"]["containers"]
    assert gateway["livenessProbe"]["grpc"]["service"] == LIVENESS, "Milvus down must restart none"
    assert "service" not in gateway["readinessProbe"]["grpc"]


@every_overlay
def test_a_worker_is_restarted_long_after_it_is_taken_out(overlay: str) -> None:
    (worker,) = pods(overlay)["sentinel-worker"]["containers"]

    def seconds(kind: str) -> int:
        probe = worker[f"{kind}Probe"]
        return int(probe["periodSeconds"]) * int(probe["failureThreshold"])

    assert seconds("readiness") <= 15
    assert seconds("liveness") >= 120
    assert seconds("startup") >= 600


@every_overlay
def test_pods_are_restricted(overlay: str) -> None:
    for name, pod in pods(overlay).items():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # A Service named sentinel-gateway would else set SENTINEL_GATEWAY_PORT to an URL.
        assert pod["enableServiceLinks"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_every_gpu_worker_has_one_gpu_to_itself() -> None:
    (worker,) = pods("overlays/gpu")["sentinel-worker"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["image"].endswith("-cuda")
    for overlay in ("base", "overlays/dev"):
        (worker,) = pods(overlay)["sentinel-worker"]["containers"]
        assert "nvidia.com/gpu" not in worker["resources"].get("limits", {})


@every_overlay
def test_what_scales_has_no_number_of_its_own(overlay: str) -> None:
    """Else every `kubectl apply` would undo the autoscaler."""
    scaled = {
        manifest["spec"]["scaleTargetRef"]["name"]
        for manifest in files.rendered(overlay)
        if manifest["kind"] == "HorizontalPodAutoscaler"
    }
    assert scaled == (set() if "dev" in overlay else {"sentinel-gateway", "sentinel-worker"})
    for deployment in files.deployments(overlay):
        has_number = "replicas" in deployment["spec"]
        assert has_number is (deployment["metadata"]["name"] not in scaled)
