"""Rows to and from what Milvus holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from search_server.store import columns
from search_server.types.collections import CollectionInfo
from search_server.types.items import Row

_FIELDS = ["id", "digest", "image", "text", "fields"]


def output_fields(include_vectors: bool) -> list[str]:
    """Return the columns that `from_entity` reads."""
    return [*_FIELDS, "vector"] if include_vectors else _FIELDS


def to_entity(row: Row, info: CollectionInfo) -> dict[str, Any]:
    """Return what is written for `row`."""
    return {
        "id": row.id,
        "vector": row.vector,
        "digest": row.digest,
        "image": row.image,
        "text": row.text,
        "fields": row.fields,
        **columns.columns_of(row.fields, info.fields),
        **columns.full_text_of(row.fields, info.full_text),
    }


def from_entity(entity: dict[str, Any]) -> Row:
    """Return the row that was read."""
    vector = entity.get("vector")
    return Row(
        id=entity["id"],
        digest=entity["digest"],
        image=entity["image"],
        text=entity["text"],
        fields=entity["fields"],
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
    )
