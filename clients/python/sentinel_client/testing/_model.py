"""A model without weights: vectors are sums of hashes, equal on every machine and for ever.

Texts with common words are alike. An image is like nothing but itself, unless `describe` says what
it shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sentinel.common.v1 import content_pb2
from sentinel_client._errors import InvalidArgument
from sentinel_client._types import Vector
from sentinel_client.testing import _checks

MAX_TOKENS = 512
MAX_TEXT_CHARS = 100_000
MAX_IMAGE_BYTES = 48 * 1024 * 1024
_MARKS = 2  # the tokens that begin and end a text
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of a content, float32 `[dimensions]`, not of length 1; and what was read."""

    vector: Vector
    token_count: int = 0
    truncated: bool = False
    media_type: str = ""


class HashingModel:
    """Embeds texts and images."""

    def __init__(self, dimensions: int, supported_dimensions: Sequence[int] = ()) -> None:
        self.dimensions = dimensions
        self.supported_dimensions = sorted({*supported_dimensions, dimensions})
        key = f"sentinel_client.testing {dimensions}".encode()
        self.version = content_pb2.ModelVersion(
            model="fake", revision="1", fingerprint=hashlib.sha256(key).hexdigest()
        )
        self._descriptions: dict[str, str] = {}

    def describe(self, image: bytes, text: str) -> None:
        """Give an image the vector of a text."""
        self._descriptions[hashlib.sha256(image).hexdigest()] = text

    def check_dimensions(self, wanted: int | None, where: str) -> int:
        """Return the length of the vectors that a caller wants; None: the model's own."""
        if wanted is None:
            return self.dimensions
        if wanted not in self.supported_dimensions:
            supported = ", ".join(map(str, self.supported_dimensions))
            raise InvalidArgument(
                "DIMENSIONS_UNSUPPORTED",
                f"there are no vectors of {wanted} dimensions; use {supported}",
                field=where,
                metadata={"supported": supported},
            )
        return wanted

    def embed(self, content: content_pb2.Content, where: str, *, truncate: bool = True) -> Embedded:
        """Embed one content; raise InvalidArgument with its path if it cannot be embedded.

        The part of an image has the vector of the whole.
        """
        _checks.check_content(content, where)
        if content.WhichOneof("kind") == "text":
            return self._embed_text(content.text, where, truncate)
        _checks.check_crop(content.image, f"{where}.image")
        if content.image.text:
            raise InvalidArgument(
                "MODALITY_UNSUPPORTED",
                "the fake model embeds no image together with a text; embed both separately, or "
                "search with both as terms of a composite query",
                field=f"{where}.image.text",
                metadata={"modality": "image_with_text"},
            )
        data, path = content.image.data, f"{where}.image.data"
        if len(data) > MAX_IMAGE_BYTES:
            raise InvalidArgument(
                "IMAGE_TOO_LARGE",
                f"the image has {len(data)} bytes, the limit is {MAX_IMAGE_BYTES}",
                field=path,
                metadata={"limit": str(MAX_IMAGE_BYTES)},
            )
        media_type = _checks.media_type(data, path)
        digest = hashlib.sha256(data).hexdigest()
        if (description := self._descriptions.get(digest)) is not None:
            vector = self._vector(words_of(description))
        else:
            vector = self._vector([f"image {digest}"])
        return Embedded(vector, media_type=media_type)

    def _embed_text(self, text: str, where: str, truncate: bool) -> Embedded:
        words = words_of(text)
        count = len(words) + _MARKS
        if len(text) > MAX_TEXT_CHARS or (count > MAX_TOKENS and not truncate):
            limit = MAX_TEXT_CHARS if len(text) > MAX_TEXT_CHARS else MAX_TOKENS
            raise InvalidArgument(
                "TEXT_TOO_LONG",
                f"the text is longer than {limit}; shorten it",
                field=f"{where}.text",
                metadata={"limit": str(limit)},
            )
        vector = self._vector(words[: MAX_TOKENS - _MARKS])
        return Embedded(vector, token_count=count, truncated=count > MAX_TOKENS)

    def _vector(self, words: list[str]) -> Vector:
        vectors = [_hashed(word, self.dimensions) for word in words]
        return np.asarray(np.sum(vectors, axis=0), np.float32)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; of a text without words, the text itself."""
    return _WORD.findall(text.lower()) or [text]


def unit(vector: Vector) -> Vector:
    """Return a vector at length 1."""
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@lru_cache(maxsize=10_000)
def _hashed(word: str, dimensions: int) -> Vector:
    """Return a vector of length 1 that looks random; its elements are odd, so none is zero."""
    digest = hashlib.shake_256(word.encode()).digest(dimensions)
    return unit(2 * np.frombuffer(digest, np.int8).astype(np.float32) + 1)
