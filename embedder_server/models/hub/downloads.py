"""Download the models of the catalog, and say which ones are here."""

from __future__ import annotations

from pathlib import Path

from embedder_server.models.catalog import (
    CatalogEntry,
    ChecksumError,
    check_files,
    record_revision,
    revision_of,
)
from embedder_server.models.hub.families import weight_files
from embedder_server.models.hub.jina_clip import onnx_files
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.onnx_folder import onnx_weights
from embedder_server.models.hub.open_clip_config import open_clip_weights
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.types import ModelLoadError


def pull(entry: CatalogEntry) -> ModelFolder:
    """Download a model, or the rest of one; check its files; record its commit.

    The hub's library shows the progress on stderr, and continues an interrupted download. A file
    that is not the catalog's is downloaded once more.

    Raises:
        ModelLoadError: The download fails, or a file is incomplete or not the one of the catalog.
    """
    folder = _download(entry)
    try:
        check_files(entry, folder.path)
    except ChecksumError as error:
        error.file.resolve().unlink()  # the link's target is what would be taken again
        error.file.unlink(missing_ok=True)
        folder = _download(entry)
        check_files(entry, folder.path)
    record_revision(entry, folder.revision)
    return folder


def _download(entry: CatalogEntry) -> ModelFolder:
    folder = find_model(entry.hub_id, revision_of(entry))
    weights(folder)
    return folder


def find_downloaded(entry: CatalogEntry) -> ModelFolder | None:
    """Return the folder of a complete download; None if something is missing."""
    try:
        folder = find_model(entry.hub_id, revision_of(entry), offline=True)
        weights(folder)
    except ModelLoadError:
        return None
    return folder


def weights(folder: ModelFolder) -> list[Path]:
    """Return the files that hold the networks, each checked to be complete.

    Raises:
        ModelLoadError: One is missing or cut off.
    """
    if folder.layout is Layout.OPEN_CLIP:
        return [open_clip_weights(folder)]
    if folder.layout in (Layout.IMMICH, Layout.ONNX):
        return onnx_weights(folder)
    if folder.model_type != "jina_clip":
        return weight_files(folder)
    files = list(onnx_files(folder))
    return [*files, *(data for f in files if (data := f.with_name(f"{f.name}_data")).is_file())]
