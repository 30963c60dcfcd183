"""A folder of files with a bound on their bytes; those that were not used for longest go first."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{16,64}")


def cache_folder() -> Path:
    """Return a folder for files that can be deleted at any time, and which this user can write."""
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "sentinel" / "app"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # for example a container with a read-only file system
        return Path(tempfile.mkdtemp(prefix="sentinel-app-"))
    return folder


class BoundedFolder:
    """Files by hexadecimal names. Thread-safe; its methods block. One process uses it at a time."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [(path.stat(), path.name) for path in folder.iterdir() if path.is_file()]
        found.sort(key=lambda pair: pair[0].st_mtime)
        # Sizes by name, the one that was not used for longest first.
        self._sizes = {name: status.st_size for status, name in found}
        self._total = sum(self._sizes.values())
        with self._lock:
            self._shrink()

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none of this name."""
        if not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        with self._lock:
            if name in self._sizes:
                self._sizes[name] = self._sizes.pop(name)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Keep a file; do nothing if the disk is full or the file would be too large."""
        if not _NAME.fullmatch(name) or len(data) > self._max_bytes:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(data)
            Path(file.name).replace(self._folder / name)
        except OSError:
            with suppress(OSError, UnboundLocalError):
                Path(file.name).unlink()
            return
        with self._lock:
            self._total += len(data) - self._sizes.pop(name, 0)
            self._sizes[name] = len(data)
            self._shrink()

    def remove(self, beginnings: set[str]) -> None:
        """Remove the files whose names begin with one of these, which are equally long."""
        length = len(next(iter(beginnings), ""))
        with self._lock:
            for name in [one for one in self._sizes if one[:length] in beginnings]:
                self._total -= self._sizes.pop(name)
                with suppress(OSError):
                    (self._folder / name).unlink()

    def _shrink(self) -> None:
        while self._total > self._max_bytes:
            name = next(iter(self._sizes))
            self._total -= self._sizes.pop(name)
            (self._folder / name).unlink(missing_ok=True)
