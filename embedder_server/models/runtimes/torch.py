"""Run a PyTorch module on a CUDA device or the CPU; on CUDA, small batches as captured graphs.

torch is imported when it is used, because importing it takes seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from embedder_server.models.runtimes.base import Feed
from embedder_server.types import FloatArray, ModelLoadError

logger = logging.getLogger(__name__)

_PASSES_BEFORE_CAPTURE = 3
# For larger batches the GPU is busy computing, and added rows would cost more than launches.
MAX_ROWS = 16
# Each graph holds the memory of its inputs and outputs. Enough for five sizes of five widths.
MAX_GRAPHS = 32

# How often a thread of torch (libgomp) looks for work before it sleeps: for less than 1 ms. Its
# default is about 12 ms, also after a pass, on cores that decoders and the event loop need. With 0
# a pass takes up to a fifth longer, since it hands out work hundreds of times.
_SPINS = "10000"

Forward = Callable[[Feed], FloatArray]


class TorchTower:
    """`Tower` of a PyTorch module.

    Args:
        module: Takes the arrays in the order of `inputs`.
        inputs: Their names.
        device: `cpu` or `cuda:N`.
        dtype: `float32`, `bfloat16` or `float16`.
        threads: CPU threads of one forward pass; applies to the whole process.
    """

    def __init__(
        self, module: Any, inputs: tuple[str, ...], device: str, dtype: str, threads: int
    ) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        self.inputs = inputs
        self._device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._module: Any = module.to(device=self._device, dtype=self._dtype)
        self._pool: Any = None
        on_cuda = self._device.type == "cuda"
        self._graphs = GraphCache(self._eager, self._captured) if on_cuda else None

    def run(self, feed: Feed) -> FloatArray:
        with self._torch.inference_mode():
            return self._graphs.run(feed) if self._graphs is not None else self._eager(feed)

    def _eager(self, feed: Feed) -> FloatArray:
        return _vectors(self._forward([self._sent(feed[name]) for name in self.inputs]))

    def _forward(self, tensors: list[Any]) -> Any:
        # Sent in their own type, cast on the device: the bus is slower than the cast.
        cast = [t.to(self._dtype) if t.is_floating_point() else t for t in tensors]
        return self._module(*cast).float()

    def _sent(self, array: Any) -> Any:
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _captured(self, feed: Feed) -> Forward:
        """Capture the forward pass for batches with the shapes of `feed` as a CUDA graph."""
        cuda = self._torch.cuda
        arrays = [np.ascontiguousarray(feed[name]) for name in self.inputs]
        pinned = [self._torch.from_numpy(array).pin_memory() for array in arrays]
        inputs = [tensor.to(self._device) for tensor in pinned]
        with cuda.device(self._device):
            # The first passes allocate the libraries' work space, which must not be captured.
            stream = cuda.Stream()
            stream.wait_stream(cuda.current_stream())
            with cuda.stream(stream):
                for _ in range(_PASSES_BEFORE_CAPTURE):
                    self._forward(inputs)
            cuda.current_stream().wait_stream(stream)
            graph = cuda.CUDAGraph()
            # Watch only this thread: another worker thread may use the device.
            with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._forward(inputs)
        self._pool = graph.pool()  # one for all graphs, because they never run at the same time

        def replay(feed: Feed) -> FloatArray:
            for name, host, tensor in zip(self.inputs, pinned, inputs, strict=True):
                host.numpy()[...] = feed[name]
                tensor.copy_(host, non_blocking=True)
            with cuda.device(self._device):
                graph.replay()
            # Waits for the device, so that the buffers are free for the next batch.
            return _vectors(output)

        return replay

    def close(self) -> None:
        if self._graphs is not None:
            self._graphs.close()
        self._module = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


class GraphCache:
    """Runs small batches as captured graphs and all others eagerly.

    A small batch leaves a GPU idle while the CPU launches hundreds of kernels one by one. A
    captured graph launches all of them at once, but only for the shape it was captured with. So
    the cache pads the rows of a batch to a power of two, and few shapes serve all batches.

    Args:
        eager: The forward pass of any batch.
        capture: Makes the forward pass for batches with the shapes of its argument. If it raises,
            nothing is captured any more, because other shapes would fail, too.
    """

    def __init__(self, eager: Forward, capture: Callable[[Feed], Forward]) -> None:
        self._eager = eager
        self._capture = capture
        self._graphs: dict[tuple[object, ...], Forward] = {}
        self._capturing = True

    def run(self, feed: Feed) -> FloatArray:
        """Return row i for item i of every array in `feed`."""
        rows = len(next(iter(feed.values())))
        if rows > MAX_ROWS:
            return self._eager(feed)
        padded = padded_rows(feed, rows)
        graph = self._graph(padded)
        return self._eager(feed) if graph is None else graph(padded)[:rows]

    def close(self) -> None:
        """Drop all graphs, which frees their memory."""
        self._graphs.clear()
        self._capturing = False

    def _graph(self, feed: Feed) -> Forward | None:
        key = tuple((name, array.shape, array.dtype.str) for name, array in feed.items())
        graph = self._graphs.get(key)
        if graph is None and self._capturing and len(self._graphs) < MAX_GRAPHS:
            try:
                graph = self._graphs[key] = self._capture(feed)
            # A network that copies values to the CPU cannot be captured. The error classes vary.
            except Exception as error:
                self._capturing = False
                logger.warning("no more CUDA graphs are captured", extra={"reason": str(error)})
        return graph


def padded_rows(feed: Feed, rows: int) -> Feed:
    """Return `feed` with its last row repeated until the number of rows is a power of two."""
    missing = (1 << (rows - 1).bit_length()) - rows
    if missing == 0:
        return feed
    # An existing row is valid for any network; zeros might divide by zero.
    return {
        name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        for name, array in feed.items()
    }


def check_cuda(device: str) -> None:
    """Raise `ModelLoadError` if torch cannot use the CUDA device `cuda:N`."""
    torch = import_torch()
    if not torch.cuda.is_available():
        raise ModelLoadError(
            f"device {device} was requested, but torch finds no CUDA device: use --device cpu"
        )
    count = torch.cuda.device_count()
    if int(device.removeprefix("cuda:")) >= count:
        raise ModelLoadError(
            f"device {device} was requested, but there are {count}: cuda:0 to cuda:{count - 1}"
        )


def device_name(device: str) -> str:
    """Return the model of the CUDA device `cuda:N`, such as `NVIDIA H100 80GB HBM3`.

    Raises:
        ModelLoadError: torch cannot use it.
    """
    check_cuda(device)
    return str(import_torch().cuda.get_device_name(device))


def import_torch(package: str = "torch") -> Any:
    """Import torch, or a package that needs it.

    Raises:
        ModelLoadError: It is not installed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # it sets the same, and the count would win
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch loads the library
    try:
        return __import__(package)
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            f"this model needs {exc.name} to be exported or run: "
            "pip install '.[torch]' in Sentinel's folder"
        ) from exc


def _vectors(tensor: Any) -> FloatArray:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float32)
