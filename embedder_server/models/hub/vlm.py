"""Load a vision-language model that embeds: one network reads texts, images, and both together.

A family is a module with what its files do not say. Everything that decides a vector besides the
weights is in `VlmRecipe`, and so in the fingerprint: also the rendered frames and the budget of
image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import embedding_gemma2, families, qwen3_vl
from embedder_server.models.hub.prompts import read_prompts
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.hub.vlm_images import TokenBudget
from embedder_server.models.hub.vlm_networks import VlmNetworks
from embedder_server.models.hub.vlm_tokens import Frames, SequenceReader
from embedder_server.models.runtimes.base import Runtime
from embedder_server.models.runtimes.export_cache import ExportCache, default_cache_dir
from embedder_server.models.runtimes.probe import Probe, make_probe
from embedder_server.models.runtimes.selection import ChosenRuntime, choose, open_explicit
from embedder_server.texts.tokenizer import read_tokenizer
from embedder_server.types import ModelInfo, ModelLoadError
from sentinel_core.vectors import Role

FAMILIES: dict[str, ModuleType] = {
    "embedding_gemma2": embedding_gemma2,
    "qwen3_vl": qwen3_vl,
}
# The runtimes are compared with pictures of this side, not with the largest ones.
_PROBE_SIDE = 256
_RUNTIMES = (Runtime("torch"), Runtime("torch", "bf16"))


@dataclass(frozen=True, slots=True)
class VlmRecipe:
    """How one model reads texts and images. `mean` to `scale` are as in `ImageRecipe`."""

    family: str
    dimensions: int
    supported_dimensions: tuple[int, ...]
    max_text_tokens: int  # of a whole sequence, with its image
    pad_id: int
    frames: dict[Role, Frames]
    budget: TokenBudget
    patch: int  # side of what the vision network reads at once, in pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


@dataclass(frozen=True, slots=True)
class LoadedVlm:
    """All that a `DualEncoder` is made of."""

    preprocess: Callable[..., Any]
    reader: SequenceReader
    chosen: ChosenRuntime
    info: ModelInfo


def load_vlm(
    folder: ModelFolder, choice: ModelChoice, explicit: Runtime | None, files: Sequence[Path]
) -> LoadedVlm:
    """Load a vision-language model.

    Args:
        folder: Its files; `FAMILIES` has its architecture.
        choice: How to run it.
        explicit: The runtime that somebody chose; None: compare them.
        files: Weights and tokenizer, which are part of the fingerprint.

    Raises:
        ModelLoadError: It cannot be served. The message says what to do.
    """
    _check_runtime(explicit)
    family = FAMILIES[folder.model_type]
    recipe = _read_recipe(family, folder, choice)
    limit = choice.text_limit(recipe.max_text_tokens)
    reader = _reader(family, folder, recipe)
    if (least := reader.longest_image()) > limit:
        raise ModelLoadError(
            f"--max-text-tokens {limit} leaves no room for an image: it takes {least} tokens; "
            "raise it, or lower --max-image-tokens"
        )
    fingerprint = families.fingerprint(recipe, folder, files)
    networks = VlmNetworks(
        folder,
        recipe,
        family.forward,
        config=family.CONFIG,
        device=choice.device,
        threads=choice.threads,
    )

    def probe() -> Probe:
        return _probe(reader, recipe)

    if explicit is None:
        cache = ExportCache(choice.cache_dir or default_cache_dir())
        chosen = choose(
            networks, probe, cache, fingerprint, device=choice.device, threads=choice.threads
        )
    else:
        chosen = open_explicit(networks, explicit, probe, choice.device)
    if limit < recipe.max_text_tokens:
        fingerprint = families.derived_fingerprint(fingerprint, f"texts cut at {limit}")
    info = _info(folder, recipe, choice, chosen, fingerprint)
    return LoadedVlm(
        recipe.budget.pixels,
        reader.cut_at(limit),
        chosen,
        replace(info, max_text_tokens=limit),
    )


def _check_runtime(explicit: Runtime | None) -> None:
    if explicit is not None and explicit not in _RUNTIMES:
        raise ModelLoadError(
            f"a vision-language model runs on --runtime torch or torch-bf16, not {explicit}: the "
            "range of float16 is too small for it, and it is not exported"
        )


def _read_recipe(family: ModuleType, folder: ModelFolder, choice: ModelChoice) -> VlmRecipe:
    pixels = folder.preprocessor()
    try:
        dimensions = family.read_dimensions(folder)
        budget = family.read_budget(folder, pixels)
        patch = int(folder.config["vision_config"]["patch_size"])
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelLoadError(
            f"{folder.path}/config.json lacks what a vision-language model needs: {exc!r}"
        ) from exc
    if most := choice.max_image_tokens:
        family.check_image_tokens(most)
        budget = replace(budget, most=most)
    normalised = pixels.get("do_normalize", True)
    shorter = {size for size in family.DIMENSIONS if size <= dimensions}
    return VlmRecipe(
        family=folder.model_type,
        dimensions=dimensions,
        supported_dimensions=tuple(sorted(shorter | {dimensions}, reverse=True)),
        max_text_tokens=family.MAX_TOKENS,
        pad_id=int(folder.config["text_config"].get("pad_token_id") or 0),
        frames=family.read_frames(folder, read_prompts(folder, family.PROMPTS)),
        budget=budget,
        patch=patch,
        mean=tuple(pixels.get("image_mean", family.MEAN)) if normalised else (0.0, 0.0, 0.0),
        std=tuple(pixels.get("image_std", family.STD)) if normalised else (1.0, 1.0, 1.0),
        scale=float(pixels.get("rescale_factor", 1 / 255)),
    )


def _reader(family: ModuleType, folder: ModelFolder, recipe: VlmRecipe) -> SequenceReader:
    tokenizer, _ = read_tokenizer(folder.path, folder.read_json("tokenizer_config.json"))
    image_id = tokenizer.token_to_id(family.IMAGE)
    if image_id is None or image_id != folder.config.get("image_token_id"):
        raise ModelLoadError(
            f"tokenizer.json and config.json of {folder.name} disagree on the token "
            f"{family.IMAGE}: download the model again"
        )
    return SequenceReader(
        tokenizer,
        recipe.frames,
        image_id=image_id,
        reserved=family.RESERVED,
        budget=recipe.budget,
        max_tokens=recipe.max_text_tokens,
    )


def _probe(reader: SequenceReader, recipe: VlmRecipe) -> Probe:
    def as_input(image: Any) -> Any:
        pixels = recipe.budget.pixels(image)
        return reader.image_input(pixels, "", Role.DOCUMENT)[0]

    return make_probe(reader.tokenize, as_input, min(_PROBE_SIDE, recipe.budget.side))


def _info(
    folder: ModelFolder,
    recipe: VlmRecipe,
    choice: ModelChoice,
    chosen: ChosenRuntime,
    fingerprint: str,
) -> ModelInfo:
    query, document = (recipe.frames[role] for role in (Role.QUERY, Role.DOCUMENT))
    return ModelInfo(
        name=folder.name,
        revision=folder.revision or "local",
        fingerprint=fingerprint,
        dimensions=recipe.dimensions,
        max_text_tokens=recipe.max_text_tokens,
        image_size=recipe.budget.side,
        logit_scale=1.0,  # trained to rank; it has no scale of its own
        runtime=chosen.runtime.library,
        device=choice.device,
        dtype=chosen.runtime.dtype,
        supported_dimensions=recipe.supported_dimensions,
        runtime_choice=chosen.reason,
        asymmetric=query != document,
        embeds_image_with_text=True,
        languages=("mul",),  # all families here, as published
    )
