"""PyTorch: a transformers model as it is, on a CUDA device or the CPU. Also what is exported.

The only module besides the exporter that imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedder_server.images.patches import PatchRecipe
from embedder_server.models.hub.families import Recipe, weight_files
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.runtimes.base import Feed
from embedder_server.models.runtimes.graph_cache import Forward, GraphCache
from embedder_server.models.runtimes.memory import is_out_of_memory, memory_error
from embedder_server.types import FloatArray, Modality, ModelLoadError

_PASSES_BEFORE_CAPTURE = 3
_INSTALL = "pip install '.[torch]' in Sentinel's folder"


class TorchTower:
    """`Tower` of a module made by `build_module`.

    Args:
        module: Takes the arrays in the order of `inputs`.
        inputs: Their names.
        device: `cpu` or `cuda:N`.
        dtype: `float32`, `bfloat16` or `float16`.
        threads: CPU threads of one forward pass; of the whole process.
    """

    def __init__(
        self, module: Any, inputs: tuple[str, ...], device: str, dtype: str, threads: int
    ) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        self._inputs = inputs
        self._device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._module: Any = module.to(device=self._device, dtype=self._dtype)
        self._pool: Any = None
        on_cuda = self._device.type == "cuda"
        self._graphs = GraphCache(self._eager, self._captured) if on_cuda else None

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._inputs

    def run(self, feed: Feed) -> FloatArray:
        with self._torch.inference_mode():
            return self._graphs.run(feed) if self._graphs is not None else self._eager(feed)

    def _eager(self, feed: Feed) -> FloatArray:
        return _vectors(self._forward([self._sent(feed[name]) for name in self._inputs]))

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
        """Return the forward pass of batches with the shapes of `feed`, as a CUDA graph."""
        cuda = self._torch.cuda
        arrays = [np.ascontiguousarray(feed[name]) for name in self._inputs]
        pinned = [self._torch.from_numpy(array).pin_memory() for array in arrays]
        inputs = [tensor.to(self._device) for tensor in pinned]
        with cuda.device(self._device):
            # Work space of the libraries is made in the first passes, and must not be captured.
            stream = cuda.Stream()
            stream.wait_stream(cuda.current_stream())
            with cuda.stream(stream):
                for _ in range(_PASSES_BEFORE_CAPTURE):
                    self._forward(inputs)
            cuda.current_stream().wait_stream(stream)
            graph = cuda.CUDAGraph()
            # Only this thread is watched: another worker thread may be using the device.
            with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._forward(inputs)
        self._pool = graph.pool()  # one for all: they run one after another

        def replay(feed: Feed) -> FloatArray:
            for name, host, tensor in zip(self._inputs, pinned, inputs, strict=True):
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


def _vectors(tensor: Any) -> FloatArray:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float32)


def check_cuda(device: str) -> None:
    """Raise `ModelLoadError` if torch cannot use the CUDA device `cuda:N`."""
    torch, _ = _import()
    if not torch.cuda.is_available():
        msg = f"device {device} asked for, but torch finds no CUDA device: use --device cpu"
        raise ModelLoadError(msg)
    count = torch.cuda.device_count()
    if int(device.removeprefix("cuda:")) >= count:
        msg = f"device {device} asked for, but there are {count}: cuda:0 to cuda:{count - 1}"
        raise ModelLoadError(msg)


def device_name(device: str) -> str:
    """Return the model of the CUDA device `cuda:N`, such as `NVIDIA H100 80GB HBM3`.

    Raises:
        ModelLoadError: torch cannot use it.
    """
    check_cuda(device)
    torch, _ = _import()
    return str(torch.cuda.get_device_name(device))


def load_transformers(folder: ModelFolder, *, trust_remote_code: bool = False) -> Any:
    """Return the folder's transformers model in float32 on the CPU, ready for inference.

    Raises:
        ModelLoadError: torch or transformers is missing, or the files do not make a model.
    """
    _, transformers = _import()
    weight_files(folder)
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder.path,
            dtype="float32",
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    # transformers passes on whatever the file formats below it raise.
    except Exception as exc:
        if is_out_of_memory(exc):
            raise memory_error("cpu") from exc
        msg = f"transformers cannot load {folder.path}: {exc}"
        raise ModelLoadError(msg) from exc
    # Otherwise transformers would make them up, and every vector would be noise.
    if report["missing_keys"]:
        msg = (
            f"{folder.path} lacks {len(report['missing_keys'])} weights, for example "
            f"{sorted(report['missing_keys'])[0]}: download the model again"
        )
        raise ModelLoadError(msg)
    return model.eval()


def logits_of(model: Any) -> tuple[float, float]:
    """Return the scale and the bias that the model was trained to turn cosines into logits with."""
    scale = float(model.logit_scale.detach().exp()) if hasattr(model, "logit_scale") else 1.0
    bias = float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0
    return scale, bias


def build_module(model: Any, recipe: Recipe, modality: Modality) -> tuple[Any, tuple[str, ...]]:
    """Return one tower of a transformers model as a module, and the names of its inputs.

    The module returns `[n, dimensions]`: pooled and projected as the model does it, not
    normalised.
    """
    if modality is Modality.TEXT:
        inputs = ("input_ids", "attention_mask") if recipe.needs_mask else ("input_ids",)
        return _wrap(model, model.get_text_features), inputs
    if isinstance(recipe.image, PatchRecipe):
        return _wrap(model.vision_model, _patch_features(model.vision_model, recipe.image)), (
            "pixel_values",
        )
    return _wrap(model, model.get_image_features), ("pixel_values",)


def _wrap(owner: Any, call: Any) -> Any:
    import torch

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Holds the weights of `owner`, and returns the vectors of `call`."""

        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, first: Any, mask: Any = None) -> Any:
            out = call(first) if mask is None else call(first, attention_mask=mask)
            return out.pooler_output if hasattr(out, "pooler_output") else out

    return Pooled().eval()


def _patch_features(vision: Any, recipe: PatchRecipe) -> Any:
    """Return SigLIP 2's vision tower as a function of what `PatchRecipe.pixels` gives.

    The same as the reference, but for the loop over pictures in which that one interpolates
    positions: see `patches`.
    """
    width = 3 * recipe.patch**2

    def features(packed: Any) -> Any:
        from transformers.masking_utils import create_bidirectional_mask

        embeddings = vision.embeddings
        rows = packed[:, :, width : width + recipe.grid]
        columns = packed[:, :, width + recipe.grid : width + 2 * recipe.grid]
        weights = (rows.unsqueeze(3) * columns.unsqueeze(2)).flatten(2)
        hidden = embeddings.patch_embedding(packed[:, :, :width])
        hidden = hidden + weights @ embeddings.position_embedding.weight
        present = packed[:, :, -1] > 0
        mask = create_bidirectional_mask(
            config=vision.config, inputs_embeds=hidden, attention_mask=present.long()
        )
        encoded = vision.encoder(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
        return vision.head(vision.post_layernorm(encoded), present.long())

    return features


def _import() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ModuleNotFoundError as exc:
        msg = f"this model needs {exc.name} to be exported or run: {_INSTALL}"
        raise ModelLoadError(msg) from exc
    return torch, transformers
