"""Rows to and from what Milvus holds.

Declared fields as Milvus columns, and the checks a value passes before it becomes one.

A row keeps all its fields in one JSON column, which is what callers get back. Beside it, every
declared scalar field has a typed column of its own that filters compare: on Milvus Lite that is
25 to 50 times faster than a path into the JSON, and a server can index it. A field that an item
lacks is stored in its column as a marker value that callers may not use.


What a collection is, as its Milvus properties hold it, shared by all gateways.

    sentinel.collection   what it was made as; never changes
    sentinel.origin       what it was made of, if of another collection
    sentinel.reindex      what is being made of it, if anything; empty: nothing

Milvus 2.3 cannot remove a property, only change it; hence "empty".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pymilvus import DataType, Function, FunctionType, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import (
    CollectionInfo,
    IndexKind,
    Origin,
    OriginState,
    ReindexMark,
    VectorIndex,
)
from sentinel_store.items import Row
from sentinel_store.milvus.connection import MilvusConnection
from sentinel_store.values import Consistency, Fields, FieldType, FieldValue, ModelRef

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
        **columns_of(row.fields, info.fields),
        **full_text_of(row.fields, info.full_text),
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


# Python's int64 ends; the least one cannot be written in a Milvus expression, the next is ours.
_INT64_MAX = 2**63 - 1
_ABSENT_INT64 = -_INT64_MAX
# The least finite double, written so that every parser reads it back exactly.
_ABSENT_DOUBLE = -1.7976931348623157e308
_ABSENT_STRING = "\x7fabsent\x7f"
_ABSENT_BOOL = -1

_ABSENT: dict[FieldType, FieldValue] = {
    FieldType.STRING: _ABSENT_STRING,
    FieldType.INT64: _ABSENT_INT64,
    FieldType.DOUBLE: _ABSENT_DOUBLE,
    FieldType.BOOL: _ABSENT_BOOL,
}

# The texts of the full-text fields, which Milvus finds the words of (full_text.py).
FULL_TEXT = "full_text"
FULL_TEXT_WORDS = "full_text_words"


def column_of(name: str) -> str:
    """Return the column of a declared field; the prefix keeps clear of our own columns."""
    return f"f_{name}"


def absent_marker(field_type: FieldType) -> FieldValue:
    """Return what stands in the column of an item that lacks the field."""
    return _ABSENT[field_type]


def to_column(value: FieldValue, field_type: FieldType) -> FieldValue:
    """Return a checked value as its column holds it: a bool as 0 or 1, the rest as it is."""
    return int(value) if field_type is FieldType.BOOL and isinstance(value, bool) else value


def columns_of(values: Fields, fields: Mapping[str, FieldType]) -> dict[str, FieldValue]:
    """Return the columns of a row with these checked values."""
    return {
        column_of(name): to_column(values[name], field_type)
        if name in values
        else absent_marker(field_type)
        for name, field_type in fields.items()
        if field_type is not FieldType.STRING_LIST
    }


def full_text_of(values: Fields, names: Sequence[str]) -> dict[str, str]:
    """Return the full-text column of a row with these checked values: a text to a line.

    Args:
        values: The row's fields.
        names: The collection's full-text fields, which are strings; without any, there is no
            such column.
    """
    texts = [str(values[name]) for name in names if name in values]
    return {FULL_TEXT: "\n".join(texts)} if names else {}


def check_names(names: Iterable[str], fields: Mapping[str, FieldType], where: str) -> None:
    """Raise InvalidArgument if a name is not a declared field."""
    for name in names:
        type_of(name, fields, where)


def check_values(values: Fields, fields: Mapping[str, FieldType], where: str) -> None:
    """Check an item's fields in place: declared, of their type, integers widened to doubles.

    Raises:
        InvalidArgument: One is not declared or of another type.
    """
    for name, value in values.items():
        field_type = type_of(name, fields, f"{where}.fields")
        values[name] = checked(value, field_type, name)


def type_of(name: str, fields: Mapping[str, FieldType], where: str) -> FieldType:
    """Return the type of a declared field.

    Raises:
        InvalidArgument: The collection does not declare it.
    """
    if name not in fields:
        declared = ", ".join(sorted(fields)) or "none"
        raise InvalidArgument(
            "FIELD_UNKNOWN",
            f"the collection does not declare field {name[:200]!r}; it declares: {declared}",
            field=where,
            name=name[:200],
        )
    return fields[name]


def checked(value: FieldValue, field_type: FieldType, name: str) -> FieldValue:
    """Return `value` as `field_type` stores it.

    Raises:
        InvalidArgument: It is of another type.
    """
    match field_type, value:
        case FieldType.BOOL, bool():
            return value
        case ((FieldType.INT64 | FieldType.DOUBLE), bool()):
            pass  # a bool is an int to Python, not to us
        case FieldType.INT64, int() if value > _ABSENT_INT64:
            return value
        case FieldType.DOUBLE, int() | float() if value != _ABSENT_DOUBLE:
            return float(value)
        case FieldType.STRING, str() if value != _ABSENT_STRING:
            return value
        case FieldType.STRING_LIST, list():
            return value
    raise InvalidArgument(
        "FIELD_TYPE",
        f"field {name!r} is a {field_type}, which a {type(value).__name__} of this value is not",
        field=f"fields[{name}]",
        name=name,
    )


COLLECTION = "sentinel.collection"
_ORIGIN = "sentinel.origin"
_REINDEX = "sentinel.reindex"


class Properties:
    """Changes what may change of a collection. Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def set_origin(self, collection: str, origin: Origin, deadline: Deadline) -> None:
        """Note what a collection was made of and how far it is."""
        await self._set(collection, _ORIGIN, _dumped(origin), deadline)

    async def set_reindex(
        self, collection: str, mark: ReindexMark | None, deadline: Deadline
    ) -> None:
        """Note what is being made of a collection; None: nothing any more."""
        await self._set(collection, _REINDEX, _dumped(mark), deadline)

    async def _set(self, collection: str, key: str, value: str, deadline: Deadline) -> None:
        await self._milvus.run(
            lambda client, timeout: client.alter_collection_properties(
                collection, {key: value}, timeout=timeout
            ),
            deadline,
        )


def of_info(info: CollectionInfo) -> dict[str, str]:
    """Return the properties of a collection that is `info`."""
    collection = json.dumps(
        {
            "model": info.model.model,
            "revision": info.model.revision,
            "fingerprint": info.model.fingerprint,
            "dimensions": info.dimensions,
            "fields": {name: str(field_type) for name, field_type in info.fields.items()},
            "indexed": info.indexed,
            "index": str(info.index.kind),
            "index_params": info.index.params,
            "expected_item_count": info.expected_item_count,
            "consistency": str(info.consistency),
            "full_text": info.full_text,
        }
    )
    return {
        COLLECTION: collection,
        _ORIGIN: _dumped(info.origin),
        _REINDEX: _dumped(info.reindex),
    }


def to_info(name: str, asked: str, properties: Mapping[str, str]) -> CollectionInfo:
    """Return what the collection `name`, found as `asked`, is by its properties."""
    data = json.loads(properties[COLLECTION])
    origin, reindex = properties.get(_ORIGIN), properties.get(_REINDEX)
    return CollectionInfo(
        name=name,
        model=ModelRef(data["model"], data["revision"], data["fingerprint"]),
        dimensions=data["dimensions"],
        fields={key: FieldType(value) for key, value in data["fields"].items()},
        # Collections of before these could be chosen do not say.
        indexed=tuple(data.get("indexed", ())),
        index=VectorIndex(
            IndexKind(data.get("index", IndexKind.AUTOINDEX)), data.get("index_params", {})
        ),
        expected_item_count=data.get("expected_item_count", 0),
        consistency=Consistency(data.get("consistency", Consistency.SESSION)),
        full_text=tuple(data.get("full_text", ())),
        asked=asked,
        origin=_origin(json.loads(origin)) if origin else None,
        reindex=ReindexMark(**json.loads(reindex)) if reindex else None,
    )


def _origin(data: dict[str, str]) -> Origin:
    return Origin(data["source"], OriginState(data["state"]))


def _dumped(value: Origin | ReindexMark | None) -> str:
    return json.dumps(asdict(value)) if value is not None else ""


def literal(value: FieldValue) -> str:
    """Return a value as a Milvus expression spells it."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return repr(value)


def literals(values: Iterable[FieldValue]) -> str:
    """Return a list of values as a Milvus expression spells it."""
    return f"[{', '.join(literal(value) for value in values)}]"


def with_ids(ids: Iterable[str]) -> str:
    """Return the expression that selects these ids."""
    return f"id in {literals(ids)}"


def excluding(expression: str, item_id: str) -> str:
    """Return `expression` without the item `item_id`."""
    other = f"id != {literal(item_id)}"
    return f"{expression} and {other}" if expression else other


def after_id(expression: str, last_id: str) -> str:
    """Return `expression` for items whose id sorts after `last_id` only."""
    after = f"id > {literal(last_id)}"
    return f"{after} and ({expression})" if expression else after


def up_to_id(last_id: str) -> str:
    """Return the expression for items whose id does not sort after `last_id`."""
    return f"id <= {literal(last_id)}"


def with_images(digests: Iterable[str]) -> str:
    """Return the expression that selects the items of these pictures."""
    return f"image in {literals(digests)}"


_TEXT_LENGTH = 65_535


_ANALYZER = {"type": "standard"}


def add_columns(schema: Any) -> None:
    """Add the columns to a Milvus schema."""
    schema.add_field(
        FULL_TEXT,
        DataType.VARCHAR,
        max_length=_TEXT_LENGTH,
        enable_analyzer=True,
        analyzer_params=_ANALYZER,
    )
    schema.add_field(FULL_TEXT_WORDS, DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="full_text_bm25",
            function_type=FunctionType.BM25,
            input_field_names=[FULL_TEXT],
            output_field_names=[FULL_TEXT_WORDS],
        )
    )


def build_index(client: MilvusClient, name: str, timeout: float) -> None:
    """Have Milvus index the words of a new collection."""
    index = client.prepare_index_params()
    index.add_index(FULL_TEXT_WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_index(name, index, timeout=timeout, sync=False)


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
