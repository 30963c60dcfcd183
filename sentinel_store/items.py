"""An item before and after it is stored: content, item, row."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from sentinel_store.values import Fields, FloatArray


class Kind(enum.StrEnum):
    """What a content is."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture; edges in fractions of its size, unchecked: the worker checks them."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Content:
    """A text or one encoded image, to be embedded.

    Attributes:
        data: UTF-8, or the encoded file; empty while the image at `uri` is not fetched.
        crop: The part of the picture to embed; None is all of it.
        uri: Where the image came or has to come from; empty when its bytes came along.
    """

    kind: Kind
    data: bytes
    crop: Crop | None = None
    uri: str = ""

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(slots=True)
class Row:
    """One stored item, as it lies in Milvus.

    Attributes:
        digest: Hex SHA-256 of the content and of the vector that came with it, if one did;
            equal digests have equal vectors.
        image: Image items: hex SHA-256 of the image bytes, their name in the object store.
        text: Text items: the text.
        vector: float32 `[dimensions]`; None where it was not asked for.
    """

    id: str
    digest: str
    image: str
    text: str
    fields: Fields
    vector: FloatArray | None = None


@dataclass(slots=True)
class Item:
    """One item to store, as the caller sent it."""

    id: str
    content: Content | None = None
    vector: FloatArray | None = None
    fields: Fields = field(default_factory=dict)
