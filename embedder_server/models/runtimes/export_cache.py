"""Exported networks on disk, made once and proven intact each time they are used.

An entry is a folder named after what it was made of. It appears under its name only when it is
complete, by a rename; its manifest holds every file's SHA-256. Several workers may start at once:
one makes the entry, the others wait for it. An entry that does not match its manifest is made anew.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_server.models.hub.families import sha256_of
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"

# Writes the entry's files into a folder and returns facts to keep beside them.
Build = Callable[[Path], dict[str, Any]]


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/sentinel`, by default `~/.cache/sentinel`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sentinel"


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete, proven entry.

    Attributes:
        path: Its folder.
        facts: What its builder returned.
    """

    path: Path
    facts: dict[str, Any]


class ExportCache:
    """Entries below one folder. Safe for any number of processes.

    Args:
        root: Made if it is not there.

    Raises:
        ModelLoadError: It cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with _disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)

    def entry(self, key: str, build: Build) -> Entry:
        """Return the entry of `key`, built if it is missing or not intact.

        Raises:
            ModelLoadError: It can be neither read nor built.
        """
        folder = self._root / key
        if (found := _read(folder)) is not None:
            return found
        with _disk_errors(self._root), _locked(self._root / f"{key}.lock"):
            if (found := _read(folder)) is not None:  # another worker was faster
                return found
            if folder.exists():
                logger.warning("the export cache is damaged; exporting again", extra={"key": key})
                shutil.rmtree(folder)
            return self._build(folder, build)

    def read_note(self, name: str) -> dict[str, Any] | None:
        """Return what `write_note` kept under `name`; None if nothing, or nothing readable."""
        try:
            note = json.loads((self._root / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def write_note(self, name: str, note: dict[str, Any]) -> None:
        """Keep a small fact; the last writer wins. Losing one costs time, nothing else."""
        try:
            handle, draft = tempfile.mkstemp(dir=self._root, prefix=".note-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(note, file, indent=1)
            Path(draft).replace(self._root / f"{name}.json")
        except OSError as error:
            logger.warning("cannot write into the export cache", extra={"reason": str(error)})

    def _build(self, folder: Path, build: Build) -> Entry:
        draft = Path(tempfile.mkdtemp(dir=self._root, prefix=".draft-"))
        try:
            facts = build(draft)
            files = sorted(p for p in draft.rglob("*") if p.is_file())
            manifest = {
                "files": {str(p.relative_to(draft)): sha256_of(p) for p in files},
                "facts": facts,
            }
            (draft / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return Entry(folder, facts)


def _read(folder: Path) -> Entry | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            if sha256_of(folder / name) != digest:
                return None
        return Entry(folder, dict(manifest["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        # Released by the system when the process ends, however it ends.
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        msg = f"the export cache {root} cannot be used ({exc}): free space or set --cache-dir"
        raise ModelLoadError(msg) from exc
