"""One item on its way to becoming a row: its checks, its digests, what a worker has to see.

Checks on vectors that callers bring along.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass

import numpy as np

from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Content, Item, Kind, Row
from sentinel_store.milvus import schema
from sentinel_store.values import FloatArray

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 60_000
MAX_FIELDS_BYTES = 60_000


@dataclass(slots=True)
class Draft:
    """An item that passed its checks, on its way to becoming a row.

    Attributes:
        where: Path of the item in its request.
    """

    where: str
    row: Row
    content: Content | None
    vector: FloatArray | None
    thumbnail: bytes = b""
    unchanged: bool = False

    @property
    def to_embed(self) -> Content | None:
        """What a worker has to see: content without a vector, and any image for its thumbnail."""
        if self.unchanged or self.content is None:
            return None
        if self.vector is not None and self.content.kind is Kind.TEXT:
            return None
        return self.content


def make_draft(item: Item, info: CollectionInfo, where: str, max_image_bytes: int) -> Draft:
    """Check one item and return it as a row without, as yet, its vector.

    Args:
        item: As it came.
        info: The collection it is for.
        where: Path of the item in its request, for errors.
        max_image_bytes: Larger images are refused.

    Raises:
        InvalidArgument: The item cannot be stored.
    """
    if item.content is None and item.vector is None:
        raise InvalidArgument(
            "CONTENT_MISSING", "an item needs a text, an image or a vector", field=where
        )
    schema.check_values(item.fields, info.fields, where)
    if len(json.dumps(item.fields).encode()) > MAX_FIELDS_BYTES:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"the fields are more than {MAX_FIELDS_BYTES} bytes as JSON",
            field=f"{where}.fields",
            limit=MAX_FIELDS_BYTES,
        )
    vector = None
    if item.vector is not None:
        vector = check_vector(item.vector, info, f"{where}.vector")
    if item.content is not None:
        _check_content(item.content, where, max_image_bytes)
    row = _row(item, vector)
    _check_id(row.id, f"{where}.id")
    return Draft(where, row, item.content, vector)


def _check_content(content: Content, where: str, max_image_bytes: int) -> None:
    if content.kind is Kind.TEXT and len(content.data) > MAX_TEXT_BYTES:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {len(content.data)} bytes; at most {MAX_TEXT_BYTES} are stored",
            field=f"{where}.content.text",
            limit=MAX_TEXT_BYTES,
        )
    if content.kind is Kind.IMAGE and len(content.data) > max_image_bytes:
        raise InvalidArgument(
            "IMAGE_TOO_LARGE",
            f"the image has {len(content.data)} bytes, the limit is {max_image_bytes}; "
            "send a smaller version",
            field=f"{where}.content.image.data",
            limit=max_image_bytes,
        )


def _check_id(item_id: str, field: str) -> None:
    """Raise InvalidArgument unless `item_id` can be stored and printed."""
    if not item_id:
        raise InvalidArgument(
            "NAME_INVALID", "an item that is a bare vector needs an id", field=field
        )
    if len(item_id.encode()) > MAX_ID_BYTES or any(map(_is_control, item_id)):
        raise InvalidArgument(
            "NAME_INVALID",
            f"an id is 1 to {MAX_ID_BYTES} bytes without control characters",
            field=field,
        )


def _row(item: Item, vector: FloatArray | None) -> Row:
    content = item.content
    data = content.data if content else b""
    content_digest = hashlib.sha256(data).hexdigest()
    given = vector.tobytes() if vector is not None else b""
    return Row(
        id=item.id or (content_digest if content else ""),
        digest=hashlib.sha256(data + given).hexdigest(),
        image=content_digest if content and content.kind is Kind.IMAGE else "",
        text=content.text if content and content.kind is Kind.TEXT else "",
        fields=item.fields,
        vector=vector,
    )


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc"


def check_vector(vector: FloatArray, collection: CollectionInfo, field: str) -> FloatArray:
    """Return `vector` L2-normalised.

    Raises:
        InvalidArgument: Its dimensions are not the collection's, or it has no direction.
    """
    if len(vector) != collection.dimensions:
        raise InvalidArgument(
            "VECTOR_DIMENSIONS",
            f"the vector has {len(vector)} dimensions, collection {collection.name} has "
            f"{collection.dimensions}",
            field=field,
            expected=collection.dimensions,
        )
    # float64, since the square of a large finite float32 overflows float32.
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidArgument(
            "VECTOR_INVALID", "the vector must be finite and not all zeros", field=field
        )
    return (vector / norm).astype(np.float32)
