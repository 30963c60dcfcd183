"""What tests of the contract share: the tools, and the contract as a caller receives it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts import protos

BIN = str(Path(sys.executable).parent)


def tool(name: str) -> str:
    """The path of a development tool: beside this Python, or else on the PATH."""
    return shutil.which(name, path=BIN) or name


def run(
    *command: object, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is text."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def unpacked(folder: Path) -> Path:
    """What `make protos-dist` packs, unpacked: the part of a clone that other languages need."""
    shutil.unpack_archive(protos.dist(folder), folder)  # tarfile's filters came with Python 3.11.4
    return folder / f"sentinel-protos-{protos.VERSION}"


def sources(clone: Path, folder: str = "sentinel") -> list[str]:
    """Our proto files, as imports name them."""
    root = clone / "protos"
    return sorted(str(path.relative_to(root)) for path in root.glob(f"{folder}/**/*.proto"))
