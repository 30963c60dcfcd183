"""Whether the CUDA device that was asked for exists, without loading any CUDA library."""

from __future__ import annotations

import re
from pathlib import Path

from embedder_server.types import ModelLoadError

_DEVICE_FILES = Path("/dev")


def cuda_devices(folder: Path = _DEVICE_FILES) -> int:
    """Return how many NVIDIA devices this process can open."""
    if not folder.is_dir():
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+", entry.name)) for entry in folder.iterdir())


def check_device(device: str, folder: Path = _DEVICE_FILES) -> None:
    """Raise `ModelLoadError` for what is no device, or not one of this machine.

    The driver makes `/dev/nvidiaN`, and a container is given only its own, perhaps under a number
    above its index: so it is the count that is compared. WSL has another driver and is let through.
    """
    if device == "cpu":
        return
    match = re.fullmatch(r"cuda:(\d+)", device)
    if match is None:
        msg = f"unknown device {device!r}: use 'cpu' or 'cuda:N'"
        raise ModelLoadError(msg)
    if (folder / "dxg").exists():
        return
    count = cuda_devices(folder)
    index = int(match[1])
    if index < count:
        return
    found = "no NVIDIA GPU" if count == 0 else f"only cuda:0 to cuda:{count - 1}"
    msg = f"device {device} asked for, but this machine has {found}: use --device cpu"
    if count == 0:
        msg += ", or give the container its GPU (docker run --gpus)"
    raise ModelLoadError(msg)
