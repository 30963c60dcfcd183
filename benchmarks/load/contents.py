"""Contents to embed: seeded 10-word texts, and 320 x 320 JPEGs cut from real photos."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

# Words of photo captions. `random_clip.py` trains its tokenizer on them, so that each word is one
# token, as in CLIP's own vocabulary.
WORDS = (  # noqa: SIM905 - a list of words reads better as words
    "a photo of the red dog cat bird boat bicycle coffee mountain river street market child "
    "running jumping playing eating sleeping on in under near with two three many people "
    "at night rain beach black white green blue yellow old young small large car city tree"
).split()
# Images in scikit-image that compress like photos.
_PHOTOS = (  # noqa: SIM905
    "astronaut.png brick.png chelsea.png coffee.png grass.png gravel.png hubble_deep_field.jpg "
    "motorcycle_left.png retina.jpg rocket.jpg"
).split()
SIDE = 320


def texts(count: int, words: int = 10, seed: int = 1) -> list[str]:
    """Return `count` random sentences."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(count)]


@cache
def jpegs(count: int, side: int = SIDE, seed: int = 1) -> list[bytes]:
    """Return `count` JPEG files: random squares of photos, resized, some of them mirrored."""
    rng = np.random.default_rng(seed)
    photos = _photos()
    return [_jpeg(photos[index % len(photos)], side, rng) for index in range(count)]


def _photos() -> list[Image.Image]:
    import skimage  # noqa: PLC0415 - only who makes pictures needs it

    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name, formats=["JPEG", "PNG"]).convert("RGB") for name in _PHOTOS]


def _jpeg(photo: Image.Image, side: int, rng: np.random.Generator) -> bytes:
    square = int(min(photo.size) * rng.uniform(0.6, 1.0))
    left = int(rng.integers(photo.width - square + 1))
    top = int(rng.integers(photo.height - square + 1))
    picture = photo.resize((side, side), box=(left, top, left + square, top + square))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
