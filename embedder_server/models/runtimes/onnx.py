"""ONNX Runtime: an ONNX file on the CPU or a CUDA device.

The one place where onnxruntime sessions are made: threads, device, and what may fail.

Every ONNX family uses it, so that `cpu` and `cuda:N` mean the same for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from embedder_server.models.runtimes.base import Feed
from embedder_server.models.runtimes.memory import is_out_of_memory, memory_error
from embedder_server.types import FloatArray, ModelLoadError


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


_CUDA_PROVIDER = "CUDAExecutionProvider"


def create_session(model: bytes | Path, *, device: str, threads: int) -> ort.InferenceSession:
    """Return a session that runs `model` on `device`.

    The session may be called from one thread at a time, the engine's device thread.

    Args:
        model: A serialised ONNX model, or the file that holds it.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass; ignored by operators that run on a GPU.

    Raises:
        ModelLoadError: The device is not usable, or the bytes are not a model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory plan is cached per input shape; text batches have hundreds of shapes.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Threads that spin between operators take the cores of image decoding and of the loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device)
    try:
        source = str(model) if isinstance(model, Path) else model
        session = ort.InferenceSession(source, sess_options=options, providers=providers)
    # onnxruntime raises a dozen unrelated classes that share no base but Exception.
    except Exception as exc:
        if is_out_of_memory(exc):
            raise memory_error(device) from exc
        name = f"{model}" if isinstance(model, Path) else "the model"
        msg = f"onnxruntime cannot load {name} on {device}: {exc}"
        raise ModelLoadError(msg) from exc
    wanted = providers[0][0]
    # A provider whose libraries do not load is dropped with a mere warning, and the model would
    # then run on the CPU while the worker reports a GPU.
    if session.get_providers()[0] != wanted:
        msg = f"onnxruntime offers {wanted} but could not start it on {device}; {_CUDA_HINT}"
        raise ModelLoadError(msg)
    return session


_CUDA_HINT = (
    "install the GPU build and its CUDA libraries: "
    "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
)


def _providers(device: str) -> Sequence[tuple[str, dict[str, Any]]]:
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    match = re.fullmatch(r"cuda:(\d+)", device)
    if match is None:
        msg = f"unknown device {device!r}: use 'cpu' or 'cuda:N'"
        raise ModelLoadError(msg)
    if _CUDA_PROVIDER not in ort.get_available_providers():
        msg = f"device {device} asked for, but onnxruntime has no CUDA provider; {_CUDA_HINT}"
        raise ModelLoadError(msg)
    # Finds cuDNN and cuBLAS inside the nvidia-* wheels; without it only a system CUDA is found.
    ort.preload_dlls()
    # TF32 rounds to 10 mantissa bits: then a text alone and in a batch differ at 1e-3.
    return [
        (_CUDA_PROVIDER, {"device_id": match[1], "use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ]
