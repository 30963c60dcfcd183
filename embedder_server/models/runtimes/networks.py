"""Where a transformers model's two networks come from: the export cache, or torch itself."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Protocol

from embedder_server.models.hub.dual_encoder import TwoTowers
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.runtimes.base import Runtime, Tower
from embedder_server.models.runtimes.export_cache import Entry, ExportCache
from embedder_server.models.runtimes.exporting import (
    EXPORT_VERSION,
    export_model,
    quantise,
    tower_file,
)
from embedder_server.models.runtimes.memory import is_out_of_memory, memory_error
from embedder_server.models.runtimes.onnx import OnnxTower
from embedder_server.models.runtimes.openvino import OpenVinoTower, cpu_precisions
from embedder_server.texts.batches import TextBatches
from embedder_server.types import Modality, ModelLoadError

# Texts are filled up to a multiple of this many tokens where each shape is a captured CUDA graph.
_GRAPH_TOKENS = 16


class Networks(Protocol):
    """A model's two networks, not loaded yet."""

    def candidates(self) -> tuple[Runtime, ...]:
        """Return the runtimes that `auto` may choose, the exact one first."""
        ...

    def open(self, runtime: Runtime) -> TwoTowers:
        """Return both networks in `runtime`.

        Raises:
            ModelLoadError: They cannot run there.
        """
        ...

    def reference(self) -> TwoTowers | None:
        """Return both in float32 on the CPU, to compare with where the device cannot hold that.

        None if the device is the CPU itself.
        """
        ...

    def logits(self) -> tuple[float, float]:
        """Return scale and bias that make a logit of a cosine."""
        ...


class TransformersNetworks:
    """`Networks` of a folder that transformers can load.

    Args:
        folder: The model.
        recipe: Of the model.
        fingerprint: Names its export.
        cache: Where exports are kept.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        trust_remote_code: Whether code of the model's own folder may run.
    """

    def __init__(
        self,
        folder: ModelFolder,
        recipe: Recipe,
        fingerprint: str,
        cache: ExportCache,
        *,
        device: str,
        threads: int,
        trust_remote_code: bool = False,
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._key = f"{fingerprint[:24]}-v{EXPORT_VERSION}"
        self._cache = cache
        self._device = device
        self._threads = threads
        self._trust = trust_remote_code
        self._logits: tuple[float, float] | None = None
        self._entry: Entry | None = None

    def candidates(self) -> tuple[Runtime, ...]:
        if self._trust:
            return (Runtime("torch"),)
        if self._device == "cpu":
            return cpu_candidates() + _torch_on_cpu()
        if util.find_spec("torch") is None:
            return (Runtime("onnxruntime"),)
        return Runtime("torch"), Runtime("torch", "bf16"), Runtime("torch", "fp16")

    def open(self, runtime: Runtime) -> TwoTowers:
        if self._trust and runtime.library != "torch":
            msg = f"a model with code of its own runs on --runtime torch only, not {runtime}"
            raise ModelLoadError(msg)
        if runtime.library == "torch":
            multiple = 1 if self._device == "cpu" else _GRAPH_TOKENS
            return self._paired(self._torch(runtime, self._device), multiple)
        return self._paired(self._exported(runtime))

    def reference(self) -> TwoTowers | None:
        if self._device == "cpu":
            return None
        return self._paired(self._torch(Runtime("torch"), "cpu"))

    def _paired(self, towers: dict[Modality, Tower], multiple: int = 1) -> TwoTowers:
        return TwoTowers(towers, text_batches(self._recipe, multiple), self._recipe.dimensions)

    def logits(self) -> tuple[float, float]:
        if self._logits is None:
            facts = self._export().facts
            self._logits = float(facts["logit_scale"]), float(facts["logit_bias"])
        return self._logits

    def _export(self) -> Entry:
        # Kept, because finding it means reading all of it.
        if self._entry is None:
            self._entry = self._cache.entry(
                self._key, lambda target: export_model(self._folder, self._recipe, target)
            )
        return self._entry

    def _exported(self, runtime: Runtime) -> dict[Modality, Tower]:
        path = self._export().path
        if runtime.precision == "int8":
            path = int8_export(
                self._cache, self._key, {kind: tower_file(path, kind) for kind in Modality}
            )
        return {
            kind: open_onnx(tower_file(path, kind), runtime, self._device, self._threads)
            for kind in Modality
        }

    def _torch(self, runtime: Runtime, device: str) -> dict[Modality, Tower]:
        from embedder_server.models.runtimes import torch as towers

        if device != "cpu":
            towers.check_cuda(device)
        model = towers.load_transformers(self._folder, trust_remote_code=self._trust)
        self._logits = towers.logits_of(model)
        try:
            return {
                kind: towers.TorchTower(
                    *towers.build_module(model, self._recipe, kind),
                    device=device,
                    dtype=runtime.dtype,
                    threads=self._threads,
                )
                for kind in Modality
            }
        except (RuntimeError, MemoryError) as exc:
            if is_out_of_memory(exc):
                raise memory_error(device) from exc
            msg = f"torch cannot move the model to {device}: {exc}"
            raise ModelLoadError(msg) from exc


def cpu_candidates() -> tuple[Runtime, ...]:
    """Return the runtimes worth trying for an ONNX file on this CPU, the exact one first."""
    return (Runtime("onnxruntime"), *(Runtime("openvino", p) for p in cpu_precisions()))


def _torch_on_cpu() -> tuple[Runtime, ...]:
    # In bfloat16 it can be faster than ONNX Runtime, but was slower than OpenVINO in bfloat16 at
    # every load (docs/models.md); and a worker that never imports torch starts seconds sooner.
    if cpu_precisions() or util.find_spec("torch") is None:
        return ()
    return (Runtime("torch", "bf16"),)


def open_onnx(
    file: Path, runtime: Runtime, device: str, threads: int, outputs: tuple[str, ...] = ()
) -> Tower:
    """Return the network in an ONNX file, loaded.

    Args:
        file: The network.
        runtime: ONNX Runtime or OpenVINO.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        outputs: Names the vectors may have; if there is none of them, the first output is taken.

    Raises:
        ModelLoadError: It cannot run there.
    """
    if runtime.library == "openvino":
        if device != "cpu":
            msg = f"--runtime {runtime} runs on the CPU only; use --device cpu, or another runtime"
            raise ModelLoadError(msg)
        return OpenVinoTower(file, runtime.precision, threads, outputs)
    if runtime.library != "onnxruntime":
        msg = f"this model has no files for --runtime {runtime}"
        raise ModelLoadError(msg)
    return OnnxTower(file, device, threads, outputs)


def int8_export(cache: ExportCache, key: str, sources: dict[Modality, Path]) -> Path:
    """Return the folder of the int8 copies of ONNX files, made if it is missing."""

    def build(target: Path) -> dict[str, str]:
        for modality, source in sources.items():
            quantise(source, target, modality)
        return {}

    return cache.entry(f"{key}-int8", build).path


def text_batches(recipe: Recipe, multiple: int = 1) -> TextBatches:
    """Return the rules for batches of texts that `recipe` gives."""
    return TextBatches(
        recipe.padding, recipe.pad_id, recipe.max_text_tokens, recipe.pad_left, multiple
    )
