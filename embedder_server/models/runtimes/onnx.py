"""Run ONNX files: with ONNX Runtime on the CPU or a CUDA device, with OpenVINO on the CPU.

All ONNX Runtime sessions are made here, so that `cpu` and `cuda:N` mean the same for all models.
On a device, CUDA's own kernels or TensorRT's run; the runtime's name says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from embedder_server.models.runtimes.base import Feed, Runtime, Tower, as_load_error
from embedder_server.types import FloatArray, ModelLoadError

_CUDA, _TENSORRT = "onnxruntime-cuda", "onnxruntime-tensorrt"
_CUDA_PROVIDER = "CUDAExecutionProvider"
_PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    _CUDA: _CUDA_PROVIDER,
    _TENSORRT: "TensorrtExecutionProvider",
}
_CUDA_HINT = (
    "install the GPU build and its CUDA libraries: "
    "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
)
_HINTS = {
    _CUDA: _CUDA_HINT,
    _TENSORRT: f"{_CUDA_HINT}, and TensorRT's libraries (pip install tensorrt), or choose {_CUDA}",
}
# bfloat16 is the CPU's own matrix arithmetic (AMX, AVX512-BF16): about twice as fast, and vectors
# stay within a cosine of 0.9997 of float32. int8 weights are multiplied in float32.
_OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def cpu_candidates() -> tuple[Runtime, ...]:
    """Return the runtimes to compare for an ONNX file on this CPU, the exact one first."""
    return (Runtime("onnxruntime"), *(Runtime("openvino", p) for p in cpu_precisions()))


def cpu_precisions() -> tuple[str, ...]:
    """Return OpenVINO's native precisions on this CPU; empty if OpenVINO is not installed."""
    try:
        capabilities = _openvino().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ModelLoadError, RuntimeError):
        return ()
    return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)


def device_runtime(device: str) -> Runtime:
    """Return ONNX Runtime's exact runtime for a device."""
    return Runtime("onnxruntime" if device == "cpu" else _CUDA)


def open_onnx(
    file: Path,
    runtime: Runtime,
    device: str,
    threads: int,
    outputs: tuple[str, ...] = (),
    *,
    engines: Path | None = None,
) -> Tower:
    """Load the network in an ONNX file.

    Args:
        file: The network.
        runtime: ONNX Runtime or OpenVINO.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        outputs: Possible names of the vectors; without a match the first output is used.
        engines: Where TensorRT keeps what it builds, which takes minutes; None: nowhere.

    Raises:
        ModelLoadError: It cannot run there.
    """
    if runtime.library == "openvino":
        if device != "cpu":
            raise ModelLoadError(
                f"--runtime {runtime} runs on the CPU only; use --device cpu, or another runtime"
            )
        return OpenVinoTower(file, runtime.precision, threads, outputs)
    if runtime.library not in _PROVIDERS:
        raise ModelLoadError(f"this model has no files for --runtime {runtime}")
    return OnnxTower(file, device, threads, outputs, library=runtime.library, engines=engines)


class OnnxTower:
    """`Tower` of an ONNX file in ONNX Runtime; the arguments: see `open_onnx`, `create_session`."""

    def __init__(
        self,
        file: Path,
        device: str,
        threads: int,
        outputs: tuple[str, ...] = (),
        *,
        library: str = "",
        engines: Path | None = None,
    ) -> None:
        self._session = create_session(
            file, device=device, threads=threads, library=library, engines=engines
        )
        self.inputs = tuple(argument.name for argument in self._session.get_inputs())
        self.outputs = tuple(argument.name for argument in self._session.get_outputs())
        named = [name for name in outputs if name in self.outputs]
        self._output = (named or self.outputs)[0]

    def run(self, feed: Feed, output: str = "") -> FloatArray:
        [vectors] = self._session.run([output or self._output], feed)
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Do nothing: onnxruntime frees a session's memory with the object."""


class OpenVinoTower:
    """`Tower` of an ONNX file in OpenVINO. The arguments are those of `open_onnx`."""

    def __init__(
        self, file: Path, precision: str, threads: int, outputs: tuple[str, ...] = ()
    ) -> None:
        core = _openvino()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision],
            # On CPUs with VNNI, OpenVINO makes the inputs of int8 weights int8, too: cosine 0.9988.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            # Kernels kept, one for each operator and shape; text batches have thousands of shapes.
            # Measured on a tiny model and 1,152 shapes: 0.8 GB by default, 0.2 GB at 512.
            "CPU_RUNTIME_CACHE_CAPACITY": "512",
            # --cpus and the operating system decide where threads run.
            "ENABLE_CPU_PINNING": "NO",
        }
        with as_load_error(f"openvino cannot load {file}", "cpu"):
            network = core.read_model(file)
            self.inputs = tuple(port.any_name for port in network.inputs)
            compiled = core.compile_model(network, "CPU", options)
            self._request: Any = compiled.create_infer_request()
            named = [port for port in compiled.outputs if port.get_names() & {*outputs}]
            self._output: Any = (named or compiled.outputs)[0]

    def run(self, feed: Feed) -> FloatArray:
        results = self._request.infer(dict(feed), share_inputs=True)
        # A copy: the request owns its output and overwrites it with the next batch.
        return np.array(results[self._output], dtype=np.float32)

    def close(self) -> None:
        """Do nothing: OpenVINO frees a network's memory with the object."""


def create_session(
    model: bytes | Path,
    *,
    device: str,
    threads: int,
    library: str = "",
    engines: Path | None = None,
) -> ort.InferenceSession:
    """Return a session that runs `model` on `device`. Use it from one thread at a time.

    Args:
        model: A serialised ONNX model, or the file that holds it.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass; ignored by operators that run on a GPU.
        library: `Runtime.library`; empty: that of `device_runtime`.
        engines: Where TensorRT keeps what it builds; None: nowhere.

    Raises:
        ModelLoadError: The device is not usable, or the bytes are not a model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory plan is cached per input shape; text batches have hundreds of shapes.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Threads that spin between operators take the cores of image decoding and of the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    library = library or device_runtime(device).library
    providers = _providers(library, device, engines)
    name = str(model) if isinstance(model, Path) else "the model"
    source = name if isinstance(model, Path) else model
    with as_load_error(f"onnxruntime cannot load {name} on {device}", device):
        session = ort.InferenceSession(source, sess_options=options, providers=providers)
    expected = providers[0][0]
    # If a provider's libraries do not load, onnxruntime only warns and drops it. Then the model
    # would run on the CPU while the worker reports a GPU.
    if session.get_providers()[0] != expected:
        raise ModelLoadError(
            f"onnxruntime offers {expected} but could not start it on {device}; {_HINTS[library]}"
        )
    return session


def write_folded(file: Path, target: Path, weights: str) -> None:
    """Write the network in `file` to `target` with every constant computed.

    Large tensors go into the file `weights` beside it.

    Raises:
        ModelLoadError: The file is no network.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", weights
    )
    with as_load_error(f"onnxruntime cannot load {file}", "cpu"):
        ort.InferenceSession(str(file), sess_options=options, providers=["CPUExecutionProvider"])


def has_cuda() -> bool:
    """Tell whether the installed ONNX Runtime is the build for CUDA."""
    return _CUDA_PROVIDER in ort.get_available_providers()


def _providers(
    library: str, device: str, engines: Path | None
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Return what runs a network, and what runs the operators that it cannot."""
    on_cpu: tuple[str, dict[str, Any]] = (_PROVIDERS["onnxruntime"], {})
    if (device == "cpu") != (library == "onnxruntime"):
        raise ModelLoadError(
            f"--runtime {library} does not run on {device}: on the CPU it is onnxruntime, on "
            f"cuda:N {_CUDA} or {_TENSORRT}"
        )
    if device == "cpu":
        return [on_cpu]
    for needed in {_CUDA, library}:
        if _PROVIDERS[needed] not in ort.get_available_providers():
            raise ModelLoadError(
                f"device {device} was requested, but onnxruntime has no "
                f"{needed.removeprefix('onnxruntime-')} provider; {_HINTS[needed]}"
            )
    # Finds cuDNN and cuBLAS inside the nvidia-* wheels; without it only a system CUDA is found.
    ort.preload_dlls()
    number = device.removeprefix("cuda:")
    # TF32 rounds to 10 mantissa bits: then a text alone and in a batch differ at 1e-3.
    on_cuda = (_CUDA_PROVIDER, {"device_id": number, "use_tf32": "0"})
    if library == _CUDA:
        return [on_cuda, on_cpu]
    options = {"device_id": number}
    if engines is not None:
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(engines)}
    return [(_PROVIDERS[_TENSORRT], options), on_cuda, on_cpu]


def _openvino() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            "openvino is not installed: pip install '.[openvino]' in Sentinel's folder"
        ) from exc
    return openvino.Core()
