"""Load a dual encoder from a folder or the hub: its recipe, networks, runtime and vector space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from embedder_server.models.base import ModelChoice
from embedder_server.models.catalog import check_files, entry_of, record_revision, say_license
from embedder_server.models.hub import families
from embedder_server.models.hub.downloads import weights
from embedder_server.models.hub.families import ModelParts, Recipe
from embedder_server.models.hub.jina_clip import JinaNetworks
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.models.hub.transformers_networks import TransformersNetworks
from embedder_server.models.runtimes.base import Networks, TwoTowers, parse_runtime
from embedder_server.models.runtimes.export_cache import ExportCache, default_cache_dir
from embedder_server.models.runtimes.probe import Probe, make_probe
from embedder_server.models.runtimes.selection import ChosenRuntime, choose, open_explicit
from embedder_server.texts.tokenizer import TextTokenizer, canonical, read_tokenizer
from embedder_server.types import ModelInfo, ModelLoadError
from sentinel_core.memory import usable_bytes

logger = logging.getLogger(__name__)

_CLEANING: dict[str, Callable[[str], str]] = {
    "none": str,
    "lower": str.lower,
    "canonical": canonical,
}


class DualEncoder:
    """`EmbeddingModel` of a CLIP-like family: a tokenizer, an image recipe and two networks."""

    def __init__(
        self, recipe: Recipe, tokenizer: TextTokenizer, towers: TwoTowers, info: ModelInfo
    ) -> None:
        self.info = info
        self.tokenize = tokenizer.tokenize
        self.preprocess = recipe.image.pixels
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
    trusted = choice.trust_remote_code and "auto_map" in folder.config
    if trusted:
        recipe = families.read_remote_recipe(folder, choice.revision)
    else:
        recipe = families.read_recipe(folder)
    limit = choice.text_limit(recipe.max_text_tokens)
    parts = _parts(folder, recipe, choice)
    cache = ExportCache(choice.cache_dir or default_cache_dir())
    networks: Networks = (
        JinaNetworks(parts, cache)
        if recipe.family == "jina_clip"
        else TransformersNetworks(parts, cache, trust_remote_code=trusted)
    )

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
    info = _info(parts, chosen, networks.logits(), limit)
    logger.info("runtime", extra={"runtime": info.runtime, "why": info.runtime_choice})
    return DualEncoder(recipe, parts.tokenizer.cut_at(limit), chosen.towers, info)


def _parts(folder: ModelFolder, recipe: Recipe, choice: ModelChoice) -> ModelParts:
    tokenizer, file = read_tokenizer(folder.path, folder.read_json("tokenizer_config.json"))
    return ModelParts(
        folder=folder,
        recipe=recipe,
        tokenizer=TextTokenizer(tokenizer, recipe.max_text_tokens, _CLEANING[recipe.text_cleaning]),
        fingerprint=families.fingerprint(
            recipe, folder, _hashed_files(folder, choice.device, file)
        ),
        device=choice.device,
        threads=choice.threads,
    )


def _hashed_files(folder: ModelFolder, device: str, tokenizer_file: str) -> list[Path]:
    """Return weights and tokenizer: the files that the fingerprint covers.

    Raises:
        ModelLoadError: One is missing or cut off, or the weights do not fit into the memory.
    """
    files = weights(folder)
    size, usable = sum(file.stat().st_size for file in files), usable_bytes()
    if device == "cpu" and size > usable:
        raise ModelLoadError(
            f"the weights of {folder.name} have {size / 1e9:.1f} GB, and this machine or container "
            f"has {usable / 1e9:.1f} GB of memory: give it more, or choose a smaller model "
            "(`sentinel models`)"
        )
    extra = [folder.path / "merges.txt"] if tokenizer_file == "vocab.json" else []
    return [*files, folder.path / tokenizer_file, *extra]


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
    )
