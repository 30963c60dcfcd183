"""Dashboard, alerts and autoscaler ask for metrics that the servers have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from embedder_server.engine.metrics import EmbedderMetrics
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache
from search_server.health import Problems
from sentinel_core.admission import export
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from tests.deploy import files

_NAME = re.compile(r"\b(sentinel_\w+)(\{[^}]*\})?")


def known_metrics() -> dict[str, set[str]]:
    """Every sample name of both servers, and its labels, with `instance` of the target."""
    found: dict[str, set[str]] = {}
    gateway = ServerMetrics("gateway", CollectorRegistry())
    QueryCache(EmbedderPool([], 1024, gateway), 0, gateway)
    Problems(gateway)
    MemoryBudget(1024, gateway)
    export(gateway, {})
    worker = EmbedderMetrics(CollectorRegistry())
    MemoryBudget(1024, worker)
    for registry in (gateway.registry, worker.registry):
        for metric in registry._collector_to_names:
            labels = set(getattr(metric, "_labelnames", ())) | {"instance"}
            for family in metric.describe():  # type: ignore[attr-defined]
                name = family.name
                suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
                for suffix in suffixes.get(family.type, ("",)):
                    extra = {"le"} if suffix == "_bucket" else set()
                    found[f"{name}{suffix}"] = labels | extra
    return found


def expressions() -> dict[str, str]:
    """Every expression of dashboard and rules by where it stands."""
    found: dict[str, str] = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            found[f"dashboard: {panel['title']}, {target['refId']}"] = target["expr"]
    rules = yaml.safe_load((files.DEPLOY / "prometheus" / "rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            found[f"rules: {rule['alert']}"] = rule["expr"]
    return found


def dashboard() -> dict[str, Any]:
    path = files.DEPLOY / "grafana" / "dashboards" / "sentinel.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.mark.parametrize("where", expressions())
def test_every_metric_and_label_exists(where: str) -> None:
    expression = expressions()[where]
    known = known_metrics()
    used = _NAME.findall(expression)
    assert used
    for name, selector in used:
        assert name in known, name
        labels = set(re.findall(r"(\w+)\s*[=!]~?\"", selector))
        assert labels <= known[name], (name, labels)
    # Grouped by labels that one of the metrics has.
    for grouping in re.findall(r"by \(([^)]*)\)", expression):
        wanted = {label.strip() for label in grouping.split(",")}
        assert any(wanted <= known[name] for name, _ in used), wanted


def test_nothing_depends_on_what_prometheus_calls_the_jobs() -> None:
    """An operator's own Prometheus has its own names, and alerts that fire on them are noise."""
    assert not [where for where, expression in expressions().items() if "job" in expression]


def test_ranges_span_four_scrapes() -> None:
    config = yaml.safe_load((files.DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    scrape_s = int(config["global"]["scrape_interval"].removesuffix("s"))
    source = yaml.safe_load(
        (files.DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"][0]
    # Grafana's $__rate_interval is at least four of these.
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    for where, expression in expressions().items():
        for window in re.findall(r"\[([^]]*)\]", expression):
            if window != "$__rate_interval":
                minutes = int(window.removesuffix("m"))
                assert minutes * 60 >= 4 * scrape_s, where


def test_panels_do_not_overlap_and_use_the_provisioned_source() -> None:
    board = dashboard()
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert panel["description"]


def test_the_autoscaler_and_its_adapter_agree() -> None:
    (asked,) = [
        manifest["spec"]["metrics"][0]["pods"]["metric"]["name"]
        for manifest in files.rendered("base")
        if manifest["kind"] == "HorizontalPodAutoscaler"
        and manifest["metadata"]["name"] == "sentinel-worker"
    ]
    adapter = yaml.safe_load((files.DEPLOY / "k8s/prometheus-adapter-values.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == asked
    assert rule["seriesQuery"].startswith(f"{asked}{{")
    assert asked in known_metrics()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt install prometheus")
@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yaml"), ("test", "rules", "rules_test.yaml")],
    ids=" ".join,
)
def test_promtool_takes_the_files_and_alerts_fire_as_expected(words: tuple[str, ...]) -> None:
    result = subprocess.run(
        ["promtool", *words],
        cwd=files.DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
