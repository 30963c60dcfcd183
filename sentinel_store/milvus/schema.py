"""The Milvus table of a collection: its columns, its properties, and expressions over them.

    id      VARCHAR, primary key
    vector  FLOAT_VECTOR, metric COSINE; FLOAT16_, BFLOAT16_ or INT8_VECTOR by the storage
    digest  VARCHAR   what the vector was made from; see `Row`
    image   VARCHAR   name of the image in the object store, or empty
    text    VARCHAR   the text of a text item; of an image stored by reference, its URI; or empty
    fields  JSON      all fields, as callers get them back
    f_…, lat_…, lon_…  typed columns of the declared fields, for filters; see `field_columns.py`
    full_text        VARCHAR              only with full-text fields: their texts, one per line
    full_text_words  SPARSE_FLOAT_VECTOR  their words, which Milvus extracts

Filters compare the typed columns: on Milvus Lite that is 25 to 50 times faster than a path into
the JSON, and a server can index them.

The properties of the table describe the collection, so all gateways share the description, and it
is dropped with the collection:

    sentinel.collection   how it was created; never changes
    sentinel.origin       the collection that it was made from, if any
    sentinel.reindex      the reindex that reads it, if any; empty: none
    sentinel.moved_to     the collection that its name means now; empty: itself
    sentinel.names        names of collections that may have moved to it; their `moved_to` decides
    sentinel.match        what scores mean in it, and which gateway finds that out
    sentinel.move         on the Milvus that a library moves to: which move; else empty

Milvus 2.3 cannot remove a property, only change it; hence "empty".
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from pymilvus import DataType, Function, FunctionType, MilvusClient

from sentinel_core.errors import InvalidArgument
from sentinel_core.vectors import Element
from sentinel_store.collections import (
    CollectionInfo,
    IndexKind,
    MatchLevels,
    MatchRun,
    Origin,
    OriginState,
    ReindexMark,
    VectorIndex,
    VectorStorage,
)
from sentinel_store.items import Row
from sentinel_store.milvus import field_columns, vector_columns
from sentinel_store.values import Consistency, Fields, FieldType, ModelRef

# Collections of this prefix try what Milvus can, and are dropped at once.
PROBE = "sentinel_probe_"
# Selects the items that have an image.
IS_IMAGE = 'image != ""'
FULL_TEXT = "full_text"
FULL_TEXT_WORDS = "full_text_words"
COLLECTION = "sentinel.collection"
ORIGIN = "sentinel.origin"
REINDEX = "sentinel.reindex"
MOVED_TO = "sentinel.moved_to"
NAMES = "sentinel.names"
MATCH = "sentinel.match"
MOVE = "sentinel.move"

_ROW_FIELDS = ["id", "digest", "image", "text", "fields"]
_ID_LENGTH = 256
_TEXT_LENGTH = 65_535
_HEX_SHA256_LENGTH = 64
# Comparing two names takes time for each pair of characters, and this is done while others wait.
_MAX_COMPARED = 32
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


# Tables


def table_schema(info: CollectionInfo) -> Any:
    """Return the pymilvus schema of a new collection."""
    table = MilvusClient.create_schema(enable_dynamic_field=False)
    table.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_LENGTH)
    table.add_field("vector", vector_columns.milvus_type(info.storage), dim=info.dimensions)
    table.add_field("digest", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    table.add_field("image", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    table.add_field("text", DataType.VARCHAR, max_length=_TEXT_LENGTH)
    table.add_field("fields", DataType.JSON)
    for name, field_type in info.fields.items():
        for column in field_columns.columns_of(name, field_type):
            table.add_field(column.name, column.type, **column.parameters)
    if info.full_text:
        add_full_text_columns(table)
    return table


def add_full_text_columns(table: Any) -> None:
    """Add the two full-text columns to a pymilvus schema."""
    table.add_field(
        FULL_TEXT,
        DataType.VARCHAR,
        max_length=_TEXT_LENGTH,
        enable_analyzer=True,
        analyzer_params={"type": "standard"},
    )
    table.add_field(FULL_TEXT_WORDS, DataType.SPARSE_FLOAT_VECTOR)
    table.add_function(
        Function(
            name="full_text_bm25",
            function_type=FunctionType.BM25,
            input_field_names=[FULL_TEXT],
            output_field_names=[FULL_TEXT_WORDS],
        )
    )


def build_full_text_index(client: MilvusClient, name: str, timeout: float) -> None:
    """Have Milvus index the words of a new collection."""
    index = client.prepare_index_params()
    index.add_index(FULL_TEXT_WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_index(name, index, timeout=timeout, sync=False)


# Rows


def output_fields(include_vectors: bool) -> list[str]:
    """Return the columns that `from_entity` reads."""
    return [*_ROW_FIELDS, "vector"] if include_vectors else _ROW_FIELDS


def to_entity(row: Row, info: CollectionInfo) -> dict[str, Any]:
    """Convert a row to a Milvus entity."""
    entity: dict[str, Any] = {
        "id": row.id,
        "vector": None
        if row.vector is None
        else vector_columns.to_column(row.vector, info.storage),
        "digest": row.digest,
        "image": row.image,
        "text": row.reference if row.image else row.text,
        "fields": field_columns.to_json(row.fields),
    }
    for name, field_type in info.fields.items():
        for column in field_columns.columns_of(name, field_type):
            entity[column.name] = column.value(row.fields, name)
    if info.full_text:
        texts = [str(row.fields[name]) for name in info.full_text if name in row.fields]
        entity[FULL_TEXT] = "\n".join(texts)
    return entity


def from_entity(entity: Mapping[str, Any], info: CollectionInfo) -> Row:
    """Convert a Milvus entity to a row."""
    image, text, fields = entity["image"], entity["text"], entity["fields"]
    vector = entity.get("vector")
    return Row(
        entity["id"],
        entity["digest"],
        image,
        "" if image else text,
        field_columns.from_json(fields, info.fields) if fields else {},
        None if vector is None else vector_columns.from_column(vector, info.storage),
        text if image else "",
    )


# Checks of fields


def check_names(names: Iterable[str], fields: Mapping[str, FieldType], path: str) -> None:
    """Raise InvalidArgument if a name is not a declared field."""
    for name in names:
        type_of(name, fields, path)


def checked_fields(values: Fields, fields: Mapping[str, FieldType], path: str) -> Fields:
    """Return an item's fields as they are stored; raise InvalidArgument for a wrong one."""
    return {
        name: field_columns.checked_value(value, type_of(name, fields, where), name, where)
        for name, value in values.items()
        for where in (f"{path}[{name}]",)
    }


def type_of(name: str, fields: Mapping[str, FieldType], path: str) -> FieldType:
    """Return a field's type; raise InvalidArgument if the collection does not declare it."""
    if name not in fields:
        declared = ", ".join(sorted(fields)) or "none"
        close = _closest(name, tuple(fields))
        hint = f"did you mean {close!r}? It" if close else "it"
        raise InvalidArgument(
            "FIELD_UNKNOWN",
            f"the collection does not declare field {name[:200]!r}; {hint} declares: {declared}",
            field=path,
            name=name[:200],
        )
    return fields[name]


@lru_cache(maxsize=256)  # a batch may have the same mistake in each of its items
def _closest(name: str, declared: tuple[str, ...]) -> str:
    """Return the declared field that `name` is probably meant to be; empty if none is close."""
    if len(name) > _MAX_COMPARED:
        return ""
    return next(iter(difflib.get_close_matches(name, declared, n=1)), "")


# Expressions


def literal(value: str | int | float) -> str:
    """Return a value as a Milvus expression spells it."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return repr(value)


def literals(values: Iterable[str | int | float]) -> str:
    """Return a list of values as a Milvus expression spells it."""
    return f"[{', '.join(literal(value) for value in values)}]"


def both(expression: str, other: str) -> str:
    """Return what selects the rows that match both; an empty `expression` matches all."""
    return f"({expression}) and {other}" if expression else other


def with_ids(ids: Iterable[str]) -> str:
    """Return the expression that selects these ids."""
    return f"id in {literals(ids)}"


def excluding(expression: str, item_id: str) -> str:
    """Return `expression` without the item `item_id`."""
    other = f"id != {literal(item_id)}"
    return f"{expression} and {other}" if expression else other


def after_id(expression: str, last_id: str) -> str:
    """Return `expression`, limited to items whose id sorts after `last_id`."""
    after = f"id > {literal(last_id)}"
    return f"{after} and ({expression})" if expression else after


def up_to_id(last_id: str) -> str:
    """Return the expression for items whose id does not sort after `last_id`."""
    return f"id <= {literal(last_id)}"


def with_images(digests: Iterable[str]) -> str:
    """Return the expression that selects the items of these images."""
    return f"image in {literals(digests)}"


# Properties


def to_properties(info: CollectionInfo) -> dict[str, str]:
    """Return the properties that describe a collection."""
    collection = json.dumps(
        {
            "id": info.id,
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
            "element": str(info.storage.element),
            "rescore": info.storage.rescore,
            "shortened": info.shortened,
        }
    )
    return {
        COLLECTION: collection,
        ORIGIN: origin_property(info.origin),
        REINDEX: reindex_property(info.reindex),
    }


def from_properties(
    name: str, requested_name: str, properties: Mapping[str, str]
) -> CollectionInfo:
    """Return the description of the collection `name`, which was found by `requested_name`."""
    data = json.loads(properties[COLLECTION])
    origin, reindex, match = (
        json.loads(properties.get(key) or "null") for key in (ORIGIN, REINDEX, MATCH)
    )
    # One that was written just after its collection was replaced belongs to the old one.
    match = match if match and match["id"] == data.get("id", "") else {}
    levels, run = match.get("levels"), match.get("run")
    return CollectionInfo(
        name=name,
        model=ModelRef(data["model"], data["revision"], data["fingerprint"]),
        dimensions=data["dimensions"],
        fields={key: FieldType(value) for key, value in data["fields"].items()},
        # Old collections lack the properties that did not exist yet.
        indexed=tuple(data.get("indexed", ())),
        index=VectorIndex(
            IndexKind(data.get("index", IndexKind.AUTOINDEX)), data.get("index_params", {})
        ),
        expected_item_count=data.get("expected_item_count", 0),
        consistency=Consistency(data.get("consistency", Consistency.SESSION)),
        full_text=tuple(data.get("full_text", ())),
        id=data.get("id", ""),
        requested_name=requested_name,
        origin=Origin(origin["source"], OriginState(origin["state"])) if origin else None,
        reindex=ReindexMark(reindex["target"], reindex["runner"], reindex["mirrored"])
        if reindex
        else None,
        moved_to=properties.get(MOVED_TO, ""),
        storage=VectorStorage(
            Element(data.get("element", Element.FLOAT32)), data.get("rescore", False)
        ),
        shortened=data.get("shortened", False),
        match_levels=MatchLevels(**levels) if levels else None,
        match_run=MatchRun(**run) if run else None,
    )


def match_property(info: CollectionInfo) -> str:
    """Return the match levels of a collection, and who looks for them, as the property has them."""
    levels, run = info.match_levels, info.match_run
    return json.dumps(
        {"id": info.id, "levels": levels and asdict(levels), "run": run and asdict(run)}
    )


def origin_property(origin: Origin | None) -> str:
    """Return an origin as its property holds it."""
    return json.dumps(asdict(origin)) if origin is not None else ""


def reindex_property(mark: ReindexMark | None) -> str:
    """Return a reindex mark as its property holds it."""
    if mark is None:
        return ""
    # The stored key keeps its old name, `mirrored`.
    return json.dumps({"target": mark.target, "runner": mark.runner, "mirrored": mark.dual_write})
