"""ONNX Runtime: an ONNX file on the CPU or a CUDA device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedder_server.models.onnx_session import create_session
from embedder_server.models.runtimes.base import Feed
from embedder_server.types import FloatArray


class OnnxTower:
    """`Tower` of an ONNX file.

    Args:
        file: The network.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        outputs: Names the vectors may have; if there is none of them, the first output is taken.

    Raises:
        ModelLoadError: The device is not usable, or the file is not a network.
    """

    def __init__(
        self, file: Path, device: str, threads: int, outputs: tuple[str, ...] = ()
    ) -> None:
        self._session = create_session(file, device=device, threads=threads)
        self._inputs = tuple(argument.name for argument in self._session.get_inputs())
        self.outputs = tuple(argument.name for argument in self._session.get_outputs())
        named = [name for name in outputs if name in self.outputs]
        self._output = (named or self.outputs)[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._inputs

    def run(self, feed: Feed, output: str = "") -> FloatArray:
        [vectors] = self._session.run([output or self._output], feed)
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Do nothing: onnxruntime frees a session's memory with the object."""
