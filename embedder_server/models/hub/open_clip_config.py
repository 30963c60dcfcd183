"""Read from an open_clip configuration how a model handles texts and images.

For open_clip's own checkpoints, and for Immich's folders, whose networks were exported from them.
Needs neither torch nor open_clip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from embedder_server.images.open_clip_preprocessing import read_open_clip_recipe
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.texts.batches import Padding
from embedder_server.texts.tokenizer import read_tokenizer
from embedder_server.types import ModelLoadError

# In the order in which open_clip looks for them.
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_CONTEXT = 77
_IMAGE_SIZE = 224
_INITIAL_SCALE = math.log(1 / 0.07)
_CLEANINGS = ("whitespace", "lower", "canonicalize")


def read_open_clip(folder: ModelFolder) -> Recipe:
    """Read the recipe of an open_clip checkpoint or of an Immich folder.

    Raises:
        ModelLoadError: It needs what is not supported, or a file is missing or incomplete.
    """
    try:
        return _recipe(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ModelLoadError(
            f"the open_clip configuration of {folder.path} lacks what a dual encoder needs: {exc!r}"
        ) from exc


def model_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the part of the configuration that describes the networks."""
    return dict(folder.config.get("model_cfg", folder.config))


def initial_logits(folder: ModelFolder) -> tuple[float, float]:
    """Return the logit scale and bias that the training began with."""
    config = model_config(folder)
    scale = config.get("init_logit_scale")
    return math.exp(_INITIAL_SCALE if scale is None else scale), config.get("init_logit_bias") or 0


def open_clip_weights(folder: ModelFolder) -> Path:
    """Return the file that holds an open_clip model's weights, checked to be complete.

    Raises:
        ModelLoadError: There is none, or it is cut off.
    """
    for name in _WEIGHTS:
        if (folder.path / name).is_file():
            check_file(folder.path / name)
            return folder.path / name
    raise ModelLoadError(
        f"{folder.path} has no {_WEIGHTS[0]}: the download is not complete; run it again"
    )


def read_open_clip_tokenizer(folder: ModelFolder) -> tuple[Tokenizer, Path]:
    """Return the tokenizer of an open_clip checkpoint or an Immich folder, and the file of it.

    Raises:
        ModelLoadError: The folder has no tokenizer that we can read.
    """
    texts = _text_files(folder)
    tokenizer, file = read_tokenizer(texts.path, texts.read_json("tokenizer_config.json"))
    if _tokenizer_kwargs(model_config(folder)["text_cfg"]).get("strip_sep_token"):
        # CLIPA replaces BERT's closing token by padding.
        ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[PAD]", 0)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [PAD]", special_tokens=ends
        )
    return tokenizer, texts.path / file


def _recipe(folder: ModelFolder) -> Recipe:
    config = model_config(folder)
    text, vision = config["text_cfg"], config["vision_cfg"]
    _check(config, folder.name)
    if folder.layout is Layout.IMMICH:
        check_file(folder.path / "visual" / "preprocess_cfg.json")
        preprocess = folder.read_json("visual/preprocess_cfg.json")
        size = preprocess.get("size") or vision.get("image_size", _IMAGE_SIZE)
        padding = Padding.MAX_LENGTH  # the graphs have no other width
    else:
        preprocess = folder.config.get("preprocess_cfg") or {}
        size = vision.get("image_size", _IMAGE_SIZE)
        padding = _padding(text)
    ours = text.get("hf_tokenizer_name")
    clean = _tokenizer_kwargs(text).get("clean", "whitespace" if ours else "lower")
    settings = _text_files(folder).read_json("tokenizer_config.json")
    gemma = str(settings.get("tokenizer_class", "")).startswith("Gemma")
    return Recipe(
        family="open_clip",
        dimensions=int(config["embed_dim"]),
        max_text_tokens=int(text.get("context_length", _CONTEXT)),
        padding=padding,
        # open_clip's own tokenizer pads with 0, whatever its copy on the hub says.
        pad_id=_pad_id(folder) if ours else 0,
        pad_left=bool(ours)
        and settings.get("padding_side", "left" if gemma else "right") == "left",
        text_cleaning=f"open_clip_{clean}",
        image=read_open_clip_recipe(preprocess, size),
        sigmoid=config.get("init_logit_bias") is not None,
    )


def _padding(text: Mapping[str, Any]) -> Padding:
    if text.get("hf_model_name"):
        return Padding.LONGEST  # masked
    pooled = text.get("pool_type", "argmax") in ("argmax", "eos")
    # A token sees only earlier ones, and the vector is that of the end token.
    causal = not text.get("no_causal_mask") and not text.get("embed_cls")
    return Padding.LONGEST if causal and pooled else Padding.MAX_LENGTH


def _check(config: Mapping[str, Any], name: str) -> None:
    text = config["text_cfg"]
    tokenizer, kwargs = str(text.get("hf_tokenizer_name") or ""), _tokenizer_kwargs(text)
    if "nllb" in f"{tokenizer} {text.get('hf_model_name')}".lower():
        raise ModelLoadError(
            f"{name} is an NLLB-CLIP model: each of its texts begins with a token for its "
            "language, which requests do not have. Choose another model of many languages, such "
            "as SigLIP 2 (`sentinel models`)"
        )
    if "multimodal_cfg" in config:
        raise ModelLoadError(
            f"{name} is a CoCa model, which is made for captions and is not supported: choose a "
            "model for search (`sentinel models`)"
        )
    unknown = sorted(set(kwargs) - {"clean", "strip_sep_token"})
    if unknown or text.get("tokenizer_mode") or kwargs.get("clean", "lower") not in _CLEANINGS:
        what = f"tokenizer_mode {text.get('tokenizer_mode')!r}, tokenizer_kwargs {kwargs}"
        raise ModelLoadError(f"{name} needs a tokenizer with {what}, which is not supported")


def _tokenizer_kwargs(text: Mapping[str, Any]) -> dict[str, Any]:
    return dict(text.get("tokenizer_kwargs") or {})


def _text_files(folder: ModelFolder) -> ModelFolder:
    """Return the folder that holds the tokenizer."""
    if folder.layout is Layout.IMMICH:
        return dataclasses.replace(folder, path=folder.path / "textual")
    return folder


def _pad_id(folder: ModelFolder) -> int:
    texts = _text_files(folder)
    pad = texts.read_json("tokenizer_config.json").get("pad_token")
    content = pad.get("content") if isinstance(pad, dict) else pad
    tokenizer, _ = read_tokenizer(texts.path, texts.read_json("tokenizer_config.json"))
    found = None if content is None else tokenizer.token_to_id(content)
    if found is None:
        raise ModelLoadError(
            f"{texts.path}/tokenizer_config.json names no pad_token of the tokenizer: download "
            "the model's tokenizer files again"
        )
    return int(found)
