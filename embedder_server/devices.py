"""CPUs and GPUs of this machine: which ones a process may use, and how many there are."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from embedder_server.types import ModelLoadError

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_DEVICE_FILES = Path("/dev")
# A thread that is nicer by this gets a third of the time of another one.
_NICENESS = 5


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


def check_device(device: str, folder: Path = _DEVICE_FILES) -> None:
    """Raise `ModelLoadError` unless `device` is a device of this machine. Loads no CUDA library.

    The driver makes `/dev/nvidiaN`. A container sees only its own devices, perhaps under a number
    above their index, so compare the count. WSL has another driver: accept its devices unchecked.
    """
    if device == "cpu":
        return
    match = re.fullmatch(r"cuda:(\d+)", device)
    if match is None:
        raise ModelLoadError(f"unknown device {device!r}: use 'cpu' or 'cuda:N'")
    if (folder / "dxg").exists():
        return
    count = cuda_devices(folder)
    index = int(match[1])
    if index < count:
        return
    found = "no NVIDIA GPU" if count == 0 else f"only cuda:0 to cuda:{count - 1}"
    message = f"device {device} was requested, but this machine has {found}: use --device cpu"
    if count == 0:
        message += ", or give the container its GPU (docker run --gpus)"
    raise ModelLoadError(message)


def cuda_devices(folder: Path = _DEVICE_FILES) -> int:
    """Return how many NVIDIA devices this process can open."""
    if not folder.is_dir():
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+", entry.name)) for entry in folder.iterdir())


def parse_cpus(text: str) -> frozenset[int]:
    """Return the CPU numbers in a list such as `0-7` or `0,2,4-6`, as taskset and numactl write it.

    Raises:
        ValueError: It is not such a list.
    """
    cpus: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} is not a list of CPUs: use for example 0-7 or 0,2,4-6")
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)


def pin_to(cpus: str) -> int:
    """Restrict this thread, and every thread it starts from now on, to these CPUs.

    Call it first in a process: threads that exist already keep their CPUs.

    Args:
        cpus: A list for `parse_cpus`; empty changes nothing.

    Returns:
        How many cores the process may use now.

    Raises:
        ValueError: It is not a list of CPUs, or the process may not use one of them.
    """
    if not cpus.strip():
        return usable_cores()
    requested = parse_cpus(cpus)
    if sys.platform != "linux":
        raise ValueError("only Linux restricts a process to CPUs")
    allowed = os.sched_getaffinity(0)
    if missing := sorted(requested - allowed):
        raise ValueError(
            f"CPU {missing[0]} is not among those this process may use: {_ranges(allowed)}"
        )
    os.sched_setaffinity(0, requested)
    return usable_cores()


def give_way() -> None:
    """Let this thread, and those that it starts from now on, wait for others that share its cores.

    For the threads that compute: they take long, and short answers should not wait for them. On a
    machine with idle cores it changes nothing.
    """
    if sys.platform == "linux":
        os.nice(_NICENESS)  # there, of one thread


def _ranges(cpus: Iterable[int]) -> str:
    """Format numbers as a list that `parse_cpus` reads."""
    spans: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if spans and spans[-1][1] == cpu - 1:
            spans[-1] = spans[-1][0], cpu
        else:
            spans.append((cpu, cpu))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def usable_cores() -> int:
    """Return how many cores this process may use, by its CPU mask and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _container_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _container_quota() -> float | None:
    """Return the cores that cgroup v2 grants; None without a limit."""
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # not Linux, cgroup v1, or "max"
