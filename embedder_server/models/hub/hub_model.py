"""Loads a model from a folder or the hub: which family, which runtime, which vector space."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedder_server.models.base import text_limit
from embedder_server.models.hub import families
from embedder_server.models.hub.dual_encoder import DualEncoder
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.jina_clip import JinaNetworks, onnx_files
from embedder_server.models.hub.remote_code import read_remote_recipe
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.models.runtimes.base import parse_runtime
from embedder_server.models.runtimes.export_cache import ExportCache, default_cache_dir
from embedder_server.models.runtimes.networks import Networks, TransformersNetworks
from embedder_server.models.runtimes.selection import Choice, choose, make_probe, open_explicit
from embedder_server.texts.tokenizer import TextTokenizer, canonical, read_tokenizer
from embedder_server.types import ModelInfo

logger = logging.getLogger(__name__)

_CLEANING: dict[str, Callable[[str], str]] = {
    "none": str,
    "lower": str.lower,
    "canonical": canonical,
}


def load_hub_model(
    spec: str,
    device: str,
    threads: int,
    *,
    revision: str | None = None,
    runtime: str = "auto",
    cache_dir: Path | None = None,
    trust_remote_code: bool = False,
    max_text_tokens: int = 0,
) -> DualEncoder:
    """Return the model of a folder or a hub id, loaded and ready to serve.

    Args:
        spec: A folder, or a hub id such as `jinaai/jina-clip-v1`.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        revision: Commit, tag or branch of the hub.
        runtime: `auto`, or a name from `runtimes.base.runtime_names()`.
        cache_dir: Where exports are kept; None: `default_cache_dir()`.
        trust_remote_code: Whether code that comes with the model may run.
        max_text_tokens: Where longer texts are cut; 0: at the model's own limit.

    Raises:
        ModelLoadError: It cannot be served; the message says what to do.
    """
    wanted = None if runtime == "auto" else parse_runtime(runtime)
    folder = find_model(spec, revision, with_code=trust_remote_code)
    trusted = trust_remote_code and "auto_map" in folder.config
    recipe = read_remote_recipe(folder, revision) if trusted else families.read_recipe(folder)
    limit = text_limit(max_text_tokens, recipe.max_text_tokens)
    tokenizer = _tokenizer(folder, recipe)
    fingerprint = families.fingerprint(recipe, folder, _files(folder, recipe))
    cache = ExportCache(cache_dir or default_cache_dir())
    networks = _networks(
        folder, recipe, tokenizer, fingerprint, cache, where=(device, threads), trust=trusted
    )

    def probe() -> Any:
        return make_probe(tokenizer.tokenize, recipe.image.pixels, recipe.image.side)

    if wanted is None:
        choice = choose(networks, probe, cache, fingerprint, device=device, threads=threads)
    else:
        choice = open_explicit(networks, wanted, probe, device)
    info = _info(
        folder, recipe, choice, fingerprint=fingerprint, logits=networks.logits(), device=device
    )
    if limit < recipe.max_text_tokens:
        info = _with_limit(info, limit)
    logger.info("runtime", extra={"runtime": info.runtime, "why": info.runtime_choice})
    return DualEncoder(recipe, tokenizer.cut_at(limit), choice.towers, info)


def _networks(
    folder: ModelFolder,
    recipe: Recipe,
    tokenizer: TextTokenizer,
    fingerprint: str,
    cache: ExportCache,
    *,
    where: tuple[str, int],
    trust: bool,
) -> Networks:
    device, threads = where
    if recipe.family == "jina_clip":
        return JinaNetworks(
            folder, recipe, tokenizer, fingerprint, cache, device=device, threads=threads
        )
    return TransformersNetworks(
        folder,
        recipe,
        fingerprint,
        cache,
        device=device,
        threads=threads,
        trust_remote_code=trust,
    )


def _info(
    folder: ModelFolder,
    recipe: Recipe,
    choice: Choice,
    *,
    fingerprint: str,
    logits: tuple[float, float],
    device: str,
) -> ModelInfo:
    if choice.runtime.precision == "int8":
        # Its vectors are off by more than those of two float runtimes: another space.
        fingerprint = families.derived_fingerprint(fingerprint, "int8")
    return ModelInfo(
        name=folder.name,
        revision=folder.revision or "local",
        fingerprint=fingerprint,
        dimensions=recipe.dimensions,
        max_text_tokens=recipe.max_text_tokens,
        image_size=recipe.image.side,
        logit_scale=logits[0],
        runtime=choice.runtime.library,
        device=device,
        dtype=choice.runtime.dtype,
        supported_dimensions=recipe.supported_dimensions,
        logit_bias=logits[1],
        sigmoid=recipe.sigmoid,
        runtime_choice=choice.reason,
    )


def _with_limit(info: ModelInfo, limit: int) -> ModelInfo:
    # Not a part of the recipe: networks and their exports stay the same, only long texts' vectors
    # do not.
    fingerprint = families.derived_fingerprint(info.fingerprint, f"texts cut at {limit}")
    return dataclasses.replace(info, fingerprint=fingerprint, max_text_tokens=limit)


def _tokenizer(folder: ModelFolder, recipe: Recipe) -> TextTokenizer:
    tokenizer, _ = read_tokenizer(folder.path, folder.read_json("tokenizer_config.json"))
    return TextTokenizer(tokenizer, recipe.max_text_tokens, _CLEANING[recipe.text_cleaning])


def _files(folder: ModelFolder, recipe: Recipe) -> list[Path]:
    """Return weights and tokenizer, all that the fingerprint is made of."""
    if recipe.family == "jina_clip":
        weights = list(onnx_files(folder))
        weights += [data for f in weights if (data := f.with_name(f"{f.name}_data")).is_file()]
    else:
        weights = families.weight_files(folder)
    _, name = read_tokenizer(folder.path, folder.read_json("tokenizer_config.json"))
    extra = [folder.path / "merges.txt"] if name == "vocab.json" else []
    return [*weights, folder.path / name, *extra]
