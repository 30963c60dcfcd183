"""Contents for vision-language models, and how a loaded model embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from embedder_server.models.hub.hub_model import DualEncoder
from embedder_server.types import FloatArray
from scripts.check_model import unit
from sentinel_core.vectors import Role

EXACT = 0.9999
TEXTS = (
    "a cat",
    "\n two dogs run along the beach  ",
    "an old red boat near the river at night in the rain with many people and three black birds",
    "naïve café 猫",
)
# Height and width in pixels; some are far below or above what a token stands for.
SHAPES = ((40, 60), (97, 33), (200, 200), (16, 16), (20, 900), (1000, 700), (33, 31))
Content = tuple[str, Image.Image | None]


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in SHAPES
    ]


def ours(model: DualEncoder, contents: Sequence[Content], role: Role) -> FloatArray:
    """Embed contents of one kind in one batch."""
    if contents[0][1] is None:
        return model.embed_texts([model.tokenize(text, role) for text, _ in contents])
    pixels = [model.preprocess(image) for _, image in contents if image is not None]
    texts = [text for text, _ in contents]
    given = [model.image_input(*one, role)[0] for one in zip(pixels, texts, strict=True)]
    return model.embed_images(given)


def least_cosine(one: FloatArray, other: FloatArray) -> float:
    return float(np.einsum("ij,ij->i", unit(one), unit(other)).min())


KINDS: dict[str, list[Content]] = {
    "texts": [(text, None) for text in TEXTS],
    "images": [("", image) for image in pictures()],
    "both": list(zip(TEXTS, pictures(), strict=False)),
}


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
