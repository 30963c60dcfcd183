"""The runtime interface: loaded networks, the runtimes there are, and their memory errors.

Imports no runtime library, so that a worker loads only the one it uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedder_server.texts.batches import TextBatches
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, Modality, ModelLoadError

Feed = Mapping[str, npt.NDArray[Any]]

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
# ONNX Runtime has one name for each kind of device code: its own for CPUs, CUDA's, TensorRT's.
_LIBRARIES = {
    "onnxruntime": ("fp32", "int8"),
    "onnxruntime-cuda": ("fp32",),
    "onnxruntime-tensorrt": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32", "bf16", "fp16"),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A library and a precision, both as in `_LIBRARIES`; int8 is that of the weights alone."""

    library: str
    precision: str = "fp32"

    def __str__(self) -> str:
        return self.library if self.precision == "fp32" else f"{self.library}-{self.precision}"

    @property
    def dtype(self) -> str:
        return _DTYPES[self.precision]


def parse_runtime(name: str) -> Runtime:
    """Return the runtime of a name such as `openvino-bf16`.

    Raises:
        ModelLoadError: There is no such runtime.
    """
    if (runtime := _RUNTIMES.get(name)) is None:
        raise ModelLoadError(
            f"unknown runtime {name!r}; there are auto, {', '.join(runtime_names())}"
        )
    return runtime


def runtime_names() -> tuple[str, ...]:
    """Return every name that `parse_runtime` accepts."""
    return tuple(_RUNTIMES)


_RUNTIMES = {
    str(runtime): runtime
    for library, precisions in _LIBRARIES.items()
    for runtime in (Runtime(library, precision) for precision in precisions)
}


class Tower(Protocol):
    """One of a model's two networks, loaded. Use it from one thread at a time.

    `inputs` are the names of its input arrays.
    """

    inputs: tuple[str, ...]

    def run(self, feed: Feed) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for item i of every array in `feed`."""
        ...

    def close(self) -> None:
        """Release the network's memory. Nothing is called afterwards."""
        ...


class TwoTowers:
    """A model's text and image network, loaded in one runtime. Use it from one thread at a time."""

    def __init__(
        self, towers: Mapping[Modality, Tower], batches: TextBatches, dimensions: int
    ) -> None:
        self._text, self._image = towers[Modality.TEXT], towers[Modality.IMAGE]
        self._takes_mask = "attention_mask" in self._text.inputs
        [self._pixels] = self._image.inputs
        self._batches = batches
        self._dimensions = dimensions

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for text i, not normalised."""
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for rows, ids, mask in self._batches.split(texts):
            feed = {"input_ids": ids}
            if self._takes_mask:
                feed["attention_mask"] = mask
            vectors[rows] = self._sized("text", self._text.run(feed), len(rows))
        return vectors

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for image i, not normalised."""
        vectors = self._image.run({self._pixels: np.stack(images)})
        return self._sized("image", vectors, len(images))

    def _sized(self, kind: str, vectors: FloatArray, count: int) -> FloatArray:
        if vectors.shape == (count, self._dimensions):
            return vectors
        raise ModelLoadError(
            f"for {count} {kind}s the {kind} network returns an array of the shape {vectors.shape},"
            f" not ({count}, {self._dimensions}): both networks must make vectors of one length; "
            "download the whole model again, or correct the length in its configuration"
        )

    def close(self) -> None:
        """Release the memory of both networks."""
        self._text.close()
        self._image.close()


class Networks(Protocol):
    """A model's two networks, not loaded yet."""

    def candidates(self) -> tuple[Runtime, ...]:
        """Return the runtimes that `auto` may choose, the exact one first."""
        ...

    def open(self, runtime: Runtime) -> TwoTowers:
        """Load both networks in `runtime`.

        Raises:
            ModelLoadError: They cannot run there.
        """
        ...

    def reference(self) -> TwoTowers | None:
        """Load both in float32 on the CPU, to compare with where the device is too small for that.

        Return None if the device is the CPU itself.
        """
        ...

    def logits(self) -> tuple[float, float]:
        """Return the scale and the bias that turn a cosine into a logit."""
        ...


# How each runtime reports a lack of memory.
_MEMORY_PHRASES = (
    "out of memory",  # torch, CUDA
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "allocation_failed",  # cuDNN 9
    "failed to allocate memory",  # onnxruntime
    "bad_alloc",  # C++
    "bad allocation",
    "not enough memory",  # torch on the CPU
    "can't allocate memory",
)


class ModelMemoryError(ModelLoadError):
    """A model, or a batch of it, does not fit into its device's memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports a lack of memory, of the host or of a GPU."""
    if isinstance(error, (MemoryError, ModelMemoryError)):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in _MEMORY_PHRASES)


def memory_error(device: str) -> ModelMemoryError:
    """Return the error for an operator whose device is too small."""
    return ModelMemoryError(
        f"the model does not fit into the memory of {device}: choose a smaller model or a "
        "--runtime of lower precision where it has one, free the device, or use another one"
    )


@contextmanager
def as_load_error(what: str, device: str) -> Iterator[None]:
    """Raise any error inside the block as `memory_error`, or as a `ModelLoadError` with `what`.

    Runtimes raise many classes that share no base but Exception.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise memory_error(device) from error
        raise ModelLoadError(f"{what}: {error}") from error


@contextmanager
def memory_as_load_error(device: str) -> Iterator[None]:
    """Raise `memory_error` for a lack of memory inside the block."""
    try:
        yield
    # Every runtime has its own classes for it.
    except Exception as error:
        if isinstance(error, ModelMemoryError) or not is_out_of_memory(error):
            raise
        raise memory_error(device) from error
