"""What a lack of memory looks like; every runtime says it in words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embedder_server.types import ModelLoadError

_PHRASES = (
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
    """Return whether `error` is a lack of memory, of the host or of a GPU."""
    if isinstance(error, (MemoryError, ModelMemoryError)):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in _PHRASES)


def memory_error(device: str) -> ModelMemoryError:
    """Return what to tell the operator of a device that is too small."""
    return ModelMemoryError(
        f"the model does not fit into the memory of {device}: choose a smaller model or a "
        "--runtime of lower precision where it has one, free the device, or use another one"
    )


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
