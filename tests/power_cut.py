"""What a disk has after a power cut: only what was forced to it with `os.fsync`.

While it watches, it notes each synced file's bytes and each synced folder's names. A real disk may
have more, but nobody may rely on that.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest


class PowerCut:
    """Watches a folder; use it before anything is written there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._open: dict[int, int] = {}  # so that no number of a deleted file is used again
        self._fsync = os.fsync
        self._is_closed = False
        # A thread must not replace what another one saw later.
        self._looking = threading.Lock()
        monkeypatch.setattr(os, "fsync", self._synced)

    def _synced(self, descriptor: int) -> None:
        self._fsync(descriptor)
        with self._looking:
            if not self._is_closed:
                self._look(descriptor)

    def _look(self, descriptor: int) -> None:
        facts = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if facts.st_ino not in self._open:
            self._open[facts.st_ino] = os.dup(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            with os.scandir(path) as entries:
                self._folders[facts.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._files[facts.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def trust(self) -> None:
        """Take all that is in the folder now as forced to disk."""
        for path in [self._folder, *self._folder.rglob("*")]:
            descriptor = os.open(path, os.O_RDONLY)
            self._synced(descriptor)
            os.close(descriptor)

    def rebuild(self, copy: Path) -> None:
        """Make a folder with what is on disk."""
        self._rebuild(self._folder.stat().st_ino, copy)

    def _rebuild(self, number: int, copy: Path) -> None:
        copy.mkdir()
        for name, child in self._folders.get(number, {}).items():
            if child in self._folders:
                self._rebuild(child, copy / name)
            elif child in self._files:
                (copy / name).write_bytes(self._files[child])
            # A name whose content was not synced may have any; here it is gone.

    def close(self) -> None:
        """Watch no longer."""
        self._is_closed = True
        for descriptor in self._open.values():
            os.close(descriptor)
