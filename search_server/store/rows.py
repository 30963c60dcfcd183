"""Rows and collection descriptions to and from what Milvus holds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from search_server.store import columns
from search_server.types import CollectionInfo, FieldType, ModelRef, Row

_FIELDS = ["id", "digest", "image", "text", "fields"]


def output_fields(include_vectors: bool) -> list[str]:
    """Return the columns that `from_entity` reads."""
    return [*_FIELDS, "vector"] if include_vectors else _FIELDS


def to_entity(row: Row, fields: dict[str, FieldType]) -> dict[str, Any]:
    """Return what is written for `row`."""
    return {
        "id": row.id,
        "vector": row.vector,
        "digest": row.digest,
        "image": row.image,
        "text": row.text,
        "fields": row.fields,
        **columns.columns_of(row.fields, fields),
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


def info_to_json(info: CollectionInfo) -> str:
    """Return what a collection is, as its Milvus property holds it."""
    return json.dumps(
        {
            "model": info.model.model,
            "revision": info.model.revision,
            "fingerprint": info.model.fingerprint,
            "dimensions": info.dimensions,
            "fields": {name: str(field_type) for name, field_type in info.fields.items()},
        }
    )


def info_from_json(name: str, text: str) -> CollectionInfo:
    """Return what `info_to_json` wrote."""
    data = json.loads(text)
    return CollectionInfo(
        name=name,
        model=ModelRef(data["model"], data["revision"], data["fingerprint"]),
        dimensions=data["dimensions"],
        fields={key: FieldType(value) for key, value in data["fields"].items()},
    )
