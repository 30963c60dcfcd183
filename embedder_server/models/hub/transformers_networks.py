"""The two networks of a transformers model: run in torch, or exported to ONNX files once.

Exports with torch's TorchScript exporter: of the two exporters, it gives small plain graphs for
these architectures on every torch since 2.4, with batch and length left open.
"""

from __future__ import annotations

import logging
import warnings
from functools import cached_property
from importlib import util
from pathlib import Path
from time import perf_counter
from typing import Any

from embedder_server.images.preprocessing import PatchRecipe
from embedder_server.models.hub.families import ModelParts, Recipe, weight_files
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.runtimes.base import (
    Runtime,
    Tower,
    TwoTowers,
    as_load_error,
)
from embedder_server.models.runtimes.export_cache import Export, ExportCache, network_file
from embedder_server.models.runtimes.onnx import cpu_candidates, device_runtime, open_onnx
from embedder_server.models.runtimes.torch import TorchTower, check_cuda, import_torch
from embedder_server.texts.batches import Padding
from embedder_server.types import Modality, ModelLoadError

logger = logging.getLogger(__name__)

# Part of the cache's key. Raise it when the graphs change.
EXPORT_VERSION = 1
_OUTPUT = "embeddings"
_METHODS = ("get_text_features", "get_image_features")
_OPSET = 17
# No dimension of a network has this batch size or length, so tracing cannot confuse them.
_SAMPLE_BATCH, _SAMPLE_TOKENS = 2, 11
# Where each shape is a captured CUDA graph, pad texts to a multiple of this many tokens.
_GRAPH_TOKENS = 16


class TransformersNetworks:
    """`Networks` of a folder that transformers can load, with exports in `cache`."""

    def __init__(
        self, parts: ModelParts, cache: ExportCache, *, trust_remote_code: bool = False
    ) -> None:
        self._parts = parts
        self._key = f"{parts.fingerprint[:24]}-v{EXPORT_VERSION}"
        self._cache = cache
        self._trust = trust_remote_code
        self._logits: tuple[float, float] | None = None

    def candidates(self) -> tuple[Runtime, ...]:
        if self._trust:
            return (Runtime("torch"),)
        if self._parts.device == "cpu":
            return _on_cpu()
        if util.find_spec("torch") is None:
            return (device_runtime(self._parts.device),)
        return Runtime("torch"), Runtime("torch", "bf16"), Runtime("torch", "fp16")

    def open(self, runtime: Runtime) -> TwoTowers:
        if self._trust and runtime.library != "torch":
            raise ModelLoadError(
                f"a model with code of its own runs on --runtime torch only, not {runtime}"
            )
        device = self._parts.device
        if runtime.library == "torch":
            return self._paired(
                self._in_torch(runtime, device), 1 if device == "cpu" else _GRAPH_TOKENS
            )
        return self._paired(self._exported(runtime))

    def reference(self) -> TwoTowers | None:
        if self._parts.device == "cpu":
            return None
        return self._paired(self._in_torch(Runtime("torch"), "cpu"))

    def logits(self) -> tuple[float, float]:
        if self._logits is None:
            facts = self._exports.facts
            self._logits = float(facts["logit_scale"]), float(facts["logit_bias"])
        return self._logits

    def _paired(self, towers: dict[Modality, Tower], multiple: int = 1) -> TwoTowers:
        recipe = self._parts.recipe
        return TwoTowers(towers, recipe.text_batches(multiple), recipe.dimensions)

    @cached_property
    def _exports(self) -> Export:
        """Both networks as ONNX files. Kept, because checking an export reads all of it."""
        parts = self._parts
        return self._cache.get_or_build(
            self._key, lambda target: export_model(parts.folder, parts.recipe, target)
        )

    def _exported(self, runtime: Runtime) -> dict[Modality, Tower]:
        parts, export = self._parts, self._exports
        if runtime.precision == "int8":
            sources = {kind: export.file(kind) for kind in Modality}
            export = self._cache.int8_copies(self._key, sources)
        return {
            kind: open_onnx(
                export.file(kind),
                runtime,
                parts.device,
                parts.threads,
                engines=self._cache.engines(),
            )
            for kind in Modality
        }

    def _in_torch(self, runtime: Runtime, device: str) -> dict[Modality, Tower]:
        if device != "cpu":
            check_cuda(device)
        model = load_transformers(self._parts.folder, trust_remote_code=self._trust)
        self._logits = _logits_of(model)
        with as_load_error(f"torch cannot move the model to {device}", device):
            return {
                kind: TorchTower(
                    *build_module(model, self._parts.recipe, kind),
                    device=device,
                    dtype=runtime.dtype,
                    threads=self._parts.threads,
                )
                for kind in Modality
            }


def _on_cpu() -> tuple[Runtime, ...]:
    candidates = cpu_candidates()
    # torch in bfloat16 can be faster than ONNX Runtime, but was slower than OpenVINO in bfloat16 at
    # every load (docs/runtimes.md). And a worker that never imports torch starts seconds sooner.
    if len(candidates) > 1 or util.find_spec("torch") is None:
        return candidates
    return *candidates, Runtime("torch", "bf16")


def load_transformers(folder: ModelFolder, *, trust_remote_code: bool = False) -> Any:
    """Load the folder's transformers model in float32 on the CPU, ready for inference.

    Raises:
        ModelLoadError: torch or transformers is missing, or the files do not form a model.
    """
    import_torch()
    transformers = import_torch("transformers")
    weight_files(folder)
    if not trust_remote_code:
        _check_class(folder, transformers)
    with as_load_error(f"transformers cannot load {folder.path}", "cpu"):
        model, report = transformers.AutoModel.from_pretrained(
            folder.path,
            dtype="float32",
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    # transformers would initialise them randomly, and every vector would be noise.
    if report["missing_keys"]:
        raise ModelLoadError(
            f"{folder.path} lacks {len(report['missing_keys'])} weights, for example "
            f"{sorted(report['missing_keys'])[0]}: download the model again"
        )
    if folder.model_type == "aimv2":
        # Its fast attention drops the causal mask where no text of a batch is padded: then a text
        # alone has another vector than in a batch. Seen in transformers 5.23.
        model.set_attn_implementation("eager")
    return model.eval()


def _check_class(folder: ModelFolder, transformers: Any) -> None:
    """Raise `ModelLoadError` unless transformers has a class that embeds both texts and images."""
    with as_load_error(f"transformers does not know {folder.model_type!r}; update it", "cpu"):
        config = transformers.AutoConfig.for_model(folder.model_type)
        known = transformers.AutoModel._model_mapping[type(config)]
    lacks = [name for name in _METHODS if not hasattr(known, name)]
    if lacks:
        raise ModelLoadError(
            f"{folder.name} is a {known.__name__} of transformers, which has no "
            f"{' and no '.join(lacks)}: choose a model for text and images (`sentinel models`)"
        )


def build_module(model: Any, recipe: Recipe, modality: Modality) -> tuple[Any, tuple[str, ...]]:
    """Return one network of a transformers model as a module, and the names of its inputs.

    The module returns `[n, dimensions]`: pooled and projected as the model does it, not
    normalised.
    """
    by_token = recipe.family == "flava"  # whose first token stands for all
    if modality is Modality.TEXT:
        inputs = ("input_ids", "attention_mask") if recipe.needs_mask else ("input_ids",)
        return _pooled(model, model.get_text_features, by_token=by_token), inputs
    if isinstance(recipe.image, PatchRecipe):
        vision = model.vision_model
        return _pooled(vision, _patch_features(vision, recipe.image)), ("pixel_values",)
    if recipe.family == "tipsv2":
        _keep_positions(model.vision_model.embeddings, recipe)
    if recipe.family == "align" and model.config.vision_config.pooling_type == "mean":
        # The same mean. Its own pool is larger than the image, which OpenVINO refuses.
        model.vision_model.pooler = import_torch().nn.AdaptiveAvgPool2d(1)
    return _pooled(model, model.get_image_features, by_token=by_token), ("pixel_values",)


def export_model(folder: ModelFolder, recipe: Recipe, target: Path) -> dict[str, Any]:
    """Write both networks into `target` as ONNX files; return the model's logit scale and bias.

    Raises:
        ModelLoadError: torch is not installed, or the model cannot be loaded or exported.
    """
    started = perf_counter()
    logger.info("exporting to ONNX, once", extra={"model": folder.name})
    model = load_transformers(folder)
    for modality in Modality:
        module, inputs = build_module(model, recipe, modality)
        try:
            export_module(module, inputs, recipe, modality, network_file(target, modality))
        # The exporter raises its own classes, torch's and Python's.
        except Exception as exc:
            raise ModelLoadError(
                f"{folder.name} cannot be exported to ONNX ({exc}); use --runtime torch, and report"
                " the model and the versions of torch and transformers"
            ) from exc
    scale, bias = _logits_of(model)
    logger.info("exported", extra={"seconds": round(perf_counter() - started, 1)})
    return {"logit_scale": scale, "logit_bias": bias}


def export_module(
    module: Any, inputs: tuple[str, ...], recipe: Recipe, modality: Modality, file: Path
) -> None:
    """Write a network, as `build_module` returns it, into an ONNX file."""
    import torch

    dynamic: dict[str, dict[int, str]] = {_OUTPUT: {0: "batch"}}
    if modality is Modality.TEXT:
        # A model that always gets the full width keeps it: fixed shapes run faster.
        fixed = recipe.padding is Padding.MAX_LENGTH
        tokens = recipe.max_text_tokens if fixed else _SAMPLE_TOKENS
        # A CLIP text must end with its end token; any id works for the others.
        ids = torch.full((_SAMPLE_BATCH, tokens), recipe.pad_id, dtype=torch.long)
        sample: tuple[Any, ...] = (ids,)
        if recipe.needs_mask:
            sample = (ids, torch.ones_like(ids))
        axes = {0: "batch"} if fixed else {0: "batch", 1: "tokens"}
        dynamic |= dict.fromkeys(inputs, axes)
    else:
        sample = (torch.zeros(_SAMPLE_BATCH, *_image_shape(recipe)),)
        if isinstance(recipe.image, PatchRecipe):
            sample[0][:, :, -1] = 1
        dynamic |= {inputs[0]: {0: "batch"}}
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns that it reads shapes as numbers. Tests show that other shapes work.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            sample,
            str(file),
            input_names=list(inputs),
            output_names=[_OUTPUT],
            dynamic_axes=dynamic,
            opset_version=_OPSET,
            do_constant_folding=True,
            dynamo=False,
        )


def _image_shape(recipe: Recipe) -> tuple[int, ...]:
    if isinstance(recipe.image, PatchRecipe):
        return recipe.image.most, 3 * recipe.image.patch**2 + 2 * recipe.image.grid + 1
    height, width = recipe.image.crop or recipe.image.size or (recipe.image.side,) * 2
    return 3, height, width


def _logits_of(model: Any) -> tuple[float, float]:
    """Return the trained scale and bias that turn a cosine into a logit."""
    if hasattr(model, "temperature"):  # ALIGN and TIPSv2 divide by it
        scale = 1 / float(model.temperature.detach())
    else:
        scale = float(model.logit_scale.detach().exp()) if hasattr(model, "logit_scale") else 1.0
    bias = float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0
    return scale, bias


def _pooled(owner: Any, call: Any, *, by_token: bool = False) -> Any:
    """Return a module of `call`; `by_token`: its pooled output is one vector a token."""
    import torch

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Holds the weights of `owner` and returns the vectors of `call`."""

        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, content: Any, mask: Any = None) -> Any:
            out = call(content) if mask is None else call(content, attention_mask=mask)
            vectors = out.pooler_output if hasattr(out, "pooler_output") else out
            return vectors[:, 0] if by_token else vectors

    return Pooled().eval()


def _keep_positions(embeddings: Any, recipe: Recipe) -> None:
    """Interpolate TIPSv2's positions once, for the size that the model is served with.

    While it is traced, it always interpolates them, with an operator that ONNX lacks.
    """
    import torch

    height, width = _image_shape(recipe)[1:]
    patch = embeddings.config.patch_size
    count = (height // patch) * (width // patch)
    with torch.inference_mode():
        sample = embeddings.position_embeddings.new_zeros(
            1, count + 1, embeddings.position_embeddings.shape[-1]
        )
        positions = embeddings.interpolate_pos_encoding(sample, height, width).clone()
    embeddings.interpolate_pos_encoding = lambda *_: positions


def _patch_features(vision: Any, recipe: PatchRecipe) -> Any:
    """Return SigLIP 2's vision network as a function of what `PatchRecipe.pixels` returns.

    Equals the reference, without its loop over images to interpolate positions.
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
