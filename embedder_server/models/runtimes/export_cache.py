"""Keep exported networks on disk: made once, and checked each time they are used.

An export is a folder named after what it was made from. A rename gives it that name when it is
complete, and its manifest holds the SHA-256 of every file. Several workers may start at once: one
makes the export, the others wait. An export that does not match its manifest is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from embedder_server.types import Modality, ModelLoadError

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"

# Writes an export's files into a folder and returns facts to keep with them.
Build = Callable[[Path], dict[str, Any]]


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/sentinel`, by default `~/.cache/sentinel`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sentinel"


@dataclass(frozen=True, slots=True)
class Export:
    """A complete, checked export: its folder, and the facts that its builder returned."""

    path: Path
    facts: dict[str, Any]

    def file(self, modality: Modality) -> Path:
        """Return where the network of a modality is."""
        return network_file(self.path, modality)


def network_file(folder: Path, modality: Modality) -> Path:
    """Return where an export's folder holds the network of a modality."""
    return folder / f"{modality}.onnx"


def sha256_of(file: Path) -> str:
    """Return the hex SHA-256 of a file's content. A file that stays the same is read once."""
    status = file.stat()
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ExportCache:
    """Exports in one folder. Safe for any number of processes.

    Args:
        root: Created if it is missing.

    Raises:
        ModelLoadError: The folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with _disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)

    def get_or_build(self, key: str, build: Build) -> Export:
        """Return the export of `key`; build it if it is missing or damaged.

        Raises:
            ModelLoadError: It can be neither read nor built.
        """
        folder = self._root / key
        if (found := _read(folder)) is not None:
            return found
        with _disk_errors(self._root), (self._root / f"{key}.lock").open("a") as lock:
            # The system releases the lock when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (found := _read(folder)) is not None:  # another worker was faster
                return found
            if folder.exists():
                logger.warning("the export cache is damaged; exporting again", extra={"key": key})
                shutil.rmtree(folder)
            return self._build(folder, build)

    def int8_copies(self, key: str, sources: Mapping[Modality, Path]) -> Export:
        """Return copies of ONNX files with int8 weights; make them if they are missing."""

        def build(target: Path) -> dict[str, Any]:
            from embedder_server.models.runtimes.int8_weights import store_weights_as_int8

            for modality, source in sources.items():
                logger.info("storing weights as int8, once", extra={"modality": str(modality)})
                store_weights_as_int8(source, network_file(target, modality))
            return {}

        return self.get_or_build(f"{key}-int8-weights", build)

    def engines(self) -> Path:
        """Return where TensorRT may keep what it builds; it makes the folder itself."""
        return self._root / "tensorrt"

    def read_note(self, name: str) -> dict[str, Any] | None:
        """Return what `write_note` stored under `name`; None if it is missing or unreadable."""
        try:
            note = json.loads((self._root / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def write_note(self, name: str, note: dict[str, Any]) -> None:
        """Store a small fact. The last writer wins; losing one only costs time."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self._root, prefix=".note-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(note, file, indent=1)
            Path(temporary).replace(self._root / f"{name}.json")
        except OSError as error:
            logger.warning("cannot write into the export cache", extra={"reason": str(error)})

    def _build(self, folder: Path, build: Build) -> Export:
        temporary = Path(tempfile.mkdtemp(dir=self._root, prefix=".draft-"))
        try:
            facts = build(temporary)
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            manifest = {
                "files": {str(p.relative_to(temporary)): sha256_of(p) for p in files},
                "facts": facts,
            }
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            temporary.chmod(0o755)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Export(folder, facts)


def _read(folder: Path) -> Export | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            if sha256_of(folder / name) != digest:
                return None
        return Export(folder, dict(manifest["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ModelLoadError(
            f"the export cache {root} cannot be used ({exc}): free space or set --cache-dir"
        ) from exc
