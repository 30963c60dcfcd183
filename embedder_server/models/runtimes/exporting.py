"""A transformers model's two towers as ONNX files; the only place that writes them.

Uses torch's TorchScript exporter: of the two, the one that gives small plain graphs for these
architectures on every torch since 2.4, with batch and length left open.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

from embedder_server.images.patches import PatchRecipe
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.source import ModelFolder
from embedder_server.types import Modality, ModelLoadError

logger = logging.getLogger(__name__)

# Part of the cache's key: raised when the graphs change.
EXPORT_VERSION = 1
OUTPUT = "embeddings"
_OPSET = 17
# A length and a batch size that no dimension of a network has, so that tracing cannot confuse them.
_SAMPLE_BATCH, _SAMPLE_TOKENS = 2, 11


def tower_file(folder: Path, modality: Modality) -> Path:
    """Return where a tower lies inside an export."""
    return folder / f"{modality}.onnx"


def export_model(folder: ModelFolder, recipe: Recipe, target: Path) -> dict[str, Any]:
    """Write both towers into `target`; return the model's logit scale and bias.

    Raises:
        ModelLoadError: torch is not installed, the model cannot be loaded or not be exported.
    """
    from embedder_server.models.runtimes import torch as towers

    started = perf_counter()
    logger.info("exporting to ONNX, once", extra={"model": folder.name})
    model = towers.load_transformers(folder)
    for modality in Modality:
        module, inputs = towers.build_module(model, recipe, modality)
        try:
            _export(module, inputs, recipe, modality, tower_file(target, modality))
        # The exporter raises classes of its own, of torch's and of Python's.
        except Exception as exc:
            msg = (
                f"{folder.name} cannot be exported to ONNX ({exc}); use --runtime torch, and report"
                " the model and the versions of torch and transformers"
            )
            raise ModelLoadError(msg) from exc
    scale, bias = towers.logits_of(model)
    logger.info("exported", extra={"seconds": round(perf_counter() - started, 1)})
    return {"logit_scale": scale, "logit_bias": bias}


def quantise(source: Path, target: Path, modality: Modality) -> None:
    """Write an ONNX file's copy whose matrices are int8, scaled for each input anew."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger.info("quantising to int8, once", extra={"modality": str(modality)})
    quantize_dynamic(
        source,
        tower_file(target, modality),
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )


def _export(
    module: Any, inputs: tuple[str, ...], recipe: Recipe, modality: Modality, file: Path
) -> None:
    import torch

    dynamic: dict[str, dict[int, str]] = {OUTPUT: {0: "batch"}}
    if modality is Modality.TEXT:
        # A model that is always given the full width keeps it: fixed shapes run faster.
        fixed = recipe.padding == "max-length"
        tokens = recipe.max_text_tokens if fixed else _SAMPLE_TOKENS
        # The end token closes a CLIP text; any id does for the others.
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
        # Of tracing: shapes read as numbers. That they hold for others is what the tests show.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            sample,
            str(file),
            input_names=list(inputs),
            output_names=[OUTPUT],
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
