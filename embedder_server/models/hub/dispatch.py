"""Choose by the layout of a model's folder who reads it, and who runs its networks."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from embedder_server.models.hub import families
from embedder_server.models.hub.families import ModelParts, Recipe
from embedder_server.models.hub.jina_clip import JinaNetworks
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.onnx_contract import contracts_of
from embedder_server.models.hub.onnx_folder import OnnxFolderNetworks
from embedder_server.models.hub.open_clip_config import read_open_clip, read_open_clip_tokenizer
from embedder_server.models.hub.open_clip_networks import OpenClipNetworks
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.hub.transformers_networks import TransformersNetworks
from embedder_server.models.runtimes.base import Networks
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.texts.tokenizer import read_tokenizer

_OPEN_CLIP = (Layout.OPEN_CLIP, Layout.IMMICH)


def read_recipe(folder: ModelFolder) -> Recipe:
    """Read the recipe of a model folder.

    Raises:
        ModelLoadError: The layout or family is not supported, or a file is missing or incomplete.
    """
    if folder.layout in _OPEN_CLIP:
        return read_open_clip(folder)
    recipe = families.read_recipe(folder)
    if folder.layout is Layout.ONNX:
        contracts_of(folder)
    return recipe


def tokenizer_of(folder: ModelFolder) -> tuple[Tokenizer, list[Path]]:
    """Return the tokenizer of a model folder, and the files that decide its ids.

    Raises:
        ModelLoadError: The folder has no tokenizer that we can read.
    """
    if folder.layout in _OPEN_CLIP:
        tokenizer, file = read_open_clip_tokenizer(folder)
    else:
        tokenizer, name = read_tokenizer(folder.path, folder.read_json("tokenizer_config.json"))
        file = folder.path / name
    merges = [file.with_name("merges.txt")] if file.name == "vocab.json" else []
    return tokenizer, [file, *merges]


def networks_of(parts: ModelParts, cache: ExportCache, *, trust_remote_code: bool) -> Networks:
    """Return the networks of a model, not loaded yet."""
    if parts.folder.layout is Layout.OPEN_CLIP:
        return OpenClipNetworks(parts, cache)
    if parts.folder.layout in (Layout.IMMICH, Layout.ONNX):
        return OnnxFolderNetworks(parts, cache)
    if parts.recipe.family == "jina_clip":
        return JinaNetworks(parts, cache)
    return TransformersNetworks(parts, cache, trust_remote_code=trust_remote_code)
