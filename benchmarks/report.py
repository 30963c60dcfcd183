"""Report measurements with targets: as tables, and as JSON with machine and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load.agents import ROOT

_PACKAGES = (
    "sentinel-retrieval", "grpcio", "protobuf", "numpy", "pillow", "tokenizers", "onnxruntime",
    "openvino", "torch", "transformers", "pymilvus", "milvus-lite",
)  # fmt: skip
# The processor flags that decide how fast a model runs.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was measured.
        value: In `unit`; None if it was not measured.
        unit: For example `x`, `ms`, `items/s`.
        at_least: Lower target, if any.
        at_most: Upper target, if any.
        note: How it was measured, or why it was not.
        detail: The values it was computed from.
    """

    name: str
    value: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The target as text; empty without one."""
        if self.at_least is not None:
            return f"≥ {self.at_least:.4g} {self.unit}"
        return f"≤ {self.at_most:.4g} {self.unit}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


def skipped(name: str, why: str) -> Row:
    """Return a row that was not measured."""
    return Row(name, None, "", note=f"skipped: {why}")


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios within a round, which the machine's drift hardly changes."""
    return median([a / b for a, b in zip(above, below, strict=True)])


def percentile(values: Sequence[float], which: float) -> float:
    return float(np.percentile(values, which)) if len(values) else float("nan")


def machine() -> dict[str, Any]:
    """Return facts about this machine that the figures depend on."""
    return {
        "processor": _processor(),
        "flags": [flag for flag in _FLAGS if flag in _cpuinfo("flags").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that matter."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the measured commit, with a mark if files differ from it."""
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def print_report(sections: dict[str, Sequence[Row]], console: Console) -> None:
    """Print the rows of each section, then all rows with a target or without a value."""
    with_target: list[Row] = []
    for title, rows in sections.items():
        figures = [row for row in rows if row.value is not None and not row.target]
        with_target += [row for row in rows if row not in figures]
        if figures:
            _print_table(title, figures, console)
    if with_target:
        _print_table("targets", with_target, console)


def _print_table(title: str, rows: Sequence[Row], console: Console) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("measured")
    table.add_column("value", justify="right", no_wrap=True)
    if title == "targets":
        table.add_column("target", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    table.add_column("how", style="dim")
    verdicts = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4g} {row.unit}"
        target = (row.target, verdicts[row.met]) if title == "targets" else ()
        table.add_row(row.name, value, *target, row.note)
    console.print(table)


def write_json(path: Path, sections: Mapping[str, Sequence[Row]], **facts: Any) -> None:
    """Write all rows and facts to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
        "sections": {
            title: [{**asdict(row), "target": row.target, "met": row.met} for row in rows]
            for title, rows in sections.items()
        },
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
