"""The manifests as kubectl renders them: right by Kubernetes' own schemas, and by our rules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy import files

# The oldest one with gRPC probes that are no longer new, and the newest one there are schemas of.
KUBERNETES = ("1.29", "1.37")

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
        if manifest["apiVersion"] == "cert-manager.io/v1":
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


@every_overlay
def test_nothing_is_open(overlay: str) -> None:
    """Every port has TLS, both servers ask for keys, and the certificates have the right names."""
    manifests = files.rendered(overlay)
    certificates = {
        m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Certificate"
    }
    issuers = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Issuer"}
    assert all(one["issuerRef"]["name"] in issuers for one in certificates.values())
    secrets = {one["secretName"] for one in certificates.values()}
    assert issuers["sentinel"]["ca"]["secretName"] in secrets
    for name in ("sentinel-gateway", "sentinel-worker"):
        pod = pods(overlay)[name]
        (container,) = pod["containers"]
        values = {one["name"]: one["value"] for one in container["env"]}
        prefix = "SENTINEL_GATEWAY_" if "gateway" in name else "SENTINEL_EMBEDDER_"
        volumes = {
            one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one
        }
        mounts = {one["mountPath"]: volumes.get(one["name"]) for one in container["volumeMounts"]}
        assert mounts["/tls"] == certificates[name]["secretName"]
        for setting in ("TLS_CERT", "TLS_KEY", "KEYS_FILE"):
            assert values[prefix + setting].rpartition("/")[0] in ("/tls", "/keys")
        assert name in certificates[name]["dnsNames"]  # what `dns:///name:port` is checked against
        for kind in ("startup", "liveness", "readiness"):
            probe = container[f"{kind}Probe"]["httpGet"]
            assert (probe["scheme"], probe["port"]) == ("HTTPS", "metrics")
            assert probe["path"] in ("/livez", "/readyz")
    (gateway,) = pods(overlay)["sentinel-gateway"]["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/livez", "Milvus down must restart none"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    (worker,) = pods(overlay)["sentinel-worker"]["containers"]
    assert worker["livenessProbe"]["httpGet"]["path"] == "/readyz", "a device that hangs must"


@every_overlay
def test_only_the_traffic_that_is_needed_is_allowed(overlay: str) -> None:
    manifests = files.rendered(overlay)
    policies = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert "from" in rule or name == "sentinel-app"
    for name, pod in pods(overlay).items():
        labels = {"app.kubernetes.io/name": name}
        assert policies[name]["podSelector"]["matchLabels"] == labels
        (container,) = pod["containers"]
        named = {port["name"] for port in container["ports"]}
        for rule in policies[name]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= named
    for name in ("sentinel-worker", "sentinel-app"):  # they read what strangers sent
        assert "Egress" in policies[name]["policyTypes"]
        for rule in policies[name]["egress"]:
            assert "to" in rule or {port["port"] for port in rule["ports"]} == {53, 443}


@every_overlay
def test_the_namespace_is_restricted(overlay: str) -> None:
    (namespace,) = [m for m in files.rendered(overlay) if m["kind"] == "Namespace"]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_secrets_of_the_document_are_those_that_pods_mount(tmp_path: Path) -> None:
    """Its commands, run with kubectl as far as that goes without a cluster."""
    held = files.secrets_of_the_document(tmp_path)
    for name, pod in pods("base").items():
        (container,) = pod["containers"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        (keys,) = [one for one in pod["volumes"] if one["name"] == "keys"]
        secret = held.pop(keys["secret"]["secretName"])
        asked = {
            one["value"].rpartition("/")[2]
            for one in container["env"]
            if one["value"].startswith(f"{mounts['keys']}/")
        }
        assert set(secret) == asked, name
        assert all(secret.values())
    assert not held
    assert (tmp_path / "my-key").read_text().startswith("sen_")


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
