"""What the clients of the chaos suite store, and the vectors that it must get."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sentinel_client import Item
from tests.fakes.fake_model import FakeModel

Vector = npt.NDArray[np.float32]

# Images of this colour kill the fake worker that embeds them.
POISON_COLOUR = "black"
_SIDE = 16
_COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta")


@dataclass(frozen=True, slots=True)
class Model:
    """One of the two models that workers serve."""

    name: str
    dimensions: int


MODELS = {model.name: model for model in (Model("first", 16), Model("second", 24))}


@dataclass(frozen=True, slots=True)
class Version:
    """One state of an item; equal seeds have equal contents.

    Attributes:
        seed: Of the content.
        revision: A field's value.
        is_image: Whether it is an image and not a text.
    """

    seed: int
    revision: int
    is_image: bool

    def item(self, item_id: str) -> Item:
        """Return the item to send."""
        fields = {"revision": self.revision}
        if self.is_image:
            return Item(id=item_id, image=picture(self.seed), fields=fields)
        return Item(id=item_id, text=words(self.seed), fields=fields)

    @property
    def digest(self) -> str:
        """The name of the image in the object store."""
        return hashlib.sha256(picture(self.seed)).hexdigest()

    def vector(self, model: str) -> Vector:
        """Return its vector in the space of a model."""
        return _vector(model, self.seed, self.is_image)


def words(seed: int) -> str:
    """A text that names a colour, and a word that no other text has."""
    return f"{_COLOURS[seed % len(_COLOURS)]} thing{seed}"


@functools.lru_cache(100_000)
def picture(seed: int) -> bytes:
    """A small image unlike that of any other seed."""
    return _png(np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))


def poison(seed: int) -> bytes:
    """An image that kills the worker that embeds it."""
    pixels = np.zeros((_SIDE, _SIDE, 3), dtype=np.uint8)
    pixels[-1] = np.random.default_rng(seed).integers(0, 256, (_SIDE, 3), dtype=np.uint8)
    return _png(pixels)


def broken(seed: int) -> bytes:
    """An image that cannot be decoded."""
    return picture(seed)[:60]


def text_vector(model: str, text: str) -> Vector:
    """Return the vector of a query."""
    fake = _fake(model)
    return _normalised(fake.embed_texts([fake.tokenize(text)])[0])


@functools.lru_cache(100_000)
def _vector(model: str, seed: int, is_image: bool) -> Vector:
    if not is_image:
        return text_vector(model, words(seed))
    fake = _fake(model)
    with Image.open(io.BytesIO(picture(seed))) as image:
        return _normalised(fake.embed_images([fake.preprocess(image)])[0])


@functools.lru_cache
def _fake(model: str) -> FakeModel:
    return FakeModel(MODELS[model].dimensions, name=model)


def _normalised(vector: Any) -> Vector:
    return (vector / np.linalg.norm(vector)).astype(np.float32)  # type: ignore[no-any-return]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
