"""Run a server in a memory control group, as its container does: the kernel kills it above a limit.

`python -m tests.control_group FLAGS` joins the group in GROUP_FOLDER and becomes GROUP_MODULE, so
that everything from its first import on counts. A group is made below that of the tests, which
needs a kernel and rights that allow it: root, and version 1, or version 2 where `memory` is handed
on (`systemd-run --scope -p Delegate=yes`).
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import processes
from tests.waiting import until

_ROOT = Path("/sys/fs/cgroup")
# Limit, high-water mark and events, of versions 1 and 2.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.peak", "memory.events"),
}


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group of processes that together have so much memory, and no more."""

    folder: Path
    version: int

    @property
    def most(self) -> int:
        """The most bytes that its processes have had at once, with files that they read."""
        return int((self.folder / _FILES[self.version][1]).read_text())

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        lines = (self.folder / _FILES[self.version][2]).read_text().splitlines()
        [line] = [line for line in lines if line.startswith("oom_kill ")]
        return int(line.split()[1])

    @contextmanager
    def running(self, folder: Path, module: str, *flags: str) -> Iterator[processes.Server]:
        """Run a server in this group for the length of a block."""
        variables = {"GROUP_FOLDER": str(self.folder), "GROUP_MODULE": module}
        with processes.running(
            folder, "tests.control_group", *flags, environment=variables, forked=False
        ) as server:
            yield server


@contextmanager
def limited(size: int) -> Iterator[ControlGroup]:
    """Make a group of `size` bytes; skip the test where that is not possible."""
    version, parent = _own()
    folder = parent / f"sentinel-test-{os.getpid()}-{size}"
    try:
        folder.mkdir()
        (folder / _FILES[version][0]).write_text(str(size))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield ControlGroup(folder, version)
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def _own() -> tuple[int, Path]:
    """Return the version and the folder of the group that this process is in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    for controllers, name in groups.items():
        if "memory" in controllers.split(","):
            return 1, _ROOT / "memory" / name.lstrip("/")
    return 2, _ROOT / groups.get("", "/").lstrip("/")


def main() -> None:
    """Join the group and become the server."""
    Path(os.environ["GROUP_FOLDER"], "cgroup.procs").write_text(str(os.getpid()))
    runpy.run_module(os.environ["GROUP_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
