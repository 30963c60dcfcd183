"""Check an item against its collection and prepare it for embedding and storing.

The gateway and the bulk indexer prepare every item here, so both store equal rows for equal items.
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
from sentinel_store.milvus.field_columns import to_json
from sentinel_store.values import Fields, FloatArray

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 60_000
MAX_FIELDS_BYTES = 60_000
# float32 elements of a normalised vector leave its length this far from 1.
_UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item that passed its checks and is not embedded yet.

    Attributes:
        path: Path of the item in its request, for errors.
        digest: Hex SHA-256 of the content and of the caller's own vector; see `Row`.
        image: Hex SHA-256 of the image bytes; empty unless the content is an image.
        content: None for an item that is a vector only. Of an image that is stored by reference,
            the bytes are read when they are needed.
        vector: The caller's vector, float32 `[dimensions]`, L2-normalised; None: embed the content.
        has_copy: Whether the object store has the image, although it came by reference: then the
            item keeps the copy.
    """

    path: str
    id: str
    digest: str
    image: str
    fields: Fields
    content: Content | None
    vector: FloatArray | None
    has_copy: bool = False

    @property
    def original(self) -> str:
        """`file` URI of an image whose bytes are read when needed; empty: they are here."""
        return self.content.uri if self.content is not None and self.content.digest else ""

    @property
    def reference(self) -> str:
        """As in `Row`."""
        return "" if self.has_copy else self.original

    @property
    def to_embed(self) -> Content | None:
        """The content that a worker has to process.

        That is content without a vector, and every image, for its thumbnail.
        """
        if self.content is None or (self.vector is not None and self.content.kind is Kind.TEXT):
            return None
        return self.content

    def row(self, vector: FloatArray | None) -> Row:
        """Return the row to store; `vector` is ignored if the caller sent one."""
        content = self.content
        return Row(
            id=self.id,
            digest=self.digest,
            image=self.image,
            text=content.text if content is not None and content.kind is Kind.TEXT else "",
            fields=self.fields,
            vector=vector if self.vector is None else self.vector,
            reference=self.reference,
        )


def prepare_item(
    item: Item, info: CollectionInfo, path: str, *, max_image_bytes: int
) -> PreparedItem:
    """Check one item and compute its digests; raise InvalidArgument if it cannot be stored.

    `path` is the item's path in its request, for errors.
    """
    content = item.content
    if content is None and item.vector is None:
        raise InvalidArgument(
            "CONTENT_MISSING", "an item needs a text, an image or a vector", field=path
        )
    fields = _checked_fields(item, info, path)
    vector = None
    if item.vector is not None:
        vector = check_vector(item.vector, info, f"{path}.vector")
    if content is not None:
        _check_content(content, path, max_image_bytes)
    if content is not None and content.digest:
        content_digest, data = content.digest, content.digest.encode()
    else:
        data = content.data if content else b""
        content_digest = hashlib.sha256(data).hexdigest()
    item_id = item.id or (content_digest if content else "")
    _check_id(item_id, f"{path}.id")
    digest = content_digest
    if vector is not None and not (content is not None and item.vector_from_model):
        digest = hashlib.sha256(data + vector.tobytes()).hexdigest()
    return PreparedItem(
        path=path,
        id=item_id,
        digest=digest,
        image=content_digest if content and content.kind is Kind.IMAGE else "",
        fields=fields,
        content=content,
        vector=vector,
    )


def _checked_fields(item: Item, info: CollectionInfo, path: str) -> Fields:
    fields = schema.checked_fields(item.fields, info.fields, f"{path}.fields")
    if len(json.dumps(to_json(fields)).encode()) > MAX_FIELDS_BYTES:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"the fields are more than {MAX_FIELDS_BYTES} bytes as JSON",
            field=f"{path}.fields",
            limit=MAX_FIELDS_BYTES,
        )
    return fields


def _check_content(content: Content, path: str, max_image_bytes: int) -> None:
    if content.kind is Kind.TEXT and len(content.data) > MAX_TEXT_BYTES:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {len(content.data)} bytes; at most {MAX_TEXT_BYTES} are stored",
            field=f"{path}.content.{content.part}",
            limit=MAX_TEXT_BYTES,
        )
    if content.kind is Kind.IMAGE and len(content.data) > max_image_bytes:
        raise InvalidArgument(
            "IMAGE_TOO_LARGE",
            f"the image has {len(content.data)} bytes, the limit is {max_image_bytes}; "
            "scale it down, or raise the --max-image-bytes of gateways and workers",
            field=f"{path}.content.{content.part}",
            limit=max_image_bytes,
        )


def _check_id(item_id: str, field: str) -> None:
    if not item_id:
        raise InvalidArgument(
            "NAME_INVALID", "an item that is a vector only needs an id", field=field
        )
    check_id_length(item_id, field)
    if any(map(_is_control, item_id)):
        raise _bad_id(field)


def check_id_length(item_id: str, field: str) -> None:
    """Raise InvalidArgument if the id is longer than that of any item."""
    # The first comparison spares the encoding of a huge one.
    if len(item_id) > MAX_ID_BYTES or len(item_id.encode()) > MAX_ID_BYTES:
        raise _bad_id(field)


def _bad_id(field: str) -> InvalidArgument:
    return InvalidArgument(
        "NAME_INVALID",
        f"an id is 1 to {MAX_ID_BYTES} bytes without control characters",
        field=field,
    )


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc"


def check_vector(vector: FloatArray, collection: CollectionInfo, field: str) -> FloatArray:
    """Return `vector` L2-normalised, float32 `[dimensions]`.

    Raises:
        InvalidArgument: It does not have the collection's dimensions, is not finite, or is zero.
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
    if abs(norm - 1.0) <= _UNIT_TOLERANCE:
        return vector.astype(np.float32, copy=False)  # dividing again would change its last bits
    return (vector / norm).astype(np.float32)
