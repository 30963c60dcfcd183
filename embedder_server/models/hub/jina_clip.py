"""The two networks of jina-clip v1 and v2, from their repositories' ONNX files.

None of their code runs. A self-test at every start checks what the files do not say:

* v1's first text exports fail beyond 16 tokens. The float32 file was replaced, the quantised ones
  were not. So the quantised ones are not read, and the self-test embeds a sentence of 40 tokens.
* The text network takes no mask. If padding changes the sentence's vector, only texts of equal
  length share a batch.
* v2 is one graph of both networks: each is called with a placeholder for the other's input.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedder_server.models.hub.families import ModelParts
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.models.runtimes.base import (
    Feed,
    Runtime,
    Tower,
    TwoTowers,
    as_load_error,
)
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.onnx import (
    OnnxTower,
    cpu_candidates,
    device_runtime,
    open_onnx,
)
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.types import FloatArray, Modality, ModelLoadError

logger = logging.getLogger(__name__)

_TEXT, _IMAGE, _BOTH = "text_model", "vision_model", "model"
_OUTPUTS = {
    Modality.TEXT: ("text_embeds", "text_embeddings"),
    Modality.IMAGE: ("image_embeds", "image_embeddings"),
}
_SENTENCE = (
    "An old fisherman in a yellow coat mends his net on the quay while two grey cats wait beside a "
    "bucket, the tide goes out slowly, and children run along the harbour wall towards the light"
)
_TEST_TOKENS, _TEST_PADDING = 40, 7
# Masked padding changes the last bits only; padding that is read changes 1e-2 and more.
_SAME = 0.9999


class JinaNetworks:
    """`Networks` of a jina-clip folder, with int8 copies of its files in `cache`."""

    def __init__(self, parts: ModelParts, cache: ExportCache) -> None:
        self._parts = parts
        self._cache = cache

    def candidates(self) -> tuple[Runtime, ...]:
        # v2's one graph needs an empty image. We only know that onnxruntime accepts it.
        if self._parts.device != "cpu" or len(onnx_files(self._parts.folder)) == 1:
            return (device_runtime(self._parts.device),)
        return cpu_candidates()

    def open(self, runtime: Runtime) -> TwoTowers:
        towers = self._towers(runtime)
        masked = self._self_test(towers[Modality.TEXT])
        padding = Padding.LONGEST if masked else Padding.NONE
        recipe = self._parts.recipe
        batches = TextBatches(padding, recipe.pad_id, recipe.max_text_tokens)
        return TwoTowers(towers, batches, recipe.dimensions)

    def reference(self) -> TwoTowers | None:
        return None  # on a GPU there is one candidate, so nothing is compared

    def logits(self) -> tuple[float, float]:
        # The ONNX files have no logit scale. Use the initial one, from the configuration.
        return self._parts.recipe.logit_scale, 0.0

    def _towers(self, runtime: Runtime) -> dict[Modality, Tower]:
        parts = self._parts
        files = onnx_files(parts.folder)
        if len(files) == 1:
            return self._combined(files[0], runtime)
        sources = dict(zip(Modality, files, strict=True))
        if runtime.precision == "int8":
            copies = self._cache.int8_copies(f"{parts.fingerprint[:24]}-jina", sources)
            sources = {kind: copies.file(kind) for kind in Modality}
        return {
            kind: open_onnx(
                file,
                runtime,
                parts.device,
                parts.threads,
                _OUTPUTS[kind],
                engines=self._cache.engines(),
            )
            for kind, file in sources.items()
        }

    def _combined(self, file: Path, runtime: Runtime) -> dict[Modality, Tower]:
        parts = self._parts
        if runtime != (own := device_runtime(parts.device)):
            raise ModelLoadError(f"{parts.folder.name} runs on --runtime {own} only, not {runtime}")
        graph = OnnxTower(file, parts.device, parts.threads)
        return {kind: _HalfTower(graph, kind, parts.recipe.image.side) for kind in Modality}

    def _self_test(self, text: Tower) -> bool:
        """Embed a sentence of 40 tokens; return whether the text network masks padding."""
        parts, recipe = self._parts, self._parts.recipe
        ids = parts.tokenizer.tokenize(f"{_SENTENCE} {_SENTENCE}").ids
        ids = np.concatenate([ids[: _TEST_TOKENS - 1], ids[-1:]])[None, :]
        padding = np.full((1, _TEST_PADDING), recipe.pad_id, dtype=np.int64)
        broken = (
            f"the text network of {parts.folder.name} fails its self-test, a sentence of "
            f"{ids.shape[1]} tokens: the first exports of jina-clip-v1 do that; use a revision "
            "from 903aaac on"
        )
        with as_load_error(broken, parts.device):
            alone = _feed(text, ids)
        if alone.shape != (1, recipe.dimensions) or not np.isfinite(alone).all():
            raise ModelLoadError(f"{broken} (shape {alone.shape})")
        padded = _feed(text, np.concatenate([ids, padding], axis=1))
        cosine = float((alone[0] @ padded[0]) / np.linalg.norm(alone) / np.linalg.norm(padded))
        masked = cosine >= _SAME
        logger.info(
            "self-test passed",
            extra={
                "cosine_padded": round(cosine, 6),
                "batches": "padded" if masked else "equal lengths",
            },
        )
        return masked


class _HalfTower:
    """One network of a graph that holds both."""

    def __init__(self, graph: OnnxTower, modality: Modality, side: int) -> None:
        names = [name for name in _OUTPUTS[modality] if name in graph.outputs]
        if not names:
            raise ModelLoadError(
                f"the network has the outputs {', '.join(graph.outputs)}, none of {modality}s"
            )
        self._graph = graph
        self._output = names[0]
        self._text = modality is Modality.TEXT
        self._side = side
        self.inputs: tuple[str, ...] = ("input_ids",) if self._text else ("pixel_values",)

    def run(self, feed: Feed) -> FloatArray:
        if self._text:
            empty = np.zeros((0, 3, self._side, self._side), dtype=np.float32)
            return self._graph.run({**feed, "pixel_values": empty}, self._output)
        # An empty text makes the graph fail. One token costs little compared with an image.
        tokens = np.ones((len(feed["pixel_values"]), 1), dtype=np.int64)
        return self._graph.run({**feed, "input_ids": tokens}, self._output)

    def close(self) -> None:
        self._graph.close()


def onnx_files(folder: ModelFolder) -> tuple[Path, ...]:
    """Return `(text, image)`, or the one file of both, checked to be complete.

    Raises:
        ModelLoadError: The float32 files are missing or incomplete.
    """
    onnx = folder.path / "onnx"
    both = onnx / f"{_BOTH}.onnx"
    if both.is_file():
        check_file(both)
        return (both,)
    text, image = onnx / f"{_TEXT}.onnx", onnx / f"{_IMAGE}.onnx"
    if not text.is_file() and (others := sorted(onnx.glob(f"{_TEXT}_*.onnx"))):
        raise ModelLoadError(
            f"{folder.path} has {', '.join(file.name for file in others)} but not {text.name}: "
            "only float32 files are read (jina-clip-v1's quantised text files are broken beyond 16 "
            "tokens and never used); "
            f"download onnx/{text.name} (for int8: --runtime onnxruntime-int8 makes its own)"
        )
    check_file(text)
    check_file(image)
    return text, image


def _feed(text: Tower, ids: npt.NDArray[np.int64]) -> FloatArray:
    feed = {"input_ids": ids}
    if "attention_mask" in text.inputs:
        feed["attention_mask"] = np.ones_like(ids)
    return text.run(feed)
