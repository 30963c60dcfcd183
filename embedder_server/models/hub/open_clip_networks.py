"""The two networks of an open_clip checkpoint: exported to ONNX files once, and run from those.

open_clip and torch make the export. A worker that finds it in its cache needs neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from embedder_server.models.hub.families import ModelParts, Recipe
from embedder_server.models.hub.open_clip_config import open_clip_weights
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.hub.transformers_networks import export_module
from embedder_server.models.runtimes.base import Runtime, TwoTowers, as_load_error
from embedder_server.models.runtimes.export_cache import Export, ExportCache, network_file
from embedder_server.models.runtimes.onnx import cpu_candidates, device_runtime, open_onnx
from embedder_server.models.runtimes.torch import import_torch
from embedder_server.texts.batches import Padding
from embedder_server.types import Modality, ModelLoadError

logger = logging.getLogger(__name__)

# Part of the cache's key. Raise it when the graphs change.
EXPORT_VERSION = 1
# Of torch.nn.functional.multi_head_attention_forward, as far as they are given by position.
_ARGUMENTS = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias",
    "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
)  # fmt: skip
_INPUTS = {Modality.TEXT: ("input_ids",), Modality.IMAGE: ("pixel_values",)}


class OpenClipNetworks:
    """`Networks` of a folder that open_clip can load, with exports in `cache`."""

    def __init__(self, parts: ModelParts, cache: ExportCache) -> None:
        self._parts = parts
        self._key = f"{parts.fingerprint[:24]}-open-clip-v{EXPORT_VERSION}"
        self._cache = cache

    def candidates(self) -> tuple[Runtime, ...]:
        device = self._parts.device
        return cpu_candidates() if device == "cpu" else (device_runtime(device),)

    def open(self, runtime: Runtime) -> TwoTowers:
        parts = self._parts
        if runtime.library == "torch":
            raise ModelLoadError(
                f"{parts.folder.name} runs from its ONNX export: --runtime auto, "
                f"{device_runtime(parts.device)} or another one for ONNX files, not {runtime}"
            )
        export = self._export
        if runtime.precision == "int8":
            sources = {kind: export.file(kind) for kind in Modality}
            export = self._cache.int8_copies(self._key, sources)
        towers = {
            kind: open_onnx(
                export.file(kind),
                runtime,
                parts.device,
                parts.threads,
                engines=self._cache.engines(),
            )
            for kind in Modality
        }
        return TwoTowers(towers, parts.recipe.text_batches(), parts.recipe.dimensions)

    def reference(self) -> TwoTowers | None:
        return None  # on a GPU there is one candidate, so nothing is compared

    def logits(self) -> tuple[float, float]:
        facts = self._export.facts
        return float(facts["logit_scale"]), float(facts["logit_bias"])

    @cached_property
    def _export(self) -> Export:
        """Both networks as ONNX files. Kept, because checking an export reads all of it."""
        parts = self._parts
        return self._cache.get_or_build(
            self._key, lambda target: export_open_clip(parts.folder, parts.recipe, target)
        )


def load_open_clip(folder: ModelFolder) -> Any:
    """Load the folder's open_clip model in float32 on the CPU, ready for inference.

    Raises:
        ModelLoadError: open_clip is missing, or the files do not form a model.
    """
    open_clip = _import_open_clip(folder)
    weights = open_clip_weights(folder)
    with as_load_error(f"open_clip cannot load {folder.path}", "cpu"):
        # Two steps: open_clip itself would only warn if it found no weights.
        model = open_clip.create_model(
            f"local-dir:{folder.path}",
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
        )
        open_clip.load_checkpoint(model, str(weights))
    return model.eval()


def export_open_clip(folder: ModelFolder, recipe: Recipe, target: Path) -> dict[str, Any]:
    """Write both networks into `target` as ONNX files; return the model's logit scale and bias.

    Raises:
        ModelLoadError: open_clip is not installed, or the model cannot be loaded or exported.
    """
    started = perf_counter()
    logger.info("exporting to ONNX, once", extra={"model": folder.name})
    model = load_open_clip(folder)
    with _exportable_attention():
        for kind in Modality:
            module = _module(model, recipe, kind)
            with as_load_error(
                f"{folder.name} cannot be exported to ONNX; report the model and the versions of "
                "torch, timm and open_clip_torch",
                "cpu",
            ):
                export_module(module, _INPUTS[kind], recipe, kind, network_file(target, kind))
    bias = getattr(model, "logit_bias", None)
    logger.info("exported", extra={"seconds": round(perf_counter() - started, 1)})
    return {
        "logit_scale": float(model.logit_scale.detach().exp()),
        "logit_bias": 0.0 if bias is None else float(bias.detach()),
    }


def _import_open_clip(folder: ModelFolder) -> Any:
    import_torch()
    try:
        import open_clip
    # A torchvision of another torch fails while it is imported, with a RuntimeError.
    except Exception as exc:
        raise ModelLoadError(
            f"{folder.name} must be converted once, with open_clip ({exc}): pip install "
            "'.[openclip]' in Sentinel's folder, with the torchvision that belongs to its torch. "
            "The converted model in --cache-dir needs neither on other machines"
        ) from exc
    return open_clip


@contextmanager
def _exportable_attention() -> Iterator[None]:
    """Replace torch's attention while a network is traced.

    Its fused form is no ONNX operator, and the other one takes the sizes of the sample for all.
    """
    import torch
    from torch.nn import functional

    was = torch.backends.mha.get_fastpath_enabled(), functional.multi_head_attention_forward
    torch.backends.mha.set_fastpath_enabled(False)
    functional.multi_head_attention_forward = _attention
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was[0])
        functional.multi_head_attention_forward = was[1]


def _attention(*given: Any, **named: Any) -> tuple[Any, None]:
    """Compute what `torch.nn.functional.multi_head_attention_forward` does in open_clip's networks.

    It takes the same arguments. The tokens and the result are `[length, batch, width]`.
    """
    from torch.nn import functional

    of = {**dict(zip(_ARGUMENTS, given, strict=False)), **named}
    if of.get("use_separate_proj_weight"):
        weights = [of[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = of["in_proj_weight"].chunk(3)
    biases = [None] * 3 if of["in_proj_bias"] is None else of["in_proj_bias"].chunk(3)
    width, heads = of["embed_dim_to_check"], of["num_heads"]

    def headed(tokens: Any, weight: Any, bias: Any) -> Any:
        projected = functional.linear(tokens, weight, bias)
        parts = projected.reshape(tokens.shape[0], tokens.shape[1], heads, width // heads)
        return parts.permute(1, 2, 0, 3)

    tokens = (of["query"], of["key"], of["value"])
    query, key, value = (headed(*one) for one in zip(tokens, weights, biases, strict=True))
    mixed = functional.scaled_dot_product_attention(query, key, value, of.get("attn_mask"))
    length, batch = of["query"].shape[:2]
    together = mixed.permute(2, 0, 1, 3).reshape(length, batch, width)
    return functional.linear(together, of["out_proj_weight"], of["out_proj_bias"]), None


def _module(model: Any, recipe: Recipe, kind: Modality) -> Any:
    """Return a network as a module that returns `[n, dimensions]`, not normalised."""
    import torch

    encode = model.encode_image
    if kind is Modality.TEXT:
        encode = model.encode_text
        tower = model if hasattr(model, "token_embedding") else model.text
        if recipe.padding is Padding.LONGEST and hasattr(tower, "token_embedding"):
            encode = _shorter_texts(tower)

    class Encoder(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Holds the weights of `model` and returns its vectors."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Any) -> Any:
            return encode(batch)

    return Encoder().eval()


def _shorter_texts(tower: Any) -> Any:
    """Return open_clip's causal text network for texts of any length up to its limit.

    open_clip itself always computes the whole width. No token sees a later one, so what is left out
    changes nothing.
    """
    from open_clip.transformer import text_global_pool

    pool = getattr(tower, "text_pool_type", None) or tower.pool_type
    end = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)

    def encode(ids: Any) -> Any:
        length = ids.shape[1]
        hidden = tower.token_embedding(ids) + tower.positional_embedding[:length]
        mask = tower.attn_mask[:length, :length]
        hidden = tower.ln_final(tower.transformer(hidden, attn_mask=mask))
        pooled = text_global_pool(hidden, ids, pool, eos_token_id=end)
        projection = tower.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if callable(projection) else pooled @ projection

    return encode
