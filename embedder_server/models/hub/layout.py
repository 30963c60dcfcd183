"""Recognise how a model's folder is laid out, from its configuration and the names of its files."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

from embedder_server.types import ModelLoadError

OPEN_CLIP_CONFIG = "open_clip_config.json"
_TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUPPORTED = (
    "transformers (config.json with model_type, model.safetensors), "
    f"open_clip ({OPEN_CLIP_CONFIG}, open_clip_model.safetensors), "
    "onnx-community or Xenova (config.json with model_type, onnx/text_model.onnx, "
    "onnx/vision_model.onnx), "
    "Immich (config.json, textual/model.onnx, visual/model.onnx, visual/preprocess_cfg.json), "
    "sentence-transformers (modules.json with a CLIPModel)"
)
_LISTED = 12  # names in an error


class Layout(enum.StrEnum):
    """Who wrote a folder, which decides where its networks and settings are."""

    TRANSFORMERS = "transformers"  # weights and `model_type`; jina-clip, too
    OPEN_CLIP = "open_clip"  # weights and `open_clip_config.json`
    ONNX = "onnx"  # onnx-community and Xenova: two networks in `onnx/`
    IMMICH = "immich"  # two networks in `textual/` and `visual/`


def layout_of(root: Path, config: dict[str, Any]) -> Layout:
    """Return the layout of a folder with this `config.json`.

    Raises:
        ModelLoadError: The layout is not known. The message says what was found.
    """
    if all((root / half / "model.onnx").is_file() for half in ("textual", "visual")):
        return Layout.IMMICH
    model_type = config.get("model_type")
    weights = any((root / name).is_file() for name in _TRANSFORMERS_WEIGHTS)
    if model_type == "jina_clip" or (model_type and weights):
        return Layout.TRANSFORMERS
    if (root / OPEN_CLIP_CONFIG).is_file():
        return Layout.OPEN_CLIP
    if model_type:
        halves = ("text_model*.onnx", "vision_model*.onnx")
        onnx = any(any((root / "onnx").glob(half)) for half in halves)
        return Layout.ONNX if onnx else Layout.TRANSFORMERS
    raise _unknown(root)


def find_root(folder: Path) -> tuple[Path, str]:
    """Return the folder of the model inside `folder`, and the name of its configuration.

    They are `folder` itself and `config.json`, if there is no sign of anything else.

    Raises:
        ModelLoadError: The layout is not known, or its configuration is damaged.
    """
    if not (folder / "config.json").is_file():
        if (folder / "modules.json").is_file():
            inner = _of_sentence_transformers(folder)
            if inner != folder:
                return find_root(inner)
        if (folder / OPEN_CLIP_CONFIG).is_file():
            return folder, OPEN_CLIP_CONFIG
        if _names(folder):
            raise _unknown(folder)
    elif (folder / OPEN_CLIP_CONFIG).is_file():
        # The other one may be of the image network alone.
        config = read_object(folder / "config.json")
        if layout_of(folder, config) is Layout.OPEN_CLIP:
            return folder, OPEN_CLIP_CONFIG
    return folder, "config.json"


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ModelLoadError: The file is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ModelLoadError(f"{file} is damaged ({exc}): download the model again") from exc
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file} does not hold a JSON object: download the model again")
    return content


def _of_sentence_transformers(folder: Path) -> Path:
    """Return the folder of the one CLIP model that `modules.json` names."""
    file = folder / "modules.json"
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        first = str(modules[0]["path"]) if modules else ""
    except (ValueError, TypeError, KeyError) as exc:
        raise ModelLoadError(f"{file} is damaged ({exc!r}): download the model again") from exc
    # Every vector is normalised later anyway.
    if [kind for kind in kinds if kind != "Normalize"] != ["CLIPModel"]:
        raise ModelLoadError(
            f"{folder} is a sentence-transformers model of the modules {', '.join(kinds)}; served "
            "is one CLIPModel, alone or with Normalize: choose a model for text and images "
            "(`sentinel models`)"
        )
    inner = folder / first
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise ModelLoadError(f"{file} names {first}, which is outside the model's folder")
    return inner


def _unknown(folder: Path) -> ModelLoadError:
    names = _names(folder)
    shown = ", ".join(names[:_LISTED]) + (
        f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    )
    return ModelLoadError(
        f"the layout of {folder} is unknown. Found: {shown}. Supported: {_SUPPORTED}. If it is "
        "one of these, the download is not complete"
    )


def _names(folder: Path) -> list[str]:
    """Return the names in a folder, and in the folders inside it, sorted."""
    files = (*folder.glob("*"), *folder.glob("*/*"))
    found = (file.relative_to(folder) for file in files if file.is_file())
    return sorted(str(name) for name in found if not name.parts[0].startswith("."))
