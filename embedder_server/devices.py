"""Which device a worker runs on and how many CPU threads it may use."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def parse_device(text: str) -> str:
    """Return the canonical name of a device: `cpu` or `cuda:N`; plain `cuda` is `cuda:0`.

    Raises:
        ValueError: It is neither.
    """
    name = text.strip().lower()
    if name == "cpu":
        return name
    if match := re.fullmatch(r"cuda(?::(\d{1,3}))?", name):
        return f"cuda:{int(match[1] or 0)}"
    raise ValueError(f"{text!r} is not a device: use cpu, cuda or cuda:N")


def usable_cores() -> int:
    """Return how many cores this process may use: its CPU mask and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _container_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _container_quota() -> float | None:
    """Return the cores that cgroup v2 grants, None where there is no limit to read."""
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # not Linux, cgroup v1, or "max"
