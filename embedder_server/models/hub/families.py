"""What each family of dual encoders does its own way, read from a model's configuration files.

Everything that decides a vector beside the weights is in `Recipe`; `fingerprint` turns it and the
files into the name of the vector space. Needs neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_server.images.patches import PatchRecipe
from embedder_server.images.recipe import ImageRecipe, read_image_recipe
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.texts.batches import Padding
from embedder_server.types import ModelLoadError

# Raised when our own code comes to make other vectors of the same files.
_RECIPE_VERSION = 1
# Chinese-CLIP's own recipe; its BERT has 512 positions, but nothing longer was trained.
_CHINESE_CLIP_TOKENS = 52
_SIGLIP_STD = [0.5, 0.5, 0.5]
# What no vector depends on, and what tools rewrite in passing.
_NOISE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model treats text and pictures.

    Attributes:
        family: `clip`, `siglip`, `siglip2`, `chinese_clip`, `jina_clip` or `remote`.
        dimensions: Length of a vector.
        supported_dimensions: Shorter lengths it was trained for, and its own; or empty.
        max_text_tokens: Longest text, special tokens included.
        padding: Which texts may share a batch.
        pad_id: Token that fills rows up.
        pad_left: Whether rows are filled up at their beginning.
        needs_mask: Whether the text network is told which tokens are padding.
        text_cleaning: `none`, `lower` or `canonical`: what happens before the tokenizer.
        image: What happens to a picture.
        sigmoid: Whether the model was trained with a sigmoid loss.
        logit_scale: What a cosine is multiplied by, if the configuration is all that tells.
    """

    family: str
    dimensions: int
    max_text_tokens: int
    padding: Padding
    pad_id: int
    image: ImageRecipe | PatchRecipe
    needs_mask: bool = False
    pad_left: bool = False
    text_cleaning: str = "none"
    sigmoid: bool = False
    supported_dimensions: tuple[int, ...] = ()
    logit_scale: float = 1.0


def read_recipe(folder: ModelFolder) -> Recipe:
    """Return the recipe of a model folder.

    Raises:
        ModelLoadError: The family is not known, or a file is missing or incomplete.
    """
    readers = {
        "clip": _clip,
        "siglip": _siglip,
        "siglip2": _siglip,
        "chinese_clip": _chinese_clip,
        "jina_clip": _jina_clip,
    }
    reader = readers.get(folder.model_type)
    if reader is None:
        msg = (
            f"{folder.name} has the architecture {folder.model_type or 'unknown'!r}; served are "
            f"{', '.join(readers)}"
        )
        raise ModelLoadError(msg)
    check_file(folder.path / "preprocessor_config.json")
    try:
        return reader(folder)
    except (KeyError, TypeError, ValueError) as exc:
        msg = f"{folder.path}/config.json is not one of a {folder.model_type} model: {exc!r}"
        raise ModelLoadError(msg) from exc


def fingerprint(recipe: Recipe, folder: ModelFolder, files: Sequence[Path]) -> str:
    """Return the hex SHA-256 that vectors must share to be comparable.

    Args:
        recipe: Of the model.
        folder: The model; its configuration takes part, less what no vector depends on.
        files: Weights and tokenizer, in a fixed order.
    """
    described = {
        "version": _RECIPE_VERSION,
        "recipe": dataclasses.asdict(recipe),
        "config": _without_noise(folder.config),
        "files": [sha256_of(file) for file in files],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def derived_fingerprint(fingerprint: str, change: str) -> str:
    """Return the name of the space that `change` makes of another one."""
    return hashlib.sha256(f"{fingerprint} {change}".encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(folder: ModelFolder) -> list[Path]:
    """Return the files that hold a transformers model's weights, every one proven complete.

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
    msg = f"{folder.path} has no model.safetensors: the download is not complete; run it again"
    raise ModelLoadError(msg)


def _clip(folder: ModelFolder) -> Recipe:
    text = _text_config(folder)
    return Recipe(
        family="clip",
        dimensions=_projection(folder, 512),
        max_text_tokens=int(text.get("max_position_embeddings", 77)),
        # The text tower looks back only and takes its vector where the first end token is: what
        # follows cannot matter, so no mask is needed.
        padding=Padding.LONGEST,
        pad_id=_clip_end_token(text),
        image=read_image_recipe(folder.read_json("preprocessor_config.json")),
    )


def _clip_end_token(text: dict[str, Any]) -> int:
    end = int(text.get("eos_token_id", 49407))
    # Configurations from before 2023 say 2; transformers then looks for the highest id.
    return int(text.get("vocab_size", 49408)) - 1 if end == 2 else end


def _siglip(folder: ModelFolder) -> Recipe:
    text, vision = _text_config(folder), folder.config.get("vision_config", {})
    settings = folder.read_json("tokenizer_config.json")
    named = str(settings.get("tokenizer_class", ""))
    of_gemma = folder.model_type == "siglip2" or named.startswith(("Gemma", "Siglip2"))
    gemma = int(text.get("vocab_size", 32000)) > 100_000 or folder.model_type == "siglip2"
    preprocessor = folder.read_json("preprocessor_config.json")
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
        # Trained on rows filled up to the limit, without a mask; another width is another vector.
        padding=Padding.MAX_LENGTH,
        pad_id=_pad_id(folder, 0 if gemma else 1),
        # What transformers' classes of these tokenizers do where nothing says which side.
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
        image=read_image_recipe(folder.read_json("preprocessor_config.json")),
    )


def _jina_clip(folder: ModelFolder) -> Recipe:
    text = _text_config(folder)
    dimensions = int(
        folder.config.get("projection_dim") or text.get("embed_dim") or text["hidden_size"]
    )
    scale = float(folder.config.get("logit_scale_init_value", 2.6592))
    matryoshka = folder.config.get("matryoshka_dimensions") or text.get("matryoshka_dimensions")
    if matryoshka is None and dimensions == 1024:  # v2 says so in its card only
        matryoshka = (64, 128, 256, 512, 768, 1024)
    tokenizer = folder.read_json("tokenizer_config.json")
    return Recipe(
        family="jina_clip",
        dimensions=dimensions,
        supported_dimensions=tuple(sorted({int(d) for d in matryoshka or ()}, reverse=True)),
        max_text_tokens=min(int(tokenizer.get("model_max_length", 8192)), 8192),
        padding=Padding.NONE,  # until the self-test has shown that padding is masked
        pad_id=_pad_id(folder, 0),
        image=read_image_recipe(folder.read_json("preprocessor_config.json")),
        logit_scale=2.718281828459045**scale,
    )


def _text_config(folder: ModelFolder) -> dict[str, Any]:
    return dict(folder.config.get("text_config") or {})


def _projection(folder: ModelFolder, default: int) -> int:
    return int(folder.config.get("projection_dim") or default)


def _pad_id(folder: ModelFolder, default: int) -> int:
    """Return the padding token's id as the tokenizer's files give it."""
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
