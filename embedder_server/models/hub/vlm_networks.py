"""Run a vision-language model in torch: texts and images are sequences of one network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedder_server.models.hub.families import weight_files
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.hub.vlm_tokens import TokenSequence
from embedder_server.models.runtimes.base import Runtime, TwoTowers, as_load_error
from embedder_server.models.runtimes.torch import check_cuda, import_torch
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, ModelLoadError
from sentinel_core.memory import usable_bytes

if TYPE_CHECKING:
    from embedder_server.models.hub.vlm import VlmRecipe

logger = logging.getLogger(__name__)

# Most tokens of one pass, padding included. More gain nothing on a CPU, and need memory on a GPU.
_TOKENS_PER_PASS = {"cpu": 2_048, "cuda": 16_384}
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# The longest sequence of a pass has at most this many times the tokens of the shortest, and a few.
_PADDING_RATIO = 1.5
_PADDING_TOKENS = 8

# Takes the model, the recipe, ids, mask and images; returns `[rows, dimensions]`.
Forward = Callable[[Any, "VlmRecipe", Any, Any, Sequence[Any]], Any]


class VlmNetworks:
    """`Networks` of one network that reads both kinds of content."""

    def __init__(
        self,
        folder: ModelFolder,
        recipe: VlmRecipe,
        forward: Forward,
        *,
        config: Mapping[str, Any],
        device: str,
        threads: int,
    ) -> None:
        """Keep the parts; `config` replaces entries of the folder's configuration."""
        self._folder = folder
        self._config = dict(config)
        self._recipe = recipe
        self._forward = forward
        self._device = device
        self._threads = threads

    def candidates(self) -> tuple[Runtime, ...]:
        half = Runtime("torch", "bf16")
        # Also for a GPU: the weights pass through the memory of the host, which computes the exact
        # vectors where the GPU is too small for them.
        if self._bytes(Runtime("torch")) > usable_bytes():
            return (half,)
        return Runtime("torch"), half

    def open(self, runtime: Runtime) -> TwoTowers:
        needed, usable = self._bytes(runtime), usable_bytes()
        if self._device == "cpu" and needed > usable:
            raise ModelLoadError(
                f"{self._folder.name} takes {needed / 1e9:.1f} GB in {runtime.dtype}, and this "
                f"machine or container has {usable / 1e9:.1f} GB of memory: give it more, or use "
                "--runtime torch-bf16 or a smaller model"
            )
        return self._opened(runtime, self._device)

    def _bytes(self, runtime: Runtime) -> int:
        """Return what the weights take in this precision; the files may have another one."""
        config = self._folder.config
        stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        size = sum(file.stat().st_size for file in weight_files(self._folder))
        return size * _WIDTHS[runtime.dtype] // _WIDTHS.get(stored, 4)

    def reference(self) -> TwoTowers | None:
        return None if self._device == "cpu" else self._opened(Runtime("torch"), "cpu")

    def logits(self) -> tuple[float, float]:
        return 1.0, 0.0

    def _opened(self, runtime: Runtime, device: str) -> VlmTowers:
        if device != "cpu":
            check_cuda(device)
        import_torch().set_num_threads(self._threads)
        model = self._loaded(runtime.dtype)
        with as_load_error(f"torch cannot move the model to {device}", device):
            return VlmTowers(model.to(device), self._recipe, self._forward, device)

    def _loaded(self, dtype: str) -> Any:
        """Load the model on the CPU in the precision it runs in, or it would need memory twice."""
        transformers = import_torch("transformers")
        with as_load_error(f"transformers cannot load {self._folder.path}", "cpu"):
            model, report = transformers.AutoModel.from_pretrained(
                self._folder.path,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                **self._config,
            )
        # transformers would initialise them randomly, and every vector would be noise.
        if missing := sorted(report["missing_keys"]):
            raise ModelLoadError(
                f"{self._folder.path} lacks {len(missing)} weights, for example {missing[0]}: "
                "download the model again"
            )
        return model.eval()


class VlmTowers(TwoTowers):
    """Both towers in one loaded network. Use it from one thread at a time."""

    def __init__(self, model: Any, recipe: VlmRecipe, forward: Forward, device: str) -> None:
        # Not the base class's: there are no two towers.
        self._model = model
        self._recipe = recipe
        self._forward = forward
        self._device = device
        self._most_tokens = _TOKENS_PER_PASS[device.partition(":")[0]]

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        return self._embed([TokenSequence(text.ids) for text in texts])

    def embed_images(self, images: Sequence[Any]) -> FloatArray:
        return self._embed(images)

    def close(self) -> None:
        self._model = None
        if self._device != "cpu":
            import_torch().cuda.empty_cache()

    def _embed(self, sequences: Sequence[TokenSequence]) -> FloatArray:
        vectors = np.empty((len(sequences), self._recipe.dimensions), dtype=np.float32)
        lengths = np.array([len(one.ids) for one in sequences], dtype=np.int64)
        for rows in passes(lengths, self._most_tokens):
            vectors[rows] = self._run([sequences[row] for row in rows])
        return vectors

    def _run(self, sequences: Sequence[TokenSequence]) -> npt.NDArray[Any]:
        torch = import_torch()
        width = max(len(one.ids) for one in sequences)
        ids = np.full((len(sequences), width), self._recipe.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(sequences):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        images = [self._sent(one.pixels) for one in sequences if one.pixels is not None]
        with torch.inference_mode():
            vectors = self._forward(
                self._model, self._recipe, self._sent(ids), self._sent(mask), images
            )
            return np.asarray(vectors.float().cpu().numpy())

    def _sent(self, array: npt.NDArray[Any]) -> Any:
        return import_torch().from_numpy(array).to(self._device)


def passes(lengths: npt.NDArray[np.int64], most_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of each pass, shortest sequences first: of similar length, within the budget.

    A longer sequence than the budget is a pass of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order):
            longest = int(lengths[order[end]])
            padded = longest > lengths[order[start]] * _PADDING_RATIO + _PADDING_TOKENS
            if not padded and longest * (end + 1 - start) <= most_tokens:
                continue
        yield order[start:end]
        start = end
