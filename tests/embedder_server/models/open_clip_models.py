"""open_clip model folders with random weights, and open_clip itself as their reference.

The classes are those of the published models; only widths, depths and image sizes are smaller.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.types import FloatArray
from tests.embedder_server.models import tiny_models, torchvision_stand_in

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
SIGLIP_TEXT = {
    **TEXT, "context_length": 16, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
    "tokenizer_kwargs": {"clean": "canonicalize"}, "hf_tokenizer_name": "here",
}  # fmt: skip
CLIPA_TEXT = {
    **TEXT, "hf_tokenizer_name": "here", "tokenizer_kwargs": {"strip_sep_token": True},
    "pool_type": "last", "no_causal_mask": True,
}  # fmt: skip
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 4}


def open_clip() -> Any:
    """Return open_clip; skip the test if it is not installed.

    Its wheels need torchvision, whose wheels need a CUDA build of torch. Where that is missing, a
    stand-in does the few transforms that open_clip uses.
    """
    if "open_clip" not in sys.modules:
        pytest.importorskip("torch")
        if util.find_spec("open_clip") is None:
            pytest.skip("open_clip is not installed: `make models`")
        import transformers  # noqa: F401  # which must not see the stand-in

        with torchvision_stand_in.installed():
            importlib.import_module("open_clip")
            _register()
    return sys.modules["open_clip"]


def _timm(name: str, **arguments: Any) -> dict[str, Any]:
    pool = {"timm_pool": "token", "timm_proj": None, "image_size": 32}
    return {"timm_model_name": name, **pool, **arguments}


KINDS: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": VISION, "text_cfg": TEXT},
    "dfn": {"quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": TEXT,
    },
    "clipa": {
        "vision_cfg": {
            **VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
        },
        "text_cfg": CLIPA_TEXT,
    },
    "worldwide": {
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "hf_tokenizer_name": "here", "pool_type": "eos", "eos_id": 1},
    },
    "siglip": {
        "custom_text": True, "init_logit_bias": -10,
        "vision_cfg": _timm("tiny_siglip", timm_pool="map", timm_proj="none"),
        "text_cfg": SIGLIP_TEXT,
    },
    "pe_core": {
        "custom_text": True,
        "vision_cfg": _timm("tiny_pe_core", timm_pool="map"),
        "text_cfg": TEXT,
    },
    "eva02": {"custom_text": True, "vision_cfg": _timm("tiny_eva02"), "text_cfg": TEXT},
    "mobileclip2_s": {
        "custom_text": True,
        "vision_cfg": _timm("tiny_fastvit", timm_pool="avg", image_size=64),
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "mobileclip2_b": {"custom_text": True, "vision_cfg": _timm("tiny_mci"), "text_cfg": TEXT},
    "convnext": {
        "vision_cfg": _timm("tiny_convnext", timm_pool="", timm_proj="linear", image_size=64),
        "text_cfg": TEXT,
    },
    "roberta": {
        "vision_cfg": VISION,
        "text_cfg": {
            "hf_model_name": "text", "hf_tokenizer_name": "here", "hf_pooler_type": "mean_pooler",
            "context_length": 20,
        },
    },
}  # fmt: skip
PREPROCESS: dict[str, dict[str, Any]] = {
    "siglip": {
        "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash",
    },
    "pe_core": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear",
                "resize_mode": "squash"},
    "mobileclip2_s": {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"},
    "clipa": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "resize_mode": "longest",
              "fill_color": 3},
}  # fmt: skip


def _register() -> None:
    """Make small variants of timm's networks known to timm by name."""
    import timm

    def small(name: str, base: str, **arguments: Any) -> None:
        def make(pretrained: bool = False, **given: Any) -> Any:
            return getattr(timm.models, base)(pretrained=pretrained, **{**arguments, **given})

        make.__name__, make.__module__ = name, __name__
        timm.models.register_model(make)

    small("tiny_siglip", "vit_base_patch16_siglip_224", img_size=32, patch_size=8, **SMALL)
    small("tiny_pe_core", "vit_pe_core_tiny_patch16_384", img_size=32, patch_size=8, **SMALL)
    small("tiny_eva02", "eva02_base_patch16_clip_224", img_size=32, patch_size=8, **SMALL)
    small("tiny_mci", "vit_base_mci_224", img_size=32, depth=2)
    small("tiny_fastvit", "fastvit_mci0", layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128))
    small("tiny_convnext", "convnext_tiny", depths=(1, 1, 1, 1), dims=(16, 32, 48, 64))


@dataclass
class Reference:
    """A model of open_clip, its tokenizer and its preprocessing, read by itself from a folder."""

    folder: Path
    model: Any
    tokenizer: Callable[[list[str]], Any]
    preprocess: Callable[[Image.Image], Any]

    def texts(self, texts: Sequence[str]) -> FloatArray:
        return self._unit(self.model.encode_text(self.tokenizer(list(texts))))

    def images(self, pictures: Sequence[Image.Image]) -> FloatArray:
        import torch

        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        return self._unit(self.model.encode_image(pixels))

    @staticmethod
    def _unit(vectors: Any) -> FloatArray:
        made = vectors.detach().numpy()
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


def write(kind: str, folder: Path, **preprocess: Any) -> Reference:
    """Write an open_clip checkpoint as on the hub, and return what open_clip reads from it."""
    library = open_clip()
    import safetensors.torch
    import torch

    folder.mkdir(parents=True)
    config = json.loads(json.dumps({"embed_dim": 48, **KINDS[kind]}))
    _tokenizer(kind, folder, config["text_cfg"])
    settings = {"model_cfg": config, "preprocess_cfg": {**PREPROCESS.get(kind, {}), **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    torch.manual_seed(5)
    model = library.create_model(
        f"local-dir:{folder}", load_weights=False, pretrained_text=False, pretrained_image=False
    )
    weights = {name: weight.contiguous() for name, weight in _scattered(model).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return read(folder)


def read(folder: Path) -> Reference:
    library = open_clip()
    model, preprocess = library.create_model_from_pretrained(f"local-dir:{folder}")
    return Reference(folder, model.eval(), library.get_tokenizer(f"local-dir:{folder}"), preprocess)


def _scattered(model: Any) -> Any:
    """Give every weight a spread with which vectors depend on their input."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "logit" in name:
                continue
            if weight.ndim > 1:
                fan = weight[0].numel() if "embedding" not in name else 16
                weight.copy_(noise * 1.5 / fan**0.5)
            else:
                weight.add_(noise * 0.15)
        # Training leaves batch statistics of the network's own values; else they grow by layers.
        size = model.visual.image_size
        sides = (size, size) if isinstance(size, int) else size
        for part in model.visual.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None
        model.visual.train()(torch.randn(8, 3, *sides, generator=generator))
    return model.eval()


def _tokenizer(kind: str, folder: Path, text: dict[str, Any]) -> None:
    import transformers

    if kind == "clipa":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(tiny_models.CORPUS))]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        return
    if text.get("hf_tokenizer_name"):
        size = tiny_models._gemma(folder)
        if "hf_model_name" in text:
            text["hf_model_name"] = str(folder / "text")
            transformers.XLMRobertaConfig(
                vocab_size=size, pad_token_id=0, max_position_embeddings=40, **tiny_models.TEXT
            ).save_pretrained(folder / "text")
        return
    own = open_clip().SimpleTokenizer()
    vocabulary = dict(own.encoder)
    for theirs, name in (
        ("<start_of_text>", "<|startoftext|>"),
        ("<end_of_text>", "<|endoftext|>"),
    ):
        vocabulary[name] = vocabulary.pop(theirs)
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    transformers.CLIPTokenizer(vocabulary, merges).save_pretrained(folder)


def context_length(folder: Path) -> int:
    """Return the width of the text network of an Immich folder."""
    text = json.loads((folder / "config.json").read_text())["text_cfg"]
    return int(text.get("context_length", 77))
