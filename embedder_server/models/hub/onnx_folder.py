"""The two networks of folders that hold ONNX files: Immich's, onnx-community's and Xenova's.

None of their code runs, and torch is not needed. What a graph takes and returns is read from its
file and compared with what its layout promises. Before a folder is served, each network embeds one
item, which must give one finite vector of the model's dimensions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedder_server.models.hub.families import ModelParts
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.open_clip_config import initial_logits
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.models.runtimes.base import (
    Feed,
    Runtime,
    Tower,
    TwoTowers,
    as_load_error,
)
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.onnx import cpu_candidates, open_onnx
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.types import FloatArray, Modality, ModelLoadError

# Trained scales are not in these files. What transformers' classes and SigLIP's paper begin with.
_CLIP_SCALE, _SIGLIP_LOGITS = 2.6592, (10.0, -10.0)


@dataclass(frozen=True, slots=True)
class _Contract:
    """What a network of a layout takes and returns. Types are numpy's names."""

    inputs: Mapping[str, tuple[str, ...]]  # the types of each, by their names
    names: Mapping[str, str]  # theirs by ours
    outputs: tuple[str, ...]  # possible names of the vectors
    optional: tuple[str, ...] = ()  # of theirs


_IDS = ("int32", "int64")
_IMMICH = {
    Modality.TEXT: _Contract({"text": _IDS}, {"input_ids": "text"}, ("embedding",)),
    Modality.IMAGE: _Contract({"image": ("float32",)}, {"image": "image"}, ("embedding",)),
}
_PIXELS: dict[str, tuple[str, ...]] = {"pixel_values": ("float32",)}
_TRANSFORMERS_INPUTS = {"input_ids": _IDS, "attention_mask": _IDS}


def _of_transformers(text: tuple[str, ...], image: tuple[str, ...]) -> dict[Modality, _Contract]:
    same = {name: name for name in (*_TRANSFORMERS_INPUTS, *_PIXELS)}
    masked = ("attention_mask",)
    return {
        Modality.TEXT: _Contract(_TRANSFORMERS_INPUTS, same, text, masked),
        Modality.IMAGE: _Contract(_PIXELS, same, image),
    }


# CLIP's pooler_output is not projected into the common space; SigLIP has no projection.
_CLIP = _of_transformers(("text_embeds",), ("image_embeds",))
_SIGLIP = _of_transformers(("pooler_output", "text_embeds"), ("pooler_output", "image_embeds"))
_CONTRACTS = {"clip": _CLIP, "siglip": _SIGLIP}


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a graph takes and returns, as its file says."""

    types: dict[str, str]  # of the inputs, by name
    fixed_batch: bool  # whether it takes one item only
    fixed_length: bool  # whether texts have one length only
    output: str


class OnnxFolderNetworks:
    """`Networks` of a folder of ONNX files, with int8 copies of them in `cache`."""

    def __init__(self, parts: ModelParts, cache: ExportCache) -> None:
        self._parts = parts
        self._cache = cache

    def candidates(self) -> tuple[Runtime, ...]:
        return cpu_candidates() if self._parts.device == "cpu" else (Runtime("onnxruntime"),)

    def open(self, runtime: Runtime) -> TwoTowers:
        parts, signatures = self._parts, self._signatures
        files = _paths(parts.folder)
        if runtime.precision == "int8":
            copies = self._cache.int8_copies(f"{parts.fingerprint[:24]}-onnx", files)
            files = {kind: copies.file(kind) for kind in Modality}
        towers: dict[Modality, Tower] = {}
        for kind, file in files.items():
            output = (signatures[kind].output,)
            tower = open_onnx(file, runtime, parts.device, parts.threads, output)
            towers[kind] = _Renamed(tower, self._contracts[kind], signatures[kind])
        batches = parts.recipe.text_batches()
        if signatures[Modality.TEXT].fixed_length:
            batches = dataclasses.replace(batches, padding=Padding.MAX_LENGTH)
        self._try(towers, batches)
        return TwoTowers(towers, batches, parts.recipe.dimensions)

    def reference(self) -> TwoTowers | None:
        return None  # on a GPU there is one candidate, so nothing is compared

    def logits(self) -> tuple[float, float]:
        # The files have no trained scale. Use the one that the training began with.
        folder = self._parts.folder
        if folder.layout is Layout.IMMICH:
            return initial_logits(folder)
        if self._parts.recipe.sigmoid:
            return _SIGLIP_LOGITS
        scale = folder.config.get("logit_scale_init_value", _CLIP_SCALE)
        return math.exp(float(scale)), 0.0

    @property
    def _contracts(self) -> dict[Modality, _Contract]:
        if self._parts.folder.layout is Layout.IMMICH:
            return _IMMICH
        return _CONTRACTS[self._parts.recipe.family]

    @cached_property
    def _signatures(self) -> dict[Modality, _Signature]:
        files = _paths(self._parts.folder)
        return {
            kind: _signature(files[kind], contract, self._parts.recipe.dimensions)
            for kind, contract in self._contracts.items()
        }

    def _try(self, towers: Mapping[Modality, Tower], batches: TextBatches) -> None:
        """Embed one item with each network."""
        parts, recipe = self._parts, self._parts.recipe
        [(_, ids, mask)] = batches.split([parts.tokenizer.tokenize("a")])
        pixels = recipe.image.pixels(Image.new("RGB", (recipe.image.side,) * 2))[None]
        feeds: dict[Modality, Feed] = {
            Modality.TEXT: {"input_ids": ids, "attention_mask": mask},
            Modality.IMAGE: dict.fromkeys(towers[Modality.IMAGE].inputs, pixels),
        }
        for kind, tower in towers.items():
            fails = f"the {kind} network of {parts.folder.name} does not embed one {kind}"
            with as_load_error(fails, parts.device):
                vectors = tower.run({name: feeds[kind][name] for name in tower.inputs})
            if vectors.shape != (1, recipe.dimensions) or not np.isfinite(vectors).all():
                raise ModelLoadError(
                    f"{fails}: it returns {vectors.shape}, not finite numbers of the shape (1, "
                    f"{recipe.dimensions}); its files do not match each other"
                )


class _Renamed:
    """A tower whose inputs have other names or types, or that takes one item at a time."""

    def __init__(self, tower: Tower, contract: _Contract, signature: _Signature) -> None:
        self._tower = tower
        self._types = {
            ours: (theirs, signature.types[theirs])
            for ours, theirs in contract.names.items()
            if theirs in signature.types
        }
        self._single = signature.fixed_batch
        self.inputs = tuple(self._types)

    def run(self, feed: Feed) -> FloatArray:
        theirs = {
            name: np.asarray(feed[ours], dtype=kind) for ours, (name, kind) in self._types.items()
        }
        if not self._single:
            return self._tower.run(theirs)
        [count] = {len(array) for array in theirs.values()}
        rows = [
            self._tower.run({name: array[i : i + 1] for name, array in theirs.items()})
            for i in range(count)
        ]
        return np.concatenate(rows)

    def close(self) -> None:
        self._tower.close()


def onnx_weights(folder: ModelFolder) -> list[Path]:
    """Return the files that hold the networks, text first, each checked to be complete.

    Raises:
        ModelLoadError: One is missing or cut off, or is there in lower precision only.
    """
    paths = _paths(folder)
    for file in paths.values():
        lower = sorted(file.parent.glob(f"{file.stem}_*.onnx"))
        if not file.is_file() and lower:
            raise ModelLoadError(
                f"{folder.path} has {', '.join(other.name for other in lower)} but not "
                f"{file.name}: only float32 files are read; download {file.parent.name}/{file.name}"
                " (for int8: --runtime onnxruntime-int8 makes its own)"
            )
        check_file(file)
    beside = (extra for file in paths.values() for extra in file.parent.glob(f"{file.name}_data*"))
    external = (extra for file in paths.values() for extra in file.parent.glob(f"{file.name}.data"))
    return [*paths.values(), *sorted(beside), *sorted(external)]


def check_onnx_family(family: str, name: str) -> None:
    """Raise `ModelLoadError` if folders of ONNX files are not read for a family."""
    if family not in _CONTRACTS:
        raise ModelLoadError(
            f"{name} has ONNX files of the architecture {family!r}; read are those of "
            f"{', '.join(_CONTRACTS)}. Use its repository with model.safetensors"
        )


def _paths(folder: ModelFolder) -> dict[Modality, Path]:
    if folder.layout is Layout.IMMICH:
        halves = {Modality.TEXT: "textual/model.onnx", Modality.IMAGE: "visual/model.onnx"}
    else:
        halves = {Modality.TEXT: "onnx/text_model.onnx", Modality.IMAGE: "onnx/vision_model.onnx"}
    return {kind: folder.path / half for kind, half in halves.items()}


def _signature(file: Path, contract: _Contract, dimensions: int) -> _Signature:
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
    return _Signature(
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
