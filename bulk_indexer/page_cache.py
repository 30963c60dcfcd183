"""Read files into the operating system's memory, before a program with a time limit needs them."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_BLOCK_BYTES = 1024 * 1024


def read_ahead(folder: Path, *, without: Collection[str] = ()) -> int:
    """Read every file under `folder`; return the number of bytes.

    Args:
        folder: What a program loads at its start.
        without: Names of folders directly under `folder` that it does not need.
    """
    total = 0
    for root, folders, files in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name not in without]
        for name in files:
            # A file that cannot be read here is read by the program, or is none of it.
            with suppress(OSError), open(os.path.join(root, name), "rb", buffering=0) as file:
                while block := file.read(_BLOCK_BYTES):
                    total += len(block)
    return total
