"""Items before and after they are stored: content, item, row."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from sentinel_store.values import Fields, FloatArray


class Kind(enum.StrEnum):
    """Kind of a content."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image; edges as fractions of its size. The worker checks them."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(slots=True)
class Content:
    """A text or one encoded image, to be embedded.

    Attributes:
        data: UTF-8, or the encoded file; empty while the image at `uri` is not read.
        crop: The part of the image to embed; None: all of it.
        uri: Where to fetch the image; empty if the request has its bytes.
        beside: A text to embed together with the image; empty: none.
        digest: To store the image by reference: the hex SHA-256 that the file at `uri` must have.
            Empty: store a copy.
    """

    kind: Kind
    data: bytes
    crop: Crop | None = None
    uri: str = ""
    beside: str = ""
    digest: str = ""

    @property
    def size(self) -> int:
        """Bytes in a message, about."""
        return len(self.data) + len(self.beside.encode())

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def part(self) -> str:
        """Which field of the contract's Content it came from: the path that errors name."""
        if self.kind is Kind.TEXT:
            return "text"
        return "image.uri" if self.uri else "image.data"


@dataclass(slots=True)
class Row:
    """One stored item, as Milvus holds it.

    Attributes:
        digest: Hex SHA-256 of the content and of the caller's vector, if any; equal digests have
            equal vectors.
        image: Image items: hex SHA-256 of the image bytes, which the object store uses as a name.
        text: Text items: the text.
        vector: float32 `[dimensions]`, L2-normalised; None if it was not read.
        reference: Image items that are stored by reference: `file` URI of the original, of which
            the object store has the thumbnail only. Empty: it has the image, too.
    """

    id: str
    digest: str
    image: str
    text: str
    fields: Fields
    vector: FloatArray | None = None
    reference: str = ""


@dataclass(slots=True)
class Item:
    """One item to store, as the caller sent it.

    Attributes:
        vector_from_model: Whether the collection's model has made `vector` of `content`.
    """

    id: str
    content: Content | None = None
    vector: FloatArray | None = None
    fields: Fields = field(default_factory=dict)
    vector_from_model: bool = False
