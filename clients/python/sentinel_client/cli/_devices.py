"""Which device each embedder of `sentinel up` gets."""

from __future__ import annotations

import os
import shutil
import subprocess

import click

_MAX_WORKERS = 64
_ASK_TIMEOUT_S = 10


class Workers(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A number of embedders, or `auto`: one for each GPU."""

    name = "number|auto"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number, or None for `auto`."""
        text = str(value)
        if text == "auto":
            return None
        if text.isdecimal() and 1 <= int(text) <= _MAX_WORKERS:
            return int(text)
        self.fail(f"{text!r} is neither auto nor a number from 1 to {_MAX_WORKERS}", param, ctx)


def devices_for(workers: int | None, device: str) -> list[str]:
    """Return one device for each embedder to start.

    Args:
        workers: How many; None for one on each GPU, or one on `device` where there is none.
        device: What each of a given number gets.
    """
    if workers is not None:
        return [device] * workers
    return [f"cuda:{number}" for number in range(gpu_count())] or [device]


def gpu_count() -> int:
    """Return how many GPUs a process started here would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run(
            [program, "--list-gpus"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
