"""What ONNX files of each layout must take and return, compared with what a file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.runtimes.base import as_load_error
from embedder_server.types import Modality, ModelLoadError


@dataclass(frozen=True, slots=True)
class Contract:
    """What a network of a layout takes and returns. Types are numpy's names."""

    inputs: Mapping[str, tuple[str, ...]]  # the types of each, by their names
    names: Mapping[str, str]  # theirs by ours
    outputs: tuple[str, ...]  # possible names of the vectors
    optional: tuple[str, ...] = ()  # of theirs


_IDS = ("int32", "int64")
_IMMICH = {
    Modality.TEXT: Contract({"text": _IDS}, {"input_ids": "text"}, ("embedding",)),
    Modality.IMAGE: Contract({"image": ("float32",)}, {"image": "image"}, ("embedding",)),
}
_PIXELS: dict[str, tuple[str, ...]] = {"pixel_values": ("float32",)}
_TRANSFORMERS_INPUTS = {"input_ids": _IDS, "attention_mask": _IDS}


def _of_transformers(text: tuple[str, ...], image: tuple[str, ...]) -> dict[Modality, Contract]:
    masked = ("attention_mask",)
    ids = {name: name for name in _TRANSFORMERS_INPUTS}
    return {
        Modality.TEXT: Contract(_TRANSFORMERS_INPUTS, ids, text, masked),
        Modality.IMAGE: Contract(_PIXELS, {name: name for name in _PIXELS}, image),
    }


# CLIP's pooler_output is not projected into the common space; SigLIP has no projection.
_CLIP = _of_transformers(("text_embeds",), ("image_embeds",))
_SIGLIP = _of_transformers(("pooler_output", "text_embeds"), ("pooler_output", "image_embeds"))
_CONTRACTS = {"clip": _CLIP, "siglip": _SIGLIP}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and returns, as its file says."""

    types: dict[str, str]  # of the inputs, by name
    fixed_batch: bool  # whether it takes one item only
    fixed_length: bool  # whether texts have one length only
    output: str


def contracts_of(folder: ModelFolder) -> dict[Modality, Contract]:
    """Return what both networks of a folder must take and return.

    Raises:
        ModelLoadError: Folders of ONNX files are not read for its family.
    """
    if folder.layout is Layout.IMMICH:
        return _IMMICH
    if folder.model_type not in _CONTRACTS:
        raise ModelLoadError(
            f"{folder.name} has ONNX files of the architecture {folder.model_type!r}; read are "
            f"those of {', '.join(_CONTRACTS)}. Use its repository with model.safetensors"
        )
    return _CONTRACTS[folder.model_type]


def read_signature(file: Path, contract: Contract, dimensions: int) -> Signature:
    """Read what a graph takes and returns.

    Raises:
        ModelLoadError: It is not what the layout promises. The message names both.
    """
    import onnx

    with as_load_error(f"{file} is no ONNX file", "cpu"):
        graph = onnx.load(file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    given = {value.name: _described(value) for value in graph.input if value.name not in weights}
    made = {value.name: _described(value) for value in graph.output}
    required = set(contract.inputs) - set(contract.optional)
    fits = required <= set(given) <= set(contract.inputs) and all(
        kind in contract.inputs[name] for name, (kind, _) in given.items()
    )
    if not fits:
        expected = [f"{name} ({' or '.join(k)})" for name, k in contract.inputs.items()]
        raise ModelLoadError(
            f"{file} takes {_listed(given)}; expected: {', '.join(expected)}"
            + "".join(f", {name} not always" for name in contract.optional)
        )
    named = [name for name in contract.outputs if name in made]
    if not named:
        raise ModelLoadError(
            f"{file} returns {_listed(made)}; expected: {' or '.join(contract.outputs)}"
        )
    width = made[named[0]][1][-1:]
    if width and isinstance(width[0], int) and width[0] != dimensions:
        raise ModelLoadError(
            f"{file} returns vectors of {width[0]} dimensions, config.json says {dimensions}"
        )
    return Signature(
        types={name: kind for name, (kind, _) in given.items()},
        fixed_batch=any(shape[:1] == [1] for _, shape in given.values()),
        fixed_length=any(len(s) == 2 and isinstance(s[1], int) for _, s in given.values()),
        output=named[0],
    )


def _described(value: Any) -> tuple[str, list[int | str]]:
    """Return the type of a graph's input or output, and its shape: open sides as names."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    sides = [side.dim_value or side.dim_param or "?" for side in tensor.shape.dim]
    return str(tensor_dtype_to_np_dtype(tensor.elem_type)), sides


def _listed(values: Mapping[str, tuple[str, list[int | str]]]) -> str:
    return ", ".join(f"{name} ({kind} {shape})" for name, (kind, shape) in values.items())
