"""Folders of ONNX files as they are published, exported from models with random weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from tests.embedder_server.models import open_clip_models, tiny_models
from tests.embedder_server.models.open_clip_models import Reference

_OPSET = 17


def immich(kind: str, folder: Path, **preprocess: Any) -> Reference:
    """Write Immich's layout of an open_clip model; return that model, as open_clip reads it.

    One item, a fixed width, int32 ids, normalised vectors: as Immich's exporter does it.
    """
    library = open_clip_models.open_clip()
    reference = open_clip_models.write(kind, folder / "checkpoint", **preprocess)
    made, model = folder / "immich", reference.model
    for half in ("visual", "textual"):
        (made / half).mkdir(parents=True)
    config = json.loads((reference.folder / "open_clip_config.json").read_text())["model_cfg"]
    (made / "config.json").write_text(json.dumps(config))
    (made / "visual" / "preprocess_cfg.json").write_text(
        json.dumps(library.get_model_preprocess_cfg(model))
    )
    for file in reference.folder.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "open_clip_config.json":
            (made / "textual" / file.name).write_bytes(file.read_bytes())
    _one_item(model, made)
    return Reference(made, model, reference.tokenizer, reference.preprocess)


def _one_item(model: Any, made: Path) -> None:
    import torch

    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    length = open_clip_models.context_length(made)
    samples = {
        "image": (model.encode_image, torch.randn(1, 3, height, width), "visual"),
        "text": (model.encode_text, torch.ones(1, length, dtype=torch.int32), "textual"),
    }
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for name, (encode, sample, half) in samples.items():
        _export(
            _module(model, lambda given, encode=encode: encode(given, normalize=True)),
            sample, made / half / "model.onnx", inputs=[name], output="embedding", axes={},
        )  # fmt: skip
    torch.backends.mha.set_fastpath_enabled(fast)


def of_transformers(family: str, folder: Path, **names: Any) -> Any:
    """Write the layout of onnx-community and Xenova; return the model of transformers.

    Args:
        family: `clip`, `siglip` or `siglip2_fixed`.
        folder: Made. The model's weights are in the folder `weights` beside it.
        names: `masked`: whether the text network takes a mask; `fixed`: its length if it has one.
    """
    import torch

    weights = folder.parent / "weights"
    model = getattr(tiny_models, family)(weights)
    (folder / "onnx").mkdir(parents=True)
    for file in weights.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    clip = family == "clip"
    length = names.get("fixed") or (11 if clip else 16)
    ids = torch.full((2, length), 5, dtype=torch.long)
    inputs = ["input_ids", "attention_mask"] if names.get("masked") else ["input_ids"]
    axes = {0: "batch_size"} | ({} if names.get("fixed") else {1: "sequence_length"})

    def text(ids: Any, mask: Any = None) -> Any:
        return model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

    def image(pixels: Any) -> Any:
        return model.get_image_features(pixel_values=pixels).pooler_output

    _export(
        _module(model, text), (ids, torch.ones_like(ids))[: len(inputs)],
        folder / "onnx" / "text_model.onnx", inputs=inputs,
        output="text_embeds" if clip else "pooler_output", axes=dict.fromkeys(inputs, axes),
    )  # fmt: skip
    _export(
        _module(model, image), torch.randn(2, 3, tiny_models.SIDE, tiny_models.SIDE),
        folder / "onnx" / "vision_model.onnx", inputs=["pixel_values"],
        output="image_embeds" if clip else "pooler_output",
        axes={"pixel_values": {0: "batch_size"}},
    )  # fmt: skip
    return model


def _module(owner: Any, call: Any) -> Any:
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, *given: Any) -> Any:
            return call(*given)

    return Module().eval()


def _export(
    module: Any,
    sample: Any,
    file: Path,
    *,
    inputs: list[str],
    output: str,
    axes: dict[str, Any],
) -> None:
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, sample if isinstance(sample, tuple) else (sample,), str(file),
            input_names=inputs, output_names=[output], dynamic_axes=axes, opset_version=_OPSET,
            dynamo=False,
        )  # fmt: skip
