"""OpenVINO: an ONNX file on the CPU, in float32 or in the bfloat16 of newer CPUs.

bfloat16 is the CPU's own matrix arithmetic (AMX, AVX512-BF16): about twice as fast, and vectors
stay within a cosine of 0.9997 of float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embedder_server.models.runtimes.base import Feed
from embedder_server.models.runtimes.memory import is_out_of_memory, memory_error
from embedder_server.types import FloatArray, ModelLoadError

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoTower:
    """`Tower` of an ONNX file.

    Args:
        file: The network.
        precision: `fp32` or `bf16`.
        threads: CPU threads of one forward pass.
        outputs: Names the vectors may have; if there is none of them, the first output is taken.

    Raises:
        ModelLoadError: OpenVINO is not installed, or cannot run the file.
    """

    def __init__(
        self, file: Path, precision: str, threads: int, outputs: tuple[str, ...] = ()
    ) -> None:
        core = _core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            # Kernels kept, one for each operator and shape; text batches have thousands of shapes.
            # Measured on a tiny model and 1,152 shapes: 0.8 GB by default, 0.2 GB at 512.
            "CPU_RUNTIME_CACHE_CAPACITY": "512",
            # --cpus and the operating system decide where threads run.
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            network = core.read_model(file)
            self._inputs = tuple(port.any_name for port in network.inputs)
            compiled = core.compile_model(network, "CPU", options)
            self._request: Any = compiled.create_infer_request()
            named = [port for port in compiled.outputs if port.get_names() & {*outputs}]
            self._output: Any = (named or compiled.outputs)[0]
        # OpenVINO raises RuntimeError for everything, a damaged file and a lack of memory alike.
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise memory_error("cpu") from exc
            msg = f"openvino cannot load {file}: {exc}"
            raise ModelLoadError(msg) from exc

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._inputs

    def run(self, feed: Feed) -> FloatArray:
        results = self._request.infer(dict(feed), share_inputs=True)
        # A copy: the request owns its output and overwrites it with the next batch.
        return np.array(results[self._output], dtype=np.float32)

    def close(self) -> None:
        """Do nothing: OpenVINO frees a network's memory with the object."""


def cpu_precisions() -> tuple[str, ...]:
    """Return what this CPU computes natively; empty if OpenVINO is not installed."""
    try:
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ModelLoadError, RuntimeError):
        return ()
    return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)


def _core() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as exc:
        msg = "openvino is not installed: pip install '.[openvino]' in Sentinel's folder"
        raise ModelLoadError(msg) from exc
    return openvino.Core()
