"""Load a dual encoder from a folder or the hub: its recipe, networks, runtime and vector space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedder_server.models.base import ModelChoice
from embedder_server.models.catalog import (
    check_files,
    entry_of,
    languages_of,
    record_revision,
    say_license,
)
from embedder_server.models.hub import families
from embedder_server.models.hub.cleaning import cleaning
from embedder_server.models.hub.dispatch import networks_of, read_recipe, tokenizer_of
from embedder_server.models.hub.downloads import weights
from embedder_server.models.hub.families import ModelParts, Recipe
from embedder_server.models.hub.prompts import PromptedTokenizer, read_prompts
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.models.hub.vlm import FAMILIES as VLM_FAMILIES
from embedder_server.models.hub.vlm import load_vlm
from embedder_server.models.hub.vlm_tokens import SequenceReader
from embedder_server.models.runtimes.base import TwoTowers, parse_runtime
from embedder_server.models.runtimes.export_cache import ExportCache, default_cache_dir
from embedder_server.models.runtimes.probe import Probe, make_probe
from embedder_server.models.runtimes.selection import ChosenRuntime, choose, open_explicit
from embedder_server.texts.tokenizer import TextTokenizer
from embedder_server.types import ModelInfo, ModelLoadError
from sentinel_core.memory import usable_bytes

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

_CHINESE = ("zh",)


class DualEncoder:
    """`EmbeddingModel` of two networks, or of one that reads texts and images."""

    def __init__(
        self,
        preprocess: Callable[[Image.Image], npt.NDArray[np.generic]],
        reader: PromptedTokenizer | SequenceReader,
        towers: TwoTowers,
        info: ModelInfo,
    ) -> None:
        self.info = info
        self.tokenize = reader.tokenize
        self.image_input = reader.image_input
        self.preprocess = preprocess
        self.embed_texts = towers.embed_texts
        self.embed_images = towers.embed_images
        self.close = towers.close
        self._towers = towers


def load_hub_model(choice: ModelChoice) -> DualEncoder:
    """Load the model of a folder or a hub id.

    Raises:
        ModelLoadError: The model cannot be served. The message says what to do.
    """
    explicit = None if choice.runtime == "auto" else parse_runtime(choice.runtime)
    folder = find_model(choice.name, choice.revision, with_code=choice.trust_remote_code)
    if entry := entry_of(folder.name, folder.revision):
        check_files(entry, folder.path)
        record_revision(entry, folder.revision)
        say_license(entry)
    if folder.model_type in VLM_FAMILIES:
        # In bfloat16 they may fit where the files do not: the networks know.
        files = [*weights(folder), folder.path / "tokenizer.json"]
        vlm = load_vlm(folder, choice, explicit, files)
        return DualEncoder(vlm.preprocess, vlm.reader, vlm.chosen.towers, vlm.info)
    choice.check_fixed_images()
    trusted = choice.trust_remote_code and "auto_map" in folder.config
    if trusted:
        recipe = families.read_remote_recipe(folder, choice.revision)
    else:
        recipe = read_recipe(folder)
    limit = choice.text_limit(recipe.max_text_tokens)
    parts = _parts(folder, recipe, choice)
    prompts = read_prompts(folder)
    prompts.check_room(parts.tokenizer, limit)
    cache = ExportCache(choice.cache_dir or default_cache_dir())
    networks = networks_of(parts, cache, trust_remote_code=trusted)

    def probe() -> Probe:
        return make_probe(parts.tokenizer.tokenize, recipe.image.pixels, recipe.image.side)

    if explicit is None:
        chosen = choose(
            networks,
            probe,
            cache,
            parts.fingerprint,
            device=choice.device,
            threads=choice.threads,
        )
    else:
        chosen = open_explicit(networks, explicit, probe, choice.device)
    info = prompts.described(_info(parts, chosen, networks.logits(), limit))
    logger.info("runtime", extra={"runtime": info.runtime, "why": info.runtime_choice})
    reader = PromptedTokenizer(parts.tokenizer.cut_at(limit), prompts)
    return DualEncoder(recipe.image.pixels, reader, chosen.towers, info)


def _parts(folder: ModelFolder, recipe: Recipe, choice: ModelChoice) -> ModelParts:
    tokenizer, files = tokenizer_of(folder)
    return ModelParts(
        folder=folder,
        recipe=recipe,
        tokenizer=TextTokenizer(tokenizer, recipe.max_text_tokens, cleaning(recipe.text_cleaning)),
        fingerprint=families.fingerprint(
            recipe, folder, [*_weights(folder, choice.device), *files]
        ),
        device=choice.device,
        threads=choice.threads,
    )


def _weights(folder: ModelFolder, device: str) -> list[Path]:
    """Return the files that hold the networks.

    Raises:
        ModelLoadError: One is missing or cut off, or they do not fit into the memory.
    """
    files = weights(folder)
    size, usable = sum(file.stat().st_size for file in files), usable_bytes()
    if device == "cpu" and size > usable:
        raise ModelLoadError(
            f"the weights of {folder.name} have {size / 1e9:.1f} GB, and this machine or container "
            f"has {usable / 1e9:.1f} GB of memory: give it more, or choose a smaller model "
            "(`sentinel models`)"
        )
    return files


def _info(
    parts: ModelParts, chosen: ChosenRuntime, logits: tuple[float, float], limit: int
) -> ModelInfo:
    recipe, fingerprint = parts.recipe, parts.fingerprint
    if chosen.runtime.precision == "int8":
        # int8 vectors differ more than those of two float runtimes: another vector space.
        fingerprint = families.derived_fingerprint(fingerprint, "int8 weights")
    if limit < recipe.max_text_tokens:
        # Not in the recipe: networks and exports stay the same, only vectors of long texts change.
        fingerprint = families.derived_fingerprint(fingerprint, f"texts cut at {limit}")
    return ModelInfo(
        name=parts.folder.name,
        revision=parts.folder.revision or "local",
        fingerprint=fingerprint,
        dimensions=recipe.dimensions,
        max_text_tokens=limit,
        image_size=recipe.image.side,
        logit_scale=logits[0],
        runtime=chosen.runtime.library,
        device=parts.device,
        dtype=chosen.runtime.dtype,
        supported_dimensions=recipe.supported_dimensions,
        logit_bias=logits[1],
        sigmoid=recipe.sigmoid,
        runtime_choice=chosen.reason,
        languages=_CHINESE if recipe.family == "chinese_clip" else languages_of(parts.folder.name),
    )
