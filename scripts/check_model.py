#!/usr/bin/env python3
"""Check that Sentinel serves a model as its makers do, with its real weights.

CLIP, SigLIP, SigLIP 2 and Chinese-CLIP are compared with transformers: the same texts and pictures
go through its processor and its PyTorch model, and through every runtime of ours. jina-clip has no
reference that runs on current transformers; for it, the pairs of its model card must come out in
the right order.

Usage: check_model.py NAME_OR_FOLDER [--revision SHA] [--runtimes auto,onnxruntime,…] [--device …]
Needs: pip install '.[torch,openvino]' in Sentinel's folder (jina-clip: [hub,openvino]).
Exits with 1 if a cosine is below what docs/models.md promises.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from embedder_server.models.base import EmbeddingModel, ModelLoadError
from embedder_server.models.registry import load_model
from embedder_server.models.source import ModelFolder, find_model

Vectors = npt.NDArray[np.float32]

TEXTS = (
    "a photo of a cat",
    "a red circle on a white background",
    "Two DOGS, running along the beach!",
    "an old man mends a fishing net on the quay while grey cats wait beside a bucket; the tide "
    "goes out slowly and children run along the harbour wall towards the light",
    "猫",
    "",
)
# Which of ours must win, in texts a person would order the same way.
CLOSE = ("a cat sleeps on the sofa", "a kitten naps on the couch", "quarterly tax forms")
LIMITS = {"fp32": 0.9999, "bf16": 0.999, "fp16": 0.999, "int8": 0.0}


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a model against its reference.")
    parser.add_argument("model", help="hub id or folder")
    parser.add_argument("--revision", help="commit of the hub")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", default="onnxruntime,openvino,openvino-bf16,auto")
    parser.add_argument("--cache-dir", type=Path)
    options = parser.parse_args()
    folder = find_model(options.model, options.revision)
    print(f"{folder.name} ({folder.model_type}), revision {folder.revision or 'local'}")
    jina = folder.model_type == "jina_clip"
    expected = None if jina else reference(folder)
    failed = False
    for name in options.runtimes.split(","):
        try:
            model = load_model(
                options.model,
                options.device,
                options.threads,
                revision=options.revision,
                runtime=name,
                cache_dir=options.cache_dir,
            )
        except ModelLoadError as error:
            print(f"  {name}: not here: {error}")
            continue
        failed |= not report(name, model, expected)
        # jina-clip's float32 vectors are the reference of its other runtimes.
        expected = expected or (texts_of(model), images_of(model))
        model.close()
    return int(failed)


def report(name: str, model: EmbeddingModel, expected: tuple[Vectors, Vectors] | None) -> bool:
    """Print what `model` does and return whether it is right."""
    info = model.info
    print(f"  {name}: {info.runtime} {info.dtype}, {info.dimensions} dimensions, logit scale")
    print(f"    {info.logit_scale:.3f}, bias {info.logit_bias:.3f}; {info.runtime_choice}")
    right = True
    precision = {"bfloat16": "bf16", "float16": "fp16", "int8": "int8"}.get(info.dtype, "fp32")
    if expected is not None:
        for kind, ours, theirs in (
            ("texts", texts_of(model), expected[0]),
            ("images", images_of(model), expected[1]),
        ):
            cosines = np.einsum("ij,ij->i", ours, theirs)
            right &= bool(cosines.min() >= LIMITS[precision])
            print(f"    {kind}: cosine to the reference min {cosines.min():.6f} {cosines.round(5)}")
    near = unit(model.embed_texts([model.tokenize(text) for text in CLOSE]))
    scores = images_of(model) @ texts_of(model).T
    shapes = bool(scores[0, 1] > scores[0, 0])
    print(f"    kitten {near[0] @ near[1]:.3f} > tax forms {near[0] @ near[2]:.3f}; ", end="")
    print(f"red circle: 'red circle' {scores[0, 1]:.3f} > 'cat' {scores[0, 0]:.3f}")
    # Sense, not precision: with random weights both may fail, with trained ones neither.
    right &= bool(near[0] @ near[1] > near[0] @ near[2]) and shapes
    print(f"    {'right' if right else 'WRONG'}")
    return right


def texts_of(model: EmbeddingModel) -> Vectors:
    return unit(model.embed_texts([model.tokenize(text) for text in TEXTS]))


def images_of(model: EmbeddingModel) -> Vectors:
    return unit(model.embed_images([model.preprocess(picture) for picture in pictures()]))


def pictures() -> list[Image.Image]:
    """Return pictures of several shapes, the first a red circle on white."""
    circle = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(circle).ellipse((100, 50, 300, 250), fill="red")
    random = np.random.default_rng(3)
    coarse = [random.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in range(3)]
    shapes = ((640, 480), (333, 777), (100, 64))
    return [circle, *(Image.fromarray(c).resize(s) for c, s in zip(coarse, shapes, strict=True))]


def reference(folder: ModelFolder) -> tuple[Vectors, Vectors]:
    """Return what transformers makes of the same texts and pictures."""
    import torch
    import transformers

    names = {
        "clip": "CLIPImageProcessorPil",
        "siglip": "SiglipImageProcessorPil",
        "siglip2": "Siglip2ImageProcessorPil",
        "chinese_clip": "ChineseCLIPImageProcessorPil",
    }
    processor = getattr(transformers, names[folder.model_type]).from_pretrained(folder.path)
    model = transformers.AutoModel.from_pretrained(folder.path, dtype="float32").eval()
    with torch.inference_mode():
        texts = model.get_text_features(**tokens(folder, transformers)).pooler_output
        pixels = processor(images=pictures(), return_tensors="pt")
        images = model.get_image_features(**pixels).pooler_output
    return unit(texts.numpy()), unit(images.numpy())


def tokens(folder: ModelFolder, transformers: Any) -> dict[str, Any]:
    """Return the inputs that transformers' own tokenizer makes of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path)
    texts: Sequence[str] = TEXTS
    options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
    if folder.model_type.startswith("siglip"):
        options |= {"padding": "max_length", "max_length": 64}
        if "Siglip" not in type(tokenizer).__name__:  # Gemma's, of SigLIP 2: lower case is ours
            texts = [text.lower() for text in texts]
        return {"input_ids": tokenizer(list(texts), **options)["input_ids"]}
    options["max_length"] = 52 if folder.model_type == "chinese_clip" else 77
    return dict(tokenizer(list(texts), **options))


def unit(vectors: Any) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
