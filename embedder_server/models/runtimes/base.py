"""What a runtime gives: one network, called with arrays. And which runtimes there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from embedder_server.types import FloatArray, ModelLoadError

Feed = Mapping[str, npt.NDArray[Any]]

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
_LIBRARIES = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
    "torch": ("fp32", "bf16", "fp16"),
}


class Tower(Protocol):
    """One of a model's two networks, loaded. For one thread at a time."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays it takes."""
        ...

    def run(self, feed: Feed) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for item i of every array in `feed`."""
        ...

    def close(self) -> None:
        """Release its memory. Nothing is called afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """A library and the precision it computes with.

    Attributes:
        library: `onnxruntime`, `openvino` or `torch`.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
    """

    library: str
    precision: str = "fp32"

    def __str__(self) -> str:
        return self.library if self.precision == "fp32" else f"{self.library}-{self.precision}"

    @property
    def dtype(self) -> str:
        return _DTYPES[self.precision]


REFERENCE = Runtime("onnxruntime")


def parse_runtime(name: str) -> Runtime:
    """Return the runtime of a name such as `openvino-bf16`.

    Raises:
        ModelLoadError: There is no such runtime.
    """
    library, _, precision = name.partition("-")
    runtime = Runtime(library, precision or "fp32")
    if runtime.precision not in _LIBRARIES.get(library, ()):
        msg = f"unknown runtime {name!r}; there are auto, {', '.join(runtime_names())}"
        raise ModelLoadError(msg)
    return runtime


def runtime_names() -> tuple[str, ...]:
    """Return every name that `parse_runtime` takes."""
    return tuple(
        str(Runtime(library, precision))
        for library, precisions in _LIBRARIES.items()
        for precision in precisions
    )
