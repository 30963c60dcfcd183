#!/usr/bin/env python3
"""Check with real weights that a vision-language model's vectors equal those of transformers.

The same texts, images, and images with texts go through transformers' own tokenizer, image
processor and model, one at a time, and through our runtimes, all at once and in both roles. The
recipes are those that the models' authors published.

Usage: check_vlm.py NAME_OR_FOLDER [--revision SHA] [--runtimes torch,torch-bf16] [--device …]
Needs: pip install '.[torch]' in Sentinel's folder, and memory for the model in float32, twice.
Exits with 1 if a cosine is below what docs/models.md promises, or if the model does not load on a
runtime that --runtimes names.
"""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.hub.source import find_model
from embedder_server.models.registry import load_model
from embedder_server.types import ModelLoadError
from sentinel_core.vectors import Role

Vectors = npt.NDArray[np.float32]
Content = tuple[str, Image.Image | None]

TEXTS = (
    "a cat",
    "\n two dogs run along the beach  ",
    "an old red boat near the river at night in the rain with many people and three black birds",
    "naïve café 猫",
)
# Height and width in pixels; some are far below or above what a token stands for.
SHAPES = ((40, 60), (97, 33), (200, 200), (32, 32), (20, 900), (1000, 700), (33, 31))
# As the model cards say.
QWEN_INSTRUCTIONS = {
    Role.QUERY: "Retrieve images or text relevant to the user's query.",
    Role.DOCUMENT: "Represent the user's input.",
}
GEMMA_PROMPTS = {
    Role.QUERY: "task: search result | query: ",
    Role.DOCUMENT: "title: none | text: ",
}
_QWEN_IMAGE = "<|image_pad|>"
LIMITS = {"float32": 0.9999, "bfloat16": 0.99}


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a model against transformers.")
    parser.add_argument("model", help="hub id or folder")
    parser.add_argument("--revision", help="commit of the hub")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", help="default: those of torch and torch-bf16 that load here")
    options = parser.parse_args()
    folder = find_model(options.model, options.revision)
    print(f"{folder.name} ({folder.model_type}), revision {folder.revision or 'local'}")
    expected = _expected(REFERENCES[folder.model_type](folder.path))
    right = []
    for name in (options.runtimes or "torch,torch-bf16").split(","):
        try:
            model = load_model(
                ModelChoice(
                    options.model,
                    options.device,
                    options.threads,
                    revision=options.revision,
                    runtime=name,
                )
            )
        except ModelLoadError as error:
            print(f"  {name}: not here: {error}")
            right += [False] * bool(options.runtimes)
            continue
        print(f"  {name}: {model.info.dtype}, {model.info.dimensions} dimensions")
        right.append(_agrees(model, expected))
        model.close()
    return 0 if right and all(right) else 1


def _expected(reference: Reference) -> dict[tuple[str, Role], Vectors]:
    return {
        (kind, role): np.concatenate([reference.vectors([one], role) for one in contents])
        for kind, contents in kinds().items()
        for role in Role
    }


def _agrees(model: EmbeddingModel, expected: dict[tuple[str, Role], Vectors]) -> bool:
    right = True
    for kind, contents in kinds().items():
        for role in Role:
            least = least_cosine(embedded(model, contents, role), expected[kind, role])
            right &= least >= LIMITS[model.info.dtype]
            print(f"    {kind} as {role}: cosine to the reference at least {least:.6f}")
    print(f"    {'right' if right else 'WRONG'}")
    return right


def pictures() -> list[Image.Image]:
    """Return images of several shapes."""
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in SHAPES
    ]


def kinds() -> dict[str, list[Content]]:
    """Return contents of each kind."""
    return {
        "texts": [(text, None) for text in TEXTS],
        "images": [("", image) for image in pictures()],
        "both": list(zip(TEXTS, pictures(), strict=False)),
    }


def embedded(model: EmbeddingModel, contents: Sequence[Content], role: Role) -> Vectors:
    """Embed contents of one kind with a model of ours, in one batch."""
    if contents[0][1] is None:
        return model.embed_texts([model.tokenize(text, role) for text, _ in contents])
    pixels = [model.preprocess(image) for _, image in contents if image is not None]
    texts = [text for text, _ in contents]
    given = [model.image_input(*one, role)[0] for one in zip(pixels, texts, strict=True)]
    return model.embed_images(given)


def least_cosine(one: Vectors, other: Vectors) -> float:
    """Return the least cosine of a row to the same row of other vectors."""
    return float(np.einsum("ij,ij->i", unit(one), unit(other)).min())


def unit(vectors: Any) -> Vectors:
    """Return the rows at length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class Reference(ABC):
    """A model of transformers with its own tokenizer and image processor, in float32."""

    def __init__(self, folder: Path, model: Any = None) -> None:
        """Read a folder; `model` is its model if that is loaded already."""
        import transformers

        self.folder = folder
        self.model = model or transformers.AutoModel.from_pretrained(folder, dtype="float32").eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def vectors(
        self,
        contents: Sequence[Content],
        role: Role,
        side: str = "right",
        most: int | None = None,
    ) -> Vectors:
        """Embed contents in one batch.

        Args:
            contents: Texts and images, all of one kind.
            role: Their role.
            side: Where shorter ones are padded.
            most: Most tokens of an image; None: as published.
        """
        import torch

        given, counts = self.pixels([image for _, image in contents if image], most)
        texts = [self.written(*one, role, counts) for one in contents]
        self.tokenizer.padding_side = side
        read = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        ids, mask = read["input_ids"], read["attention_mask"]
        given |= self.more(ids) if given else {}
        with torch.inference_mode():
            out = self.model(input_ids=ids, attention_mask=mask, **given)
            return np.asarray(self.pooled(out.last_hidden_state, mask).numpy())

    def more(self, ids: Any) -> dict[str, Any]:
        """Return what the model takes besides, for sequences with images."""
        return {}

    @abstractmethod
    def pixels(
        self, images: list[Image.Image], most: int | None
    ) -> tuple[dict[str, Any], Iterator[int]]:
        """Return what the model takes of the images, and how many tokens each one has."""

    @abstractmethod
    def written(
        self, text: str, image: Image.Image | None, role: Role, counts: Iterator[int]
    ) -> str:
        """Return a content as the model's tokenizer reads it."""

    @abstractmethod
    def pooled(self, hidden: Any, mask: Any) -> Any:
        """Return a vector for each row of hidden states."""


class Qwen3Vl(Reference):
    """Qwen3-VL-Embedding: the instruction is the system message; the last token is the vector."""

    def pixels(
        self, images: list[Image.Image], most: int | None
    ) -> tuple[dict[str, Any], Iterator[int]]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        if not images:
            return {}, iter(())
        processor = Qwen2VLImageProcessorPil.from_pretrained(self.folder)
        area = (processor.patch_size * processor.merge_size) ** 2
        size = {"shortest_edge": 4 * area, "longest_edge": (most or 1800) * area}
        given = dict(processor(images, size=size, return_tensors="pt"))
        counts = given["image_grid_thw"].prod(dim=1) // processor.merge_size**2
        return given, iter(counts.tolist())

    def more(self, ids: Any) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == self.model.config.image_token_id).int()}

    def written(
        self, text: str, image: Image.Image | None, role: Role, counts: Iterator[int]
    ) -> str:
        parts: list[dict[str, str]] = [{"type": "image"}] if image is not None else []
        parts += [{"type": "text", "text": text}] if text else []
        system = [{"type": "text", "text": QWEN_INSTRUCTIONS[role]}]
        written: str = self.tokenizer.apply_chat_template(
            [{"role": "system", "content": system}, {"role": "user", "content": parts}],
            tokenize=False,
            add_generation_prompt=True,
        )
        return (
            written if image is None else written.replace(_QWEN_IMAGE, _QWEN_IMAGE * next(counts))
        )

    def pooled(self, hidden: Any, mask: Any) -> Any:
        last = mask.shape[1] - 1 - mask.flip(dims=[1]).argmax(dim=1)
        return hidden[range(len(hidden)), last]


class EmbeddingGemma2(Reference):
    """EmbeddingGemma 2: prompts for texts only; the mean of all tokens is the vector."""

    def pixels(
        self, images: list[Image.Image], most: int | None
    ) -> tuple[dict[str, Any], Iterator[int]]:
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

        if not images:
            return {}, iter(())
        vision = self.model.config.vision_config
        processor = Gemma4ImageProcessorPil(
            patch_size=vision.patch_size, pooling_kernel_size=vision.pooling_kernel_size
        )
        read = dict(processor(images, max_soft_tokens=most or 280, return_tensors="pt"))
        return read, iter(map(int, read.pop("num_soft_tokens_per_image")))

    def written(
        self, text: str, image: Image.Image | None, role: Role, counts: Iterator[int]
    ) -> str:
        parts = [GEMMA_PROMPTS[role] + text] if text else []
        if image is not None:
            parts.append(f"<|image>{'<|image|>' * next(counts)}<image|>")
        return " ".join(parts)

    def pooled(self, hidden: Any, mask: Any) -> Any:
        weights = mask.unsqueeze(2)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


REFERENCES: dict[str, type[Reference]] = {
    "embedding_gemma2": EmbeddingGemma2,
    "qwen3_vl": Qwen3Vl,
}

if __name__ == "__main__":
    sys.exit(main())
