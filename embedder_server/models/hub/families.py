"""Read from a model's files how its family handles texts and images, and name its vector space.

`Recipe` holds everything that decides a vector besides the weights. `fingerprint` hashes it with
the files. Needs neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_server.images.open_clip_preprocessing import FittedRecipe
from embedder_server.images.preprocessing import ImageRecipe, PatchRecipe, read_image_recipe
from embedder_server.models.hub.source import ModelFolder, check_file, is_commit
from embedder_server.models.runtimes.export_cache import sha256_of
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TextTokenizer
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

# Raise it when our code makes other vectors from the same files.
_RECIPE_VERSION = 1
# From Chinese-CLIP's own recipe. Its BERT has 512 positions, but was not trained on longer texts.
_CHINESE_CLIP_TOKENS = 52
_SIGLIP_STD = [0.5, 0.5, 0.5]
# Text networks whose positions are numbered from that of padding on.
_ROBERTAS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
# No vector depends on these, and tools rewrite them.
_NOISE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model handles texts and images."""

    family: str  # `model_type` of the configuration, or `remote`
    dimensions: int
    max_text_tokens: int  # special tokens included
    padding: Padding
    pad_id: int
    image: ImageRecipe | PatchRecipe | FittedRecipe
    needs_mask: bool = False  # whether the text network takes a mask of the padding
    pad_left: bool = False
    text_cleaning: str = "none"  # before the tokenizer: `none`, `lower` or `canonical`
    sigmoid: bool = False  # trained with a sigmoid loss
    supported_dimensions: tuple[int, ...] = ()  # its own and shorter ones it was trained for
    logit_scale: float = 1.0  # factor on a cosine, if only the configuration has it

    def text_batches(self, multiple: int = 1) -> TextBatches:
        """Return how texts are batched; see `TextBatches.multiple`."""
        return TextBatches(self.padding, self.pad_id, self.max_text_tokens, self.pad_left, multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """Where a family differs from what its files say."""

    # False: a token sees only earlier ones, and the vector is that of the first end token. So what
    # follows does not matter.
    needs_mask: bool = True
    tokens: int = 1 << 30  # its training's limit, where its files give a larger one
    unused_positions: int = 0  # position vectors that no token gets
    # What its configuration leaves out where it is the default; 0: it has none.
    dimensions: int = 0
    positions: int = 0


@dataclass(frozen=True, slots=True)
class ModelParts:
    """All that a model's networks are loaded from."""

    folder: ModelFolder
    recipe: Recipe
    tokenizer: TextTokenizer  # with the model's own limit
    fingerprint: str  # names the vector space, and the exports
    device: str  # `cpu` or `cuda:N`
    threads: int  # of the CPU, in one forward pass


# The families of transformers that are read in one way. Each was compared with transformers.
_TRAITS = {
    "metaclip_2": _Traits(needs_mask=False, dimensions=512, positions=77),
    "tipsv2": _Traits(dimensions=768, positions=64),
    # XLM-RoBERTa's positions, under a name of its own.
    "altclip": _Traits(tokens=77, unused_positions=2, dimensions=768, positions=514),
    "aimv2": _Traits(dimensions=512, positions=77),
    "align": _Traits(tokens=64, dimensions=640, positions=512),
    "flava": _Traits(tokens=77, dimensions=768, positions=512),
    "vision-text-dual-encoder": _Traits(dimensions=512, positions=512),
}
_FIND = "it finds objects for words, and its vectors of whole images are not trained for search"
# Classes with both methods that are no dual encoders, and why.
_REFUSED = {
    "owlvit": _FIND,
    "owlv2": _FIND,
    "groupvit": "it groups patches by hard decisions, which rounding turns over: one image would "
    "have other vectors in other runtimes",
    "clipseg": "it marks regions, with the vectors of a CLIP model inside: serve that CLIP model",
    "blip": "its published weights lack the projections into one vector space",
    "blip-2": "its texts have no vector of their own, only those of a language model's tokens",
}


def read_recipe(folder: ModelFolder) -> Recipe:
    """Read the recipe of a model folder.

    Raises:
        ModelLoadError: The family is not supported, or a file is missing or incomplete.
    """
    if reason := _REFUSED.get(folder.model_type):
        raise ModelLoadError(f"{folder.name} has the architecture {folder.model_type}: {reason}")
    if reader := _READERS.get(folder.model_type):
        return _read(reader, folder)
    if not folder.config.get("text_config") or not folder.config.get("vision_config"):
        raise ModelLoadError(
            f"{folder.name} has the architecture {folder.model_type or 'unknown'!r}; served are "
            f"{', '.join(_READERS)}, and every class of transformers with get_text_features and "
            "get_image_features"
        )
    logger.warning(
        "this architecture was not compared with its reference: check the model with "
        "scripts/check_model.py",
        extra={"model": folder.name, "architecture": folder.model_type},
    )
    return _read(_dual_encoder, folder)


def read_remote_recipe(folder: ModelFolder, revision: str | None) -> Recipe:
    """Read the recipe of a model that comes with its own code, unknown to transformers.

    The model has `get_text_features` and `get_image_features`. Its code runs as the worker, so it
    must be the code that somebody has read: a commit of the hub, and no other repository behind it.

    Raises:
        ModelLoadError: The code is not pinned, or the configuration is incomplete.
    """
    if not is_commit(revision):
        raise ModelLoadError(
            "--trust-remote-code runs the model's code: pin the code that you have read with "
            "--revision and the 40 digits of a commit"
        )
    sources = [str(value) for value in folder.config.get("auto_map", {}).values()]
    elsewhere = sorted({source.split("--")[0] for source in sources if "--" in source})
    if elsewhere:
        raise ModelLoadError(
            f"{folder.name} takes its code from {', '.join(elsewhere)}, which --revision does not "
            "pin: download that code into the model's folder and change auto_map"
        )
    return _read(_remote, folder)


def _read(reader: Callable[[ModelFolder], Recipe], folder: ModelFolder) -> Recipe:
    folder.preprocessor()
    try:
        return reader(folder)
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelLoadError(
            f"{folder.path}/config.json lacks what a dual encoder needs: {exc!r}"
        ) from exc


def fingerprint(recipe: Any, folder: ModelFolder, files: Sequence[Path]) -> str:
    """Return the hex SHA-256 that vectors must share to be comparable.

    It covers the recipe, which is a dataclass, the configuration without what no vector depends on,
    and `files`: weights and tokenizer, in a fixed order.
    """
    described = {
        "version": _RECIPE_VERSION,
        "recipe": dataclasses.asdict(recipe),
        "config": _without_noise(folder.config),
        "files": [sha256_of(file) for file in files],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def derived_fingerprint(fingerprint: str, change: str) -> str:
    """Return the fingerprint of the vector space that `change` makes from another one."""
    return hashlib.sha256(f"{fingerprint} {change}".encode()).hexdigest()


def weight_files(folder: ModelFolder) -> list[Path]:
    """Return the files that hold a transformers model's weights, each checked to be complete.

    Raises:
        ModelLoadError: There are none, or one is missing or cut off.
    """
    for index_name, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        shards = sorted(set(folder.read_json(index_name).get("weight_map", {}).values()))
        if not shards and (folder.path / single).is_file():
            shards = [single]
        if shards:
            files = [folder.path / shard for shard in shards]
            for file in files:
                check_file(file)
            return files
    raise ModelLoadError(
        f"{folder.path} has no model.safetensors: the download is not complete; run it again"
    )


def _clip(folder: ModelFolder) -> Recipe:
    text = _text_config(folder)
    return Recipe(
        family="clip",
        dimensions=_projection(folder, 512),
        max_text_tokens=int(text.get("max_position_embeddings", 77)),
        # Text tokens only see earlier ones, and the vector is that of the first end token. So what
        # follows does not matter, and no mask is needed.
        padding=Padding.LONGEST,
        pad_id=_clip_end_token(text),
        image=read_image_recipe(folder.preprocessor()),
    )


def _clip_end_token(text: dict[str, Any]) -> int:
    end = int(text.get("eos_token_id", 49407))
    # Configurations from before 2023 say 2; transformers then uses the highest id.
    return int(text.get("vocab_size", 49408)) - 1 if end == 2 else end


def _siglip(folder: ModelFolder) -> Recipe:
    text, vision = _text_config(folder), folder.config.get("vision_config", {})
    settings = folder.read_json("tokenizer_config.json")
    named = str(settings.get("tokenizer_class", ""))
    of_gemma = folder.model_type == "siglip2" or named.startswith(("Gemma", "Siglip2"))
    gemma = int(text.get("vocab_size", 32000)) > 100_000 or folder.model_type == "siglip2"
    preprocessor = folder.preprocessor()
    hidden = int(text.get("hidden_size", 768))
    if folder.model_type == "siglip2":
        image: ImageRecipe | PatchRecipe = PatchRecipe(
            patch=int(preprocessor.get("patch_size", 16)),
            most=int(preprocessor.get("max_num_patches", 256)),
            grid=round(int(vision.get("num_patches", 256)) ** 0.5),
            resample=int(preprocessor.get("resample", 2)),
            mean=tuple(preprocessor.get("image_mean", _SIGLIP_STD)),
            std=tuple(preprocessor.get("image_std", _SIGLIP_STD)),
            scale=float(preprocessor.get("rescale_factor", 1 / 255)),
        )
    else:
        image = read_image_recipe(
            {"image_mean": _SIGLIP_STD, "image_std": _SIGLIP_STD, **preprocessor}
        )
    return Recipe(
        family=folder.model_type,
        dimensions=int(text.get("projection_size") or hidden),
        max_text_tokens=int(text.get("max_position_embeddings", 64)),
        # Trained on rows padded to the limit, without a mask; another width is another vector.
        padding=Padding.MAX_LENGTH,
        pad_id=_pad_id(folder, 0 if gemma else 1),
        # The default side of transformers' classes of these tokenizers.
        pad_left=settings.get("padding_side", "left" if of_gemma else "right") == "left",
        # SigLIP 2 was trained on lower case; its tokenizer.json, Gemma's, does not say so.
        text_cleaning="lower" if gemma else "canonical",
        image=image,
        sigmoid=True,
    )


def _chinese_clip(folder: ModelFolder) -> Recipe:
    positions = int(_text_config(folder).get("max_position_embeddings", 512))
    limit = int(folder.read_json("tokenizer_config.json").get("model_max_length", positions))
    return Recipe(
        family="chinese_clip",
        dimensions=_projection(folder, 512),
        max_text_tokens=min(positions, limit, _CHINESE_CLIP_TOKENS),
        padding=Padding.LONGEST,
        pad_id=_pad_id(folder, 0),
        needs_mask=True,
        image=read_image_recipe(folder.preprocessor()),
    )


def _dual_encoder(folder: ModelFolder) -> Recipe:
    """Read the recipe of any class of transformers with one vector for a text and for an image."""
    text = _text_config(folder)
    traits = _TRAITS.get(folder.model_type, _Traits())
    unused = traits.unused_positions
    if text.get("model_type") in _ROBERTAS:  # the first token's number is that of padding plus 1
        unused = int(text.get("pad_token_id", 1)) + 1
    positions = int(text.get("max_position_embeddings") or traits.positions)
    tokenizer = folder.read_json("tokenizer_config.json")
    dimensions = folder.config.get("projection_dim") or text.get("hidden_size")
    if not (positions and (dimensions or traits.dimensions)):
        raise ValueError("neither projection_dim nor text_config's sizes are there")
    return Recipe(
        family=folder.model_type,
        dimensions=int(dimensions or traits.dimensions),
        max_text_tokens=min(
            positions - unused, int(tokenizer.get("model_max_length", positions)), traits.tokens
        ),
        padding=Padding.LONGEST,
        pad_id=_pad_id(folder, int(text.get("pad_token_id") or 0)),
        needs_mask=traits.needs_mask,
        image=read_image_recipe(folder.preprocessor()),
    )


def _jina_clip(folder: ModelFolder) -> Recipe:
    text = _text_config(folder)
    dimensions = int(
        folder.config.get("projection_dim") or text.get("embed_dim") or text["hidden_size"]
    )
    scale = float(folder.config.get("logit_scale_init_value", 2.6592))
    matryoshka = folder.config.get("matryoshka_dimensions") or text.get("matryoshka_dimensions")
    if matryoshka is None and dimensions == 1024:  # only v2's model card says so
        matryoshka = (64, 128, 256, 512, 768, 1024)
    tokenizer = folder.read_json("tokenizer_config.json")
    return Recipe(
        family="jina_clip",
        dimensions=dimensions,
        supported_dimensions=tuple(sorted({int(d) for d in matryoshka or ()}, reverse=True)),
        max_text_tokens=min(int(tokenizer.get("model_max_length", 8192)), 8192),
        padding=Padding.NONE,  # the self-test may show that padding is masked
        pad_id=_pad_id(folder, 0),
        image=read_image_recipe(folder.preprocessor()),
        logit_scale=2.718281828459045**scale,
    )


def _remote(folder: ModelFolder) -> Recipe:
    text = _text_config(folder)
    return Recipe(
        family="remote",
        dimensions=int(folder.config["projection_dim"]),
        max_text_tokens=int(text.get("max_position_embeddings", 77)),
        padding=Padding.LONGEST,
        pad_id=int(text.get("pad_token_id") or 0),
        needs_mask=True,
        image=read_image_recipe(folder.preprocessor()),
    )


_READERS: dict[str, Callable[[ModelFolder], Recipe]] = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip,
    "chinese_clip": _chinese_clip,
    "jina_clip": _jina_clip,
    **dict.fromkeys(_TRAITS, _dual_encoder),
}


def _text_config(folder: ModelFolder) -> dict[str, Any]:
    return dict(folder.config.get("text_config") or {})


def _projection(folder: ModelFolder, default: int) -> int:
    return int(folder.config.get("projection_dim") or default)


def _pad_id(folder: ModelFolder, default: int) -> int:
    """Return the id of the padding token, as the tokenizer's files say."""
    pad = folder.read_json("tokenizer_config.json").get("pad_token")
    content = pad.get("content") if isinstance(pad, dict) else pad
    for token in folder.read_json("tokenizer.json").get("added_tokens", []):
        if content is not None and token.get("content") == content:
            return int(token["id"])
    text = _text_config(folder).get("pad_token_id")
    return int(text) if text is not None and content is None else default


def _without_noise(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_noise(value) for key, value in config.items() if key not in _NOISE}
    return config
