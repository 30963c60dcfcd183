"""The models that have a short name: what each one is, and which commit of it is loaded.

`catalog.toml` lists them. A short name stands for a hub id, a commit and the checksums of files.
For an entry without a commit, the one of the first download is recorded and used from then on.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from embedder_server.models.runtimes.export_cache import sha256_of
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

_BYTES_PER_PARAMETER = 4  # the files hold float32
# A worker with CLIP B/32 holds 1.5 GB for 605 MB of weights: measured, see docs/benchmarks.md.
_MEMORY_PER_WEIGHTS = 2.5
_RECORD = "sentinel-revisions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model; the attributes are those of catalog.toml, which explains them."""

    name: str
    hub_id: str
    revision: str
    family: str
    dimensions: int
    parameters: int
    license: str
    commercial_use: bool = True
    languages: str
    language_tags: Sequence[str]
    extra: str
    recommended: bool = False
    size_mb: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_from: str = ""
    verified: str
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def download_mb(self) -> int:
        """Size of the download in MB: as published, or from the number of parameters."""
        return self.size_mb or self.parameters * _BYTES_PER_PARAMETER

    @property
    def memory_mb(self) -> int:
        """Memory of a worker on a CPU in MB, scaled from a measured model."""
        return round(self.parameters * _BYTES_PER_PARAMETER * _MEMORY_PER_WEIGHTS)


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Return all entries by short name, in the order of the file."""
    text = resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    return {name: CatalogEntry(name=name, **entry) for name, entry in tomllib.loads(text).items()}


def close_names(name: str) -> list[str]:
    """Return the short names that a person may have meant by `name`, the closest first."""
    return difflib.get_close_matches(name.lower(), list(catalog()), n=3, cutoff=0.5)


def entry_of(hub_id: str, revision: str) -> CatalogEntry | None:
    """Return the entry of a downloaded model; None if it has none, or is another commit."""
    for entry in catalog().values():
        if entry.hub_id == hub_id and revision_of(entry) in (revision, None):
            return entry
    return None


def languages_of(hub_id: str) -> tuple[str, ...]:
    """Return the languages of a hub model as BCP 47 tags; empty if it has no entry."""
    found = (entry.language_tags for entry in catalog().values() if entry.hub_id == hub_id)
    return tuple(next(found, ()))


def revision_of(entry: CatalogEntry) -> str | None:
    """Return the commit to load: that of the catalog, else the recorded one, else None."""
    return entry.revision or _recorded().get(entry.hub_id)


def record_revision(entry: CatalogEntry, revision: str) -> None:
    """Keep the commit that a download got, if the catalog names none.

    Raises:
        ModelLoadError: The folder of the record cannot be written.
    """
    if entry.revision or _recorded().get(entry.hub_id) == revision:
        return
    path = _record_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({**_recorded(), entry.hub_id: revision}, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        raise ModelLoadError(
            f"cannot record the revision of {entry.name} in {path} ({error.strerror}): free some "
            "space, or set HF_HOME to a folder that can be written"
        ) from error


class ChecksumError(ModelLoadError):
    """A file is not the one of the catalog.

    Attributes:
        file: Its path.
    """

    def __init__(self, entry: CatalogEntry, file: Path, found: str) -> None:
        super().__init__(
            f"{file} has the SHA-256 {found}, not the catalog's: it is damaged or was changed. "
            f"Run sentinel models pull {entry.name}, which downloads it again"
        )
        self.file = file


def check_files(entry: CatalogEntry, folder: Path) -> None:
    """Compare the files of a download with the checksums of the catalog.

    Raises:
        ChecksumError: A file has other content.
        ModelLoadError: A file is missing.
    """
    for name, expected in entry.sha256.items():
        file = folder / name
        if not file.is_file():
            raise ModelLoadError(f"{file} is missing: run sentinel models pull {entry.name}")
        found = sha256_of(file)
        if found != expected:
            raise ChecksumError(entry, file, found)


def say_license(entry: CatalogEntry) -> None:
    """Log a warning if the license does not allow commercial use."""
    if not entry.commercial_use:
        logger.warning(
            "the license of this model does not allow commercial use, or does not say so",
            extra={"model": entry.name, "license": entry.license},
        )


def _record_file() -> Path:
    """Return where commits are kept: beside the hub's downloads, on the same volume."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface") / _RECORD


def _recorded() -> dict[str, str]:
    path = _record_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"cannot read {path} ({error}): delete it") from error
    return {str(name): str(revision) for name, revision in content.items()}
