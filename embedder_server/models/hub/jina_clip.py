"""jina-clip v1 and v2 from the ONNX files of their repositories; none of their code runs.

What is known of those files, and what is tested at every start because it is not:

* v1's first text exports fail beyond 16 tokens. The float32 file was replaced, the quantised ones
  never were: they are not read, and a sentence of 40 tokens is embedded before anything is served.
* The text network takes no mask. Whether it masks padding itself is measured: if a sentence's
  vector changes with padding, only texts of equal length share a batch.
* v2 is one graph of both towers: each is called with a placeholder for the other.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedder_server.models.hub.dual_encoder import TwoTowers
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.models.runtimes.base import Feed, Runtime, Tower
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.memory import is_out_of_memory, memory_error
from embedder_server.models.runtimes.networks import cpu_candidates, int8_export, open_onnx
from embedder_server.models.runtimes.onnx import OnnxTower
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TextTokenizer
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
# Padding that is masked changes the last bits only; padding that is read changes 1e-2 and more.
_SAME = 0.9999


class JinaNetworks:
    """`Networks` of a jina-clip folder.

    Args:
        folder: The model.
        recipe: Of the model.
        tokenizer: Makes the sentence of the self-test.
        fingerprint: Names what is derived from the files.
        cache: Where that is kept.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
    """

    def __init__(
        self,
        folder: ModelFolder,
        recipe: Recipe,
        tokenizer: TextTokenizer,
        fingerprint: str,
        cache: ExportCache,
        *,
        device: str,
        threads: int,
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._key = f"{fingerprint[:24]}-jina"
        self._cache = cache
        self._device = device
        self._threads = threads

    def candidates(self) -> tuple[Runtime, ...]:
        # v2's one graph needs an empty picture, which only onnxruntime is known to take.
        if self._device != "cpu" or len(onnx_files(self._folder)) == 1:
            return (Runtime("onnxruntime"),)
        return cpu_candidates()

    def open(self, runtime: Runtime) -> TwoTowers:
        towers = self._towers(runtime)
        masked = self._self_test(towers[Modality.TEXT])
        padding = Padding.LONGEST if masked else Padding.NONE
        batches = TextBatches(padding, self._recipe.pad_id, self._recipe.max_text_tokens)
        return TwoTowers(towers, batches, self._recipe.dimensions)

    def reference(self) -> TwoTowers | None:
        return None  # on a GPU there is one candidate, which is compared with nothing

    def logits(self) -> tuple[float, float]:
        # The ONNX files carry no logit scale; the configuration has the one training began with.
        return self._recipe.logit_scale, 0.0

    def _towers(self, runtime: Runtime) -> dict[Modality, Tower]:
        files = onnx_files(self._folder)
        if len(files) == 1:
            return self._combined(files[0], runtime)
        named = dict(zip(Modality, files, strict=True))
        if runtime.precision == "int8":
            folder = int8_export(self._cache, self._key, named)
            named = {kind: folder / f"{kind}.onnx" for kind in Modality}
        return {
            kind: open_onnx(file, runtime, self._device, self._threads, _OUTPUTS[kind])
            for kind, file in named.items()
        }

    def _combined(self, file: Path, runtime: Runtime) -> dict[Modality, Tower]:
        if runtime.library != "onnxruntime" or runtime.precision == "int8":
            msg = f"{self._folder.name} runs on --runtime onnxruntime only, not {runtime}"
            raise ModelLoadError(msg)
        side = self._recipe.image.side
        graph = OnnxTower(file, self._device, self._threads)
        return {kind: _HalfTower(graph, kind, side) for kind in Modality}

    def _self_test(self, text: Tower) -> bool:
        """Return whether the text network masks padding.

        Raises:
            ModelLoadError: It cannot embed a sentence of 40 tokens.
        """
        ids = self._tokenizer.tokenize(f"{_SENTENCE} {_SENTENCE}").ids
        ids = np.concatenate([ids[: _TEST_TOKENS - 1], ids[-1:]])[None, :]
        padding = np.full((1, _TEST_PADDING), self._recipe.pad_id, dtype=np.int64)
        broken = (
            f"the text network of {self._folder.name} fails its self-test, a sentence of "
            f"{ids.shape[1]} tokens: the first exports of jina-clip-v1 do that; use a revision "
            "from 903aaac on"
        )
        try:
            alone = _feed(text, ids)
        # Whichever runtime it is, it says so with classes of its own.
        except Exception as exc:
            if is_out_of_memory(exc):
                raise memory_error(self._device) from exc
            msg = f"{broken} ({exc})"
            raise ModelLoadError(msg) from exc
        if alone.shape != (1, self._recipe.dimensions) or not np.isfinite(alone).all():
            msg = f"{broken} (shape {alone.shape})"
            raise ModelLoadError(msg)
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
    """One tower of a graph that holds both."""

    def __init__(self, graph: OnnxTower, modality: Modality, side: int) -> None:
        names = [name for name in _OUTPUTS[modality] if name in graph.outputs]
        if not names:
            msg = f"the network has the outputs {', '.join(graph.outputs)}, none of {modality}s"
            raise ModelLoadError(msg)
        self._graph = graph
        self._output = names[0]
        self._text = modality is Modality.TEXT
        self._side = side

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("input_ids",) if self._text else ("pixel_values",)

    def run(self, feed: Feed) -> FloatArray:
        if self._text:
            empty = np.zeros((0, 3, self._side, self._side), dtype=np.float32)
            return self._graph.run({**feed, "pixel_values": empty}, self._output)
        # An empty text makes the graph fail; one token costs nothing beside a picture.
        tokens = np.ones((len(feed["pixel_values"]), 1), dtype=np.int64)
        return self._graph.run({**feed, "input_ids": tokens}, self._output)

    def close(self) -> None:
        self._graph.close()


def onnx_files(folder: ModelFolder) -> tuple[Path, ...]:
    """Return `(text, image)`, or the one file of both, proven complete.

    Raises:
        ModelLoadError: They are not there; only the float32 files count.
    """
    onnx = folder.path / "onnx"
    both = onnx / f"{_BOTH}.onnx"
    if both.is_file():
        check_file(both)
        return (both,)
    text, image = onnx / f"{_TEXT}.onnx", onnx / f"{_IMAGE}.onnx"
    if not text.is_file() and (others := sorted(onnx.glob(f"{_TEXT}_*.onnx"))):
        msg = (
            f"{folder.path} has {', '.join(file.name for file in others)} but not {text.name}: "
            "only float32 files are read (jina-clip-v1's quantised text files are broken beyond 16 "
            "tokens and never used); "
            f"download onnx/{text.name} (for int8: --runtime onnxruntime-int8 makes its own)"
        )
        raise ModelLoadError(msg)
    check_file(text)
    check_file(image)
    return text, image


def _feed(text: Tower, ids: npt.NDArray[np.int64]) -> FloatArray:
    feed = {"input_ids": ids}
    if "attention_mask" in text.inputs:
        feed["attention_mask"] = np.ones_like(ids)
    return text.run(feed)
