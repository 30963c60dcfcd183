"""Between our types and the contract's messages; the only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _errors
from sentinel_client._filters import Comparison, FieldValue, Filter, Group
from sentinel_client._types import (
    Collection,
    FieldSchema,
    FieldType,
    Hit,
    Item,
    ItemResult,
    ModelVersion,
    Outcome,
    SearchTimings,
    Vector,
)

_FLOAT32_LE = np.dtype("<f4")


def vector_to_proto(vector: npt.ArrayLike) -> content_pb2.Vector:
    """Return `vector`, one-dimensional, as little-endian float32.

    Raises:
        ValueError: It has not exactly one dimension.
    """
    array = np.ascontiguousarray(vector, dtype=_FLOAT32_LE)
    if np.ndim(vector) != 1:
        raise ValueError(f"a vector has one dimension, not shape {np.shape(vector)}")
    return content_pb2.Vector(
        data=array.tobytes(),
        element_type=content_pb2.ELEMENT_TYPE_FLOAT32,
        dimensions=array.shape[0],
    )


def vector_from_proto(message: content_pb2.Vector) -> Vector:
    """Return a float32 array `[dimensions]` of its own memory.

    Raises:
        Internal: The server sent bytes that are not the vector it announces.
    """
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if (
        message.element_type not in known
        or len(message.data) != message.dimensions * _FLOAT32_LE.itemsize
    ):
        raise _errors.Internal("VECTOR_INVALID", "the server sent a vector that cannot be read")
    return np.frombuffer(message.data, dtype=_FLOAT32_LE).astype(np.float32)


def field_value(value: object) -> filter_pb2.FieldValue:
    """Return one typed value.

    Raises:
        TypeError: It is of a type that no field has.
    """
    if isinstance(value, np.generic):
        value = value.item()
    # bool before int: in Python, True is an int.
    if isinstance(value, bool):
        return filter_pb2.FieldValue(bool_value=value)
    if isinstance(value, int):
        return filter_pb2.FieldValue(int_value=value)
    if isinstance(value, float):
        return filter_pb2.FieldValue(double_value=value)
    if isinstance(value, str):
        return filter_pb2.FieldValue(string_value=value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return filter_pb2.FieldValue(list_value=filter_pb2.StringList(values=value))
    raise TypeError(f"a field is a str, int, float, bool or list of str, not {value!r}")


def fields_from_proto(fields: Mapping[str, filter_pb2.FieldValue]) -> dict[str, FieldValue]:
    """Return the fields as Python values, by name; a kind we do not know is left out."""
    values: dict[str, FieldValue] = {}
    for name in sorted(fields):
        kind = fields[name].WhichOneof("kind")
        if kind == "list_value":
            values[name] = list(fields[name].list_value.values)
        elif kind is not None:
            values[name] = getattr(fields[name], kind)
    return values


def filter_to_proto(condition: Filter) -> filter_pb2.Filter:
    """Return the filter's message."""
    if isinstance(condition, Comparison):
        return filter_pb2.Filter(
            comparison=filter_pb2.Comparison(
                field=condition.field,
                operator=f"OPERATOR_{condition.operator.value}",
                values=[field_value(value) for value in condition.values],
            )
        )
    if isinstance(condition, Group):
        group: dict[str, Any] = {
            condition.kind: filter_pb2.Filters(
                filters=[filter_to_proto(part) for part in condition.filters]
            )
        }
        return filter_pb2.Filter(**group)
    raise TypeError(f"{condition!r} is not a filter; make one with F")


def search_params(
    *,
    collection: str,
    text: str | None,
    image: bytes | None = None,
    vector: npt.ArrayLike | None = None,
    item_id: str | None = None,
    filter: Filter | None = None,
    output_fields: Sequence[str] = (),
    min_score: float | None = None,
    include_thumbnails: bool = False,
    include_vectors: bool = False,
) -> search_pb.SearchParams:
    """Return the part of a search that all its kinds share.

    Raises:
        TypeError: Not exactly one of text, image, vector and item_id is given.
    """
    given = [kind for kind in (text, image, vector, item_id) if kind is not None]
    if len(given) != 1:
        raise TypeError("give exactly one of text, image, vector and item_id")
    if isinstance(output_fields, str):
        raise TypeError("output_fields is a list of names, not one string")
    if vector is not None:
        query = search_pb.Query(vector=vector_to_proto(vector))
    elif item_id is not None:
        query = search_pb.Query(item_id=item_id)
    else:
        query = search_pb.Query(content=_content(text, image))
    return search_pb.SearchParams(
        collection=collection,
        query=query,
        filter=None if filter is None else filter_to_proto(filter),
        output_fields=output_fields,
        include_vectors=include_vectors,
        include_thumbnails=include_thumbnails,
        min_score=min_score,
    )


def _content(text: str | None, image: bytes | None) -> content_pb2.Content | None:
    if text is not None:
        return content_pb2.Content(text=text)
    if image is not None:
        return content_pb2.Content(image=content_pb2.Image(data=image))
    return None


def hit_from_proto(message: search_pb.Hit) -> Hit:
    """Return one hit."""
    return Hit(
        id=message.id,
        rank=message.rank,
        score=message.score,
        fields=fields_from_proto(message.fields),
        image_uri=message.image_uri,
        text=message.text,
        thumbnail=message.thumbnail,
        vector=vector_from_proto(message.vector) if message.HasField("vector") else None,
    )


def timings_from_proto(message: search_pb.SearchSummary) -> SearchTimings:
    """Return the summary's durations in seconds."""

    def seconds(name: str) -> float | None:
        if not message.HasField(name):
            return None
        duration: Any = getattr(message, name)
        return float(duration.ToNanoseconds()) / 1e9

    return SearchTimings(
        total=seconds("total") or 0.0,
        embed=seconds("embed"),
        embed_queue=seconds("embed_queue"),
        embed_inference=seconds("embed_inference"),
        vector_search=seconds("vector_search"),
    )


def model_from_proto(message: content_pb2.ModelVersion) -> ModelVersion:
    """Return the model."""
    return ModelVersion(message.model, message.revision, message.fingerprint)


def item_to_proto(item: Item, image: bytes | None) -> item_pb.Item:
    """Return the item's message; `image` is what its image source holds.

    Raises:
        TypeError: It has both a text and an image, or a field of an unknown type.
    """
    if item.text is not None and image is not None:
        raise TypeError("an item is a text or an image, not both")
    return item_pb.Item(
        id=item.id,
        content=_content(item.text, image),
        vector=None if item.vector is None else vector_to_proto(item.vector),
        fields={name: field_value(value) for name, value in item.fields.items()},
    )


def item_from_proto(message: item_pb.Item) -> Item:
    """Return a stored item; its image bytes stay on the server."""
    return Item(
        id=message.id,
        text=message.content.text if message.content.WhichOneof("kind") == "text" else None,
        vector=vector_from_proto(message.vector) if message.HasField("vector") else None,
        fields=fields_from_proto(message.fields),
        image_uri=message.image_uri,
        thumbnail=message.thumbnail,
    )


_OUTCOMES = {
    item_pb.ItemResult.OUTCOME_STORED: Outcome.STORED,
    item_pb.ItemResult.OUTCOME_UNCHANGED: Outcome.UNCHANGED,
}


def item_result_from_proto(message: item_pb.ItemResult) -> ItemResult:
    """Return the outcome; one that this client does not know counts as a failure."""
    outcome = _OUTCOMES.get(message.outcome, Outcome.FAILED)
    error = _errors.from_status(message.error) if outcome is Outcome.FAILED else None
    return ItemResult(message.id, outcome, error)


def field_schema_to_proto(schema: FieldSchema) -> collection_pb.FieldSchema:
    """Return the declaration's message."""
    return collection_pb.FieldSchema(name=schema.name, type=f"TYPE_{schema.type.name}")


def collection_from_proto(message: collection_pb.Collection) -> Collection:
    """Return the collection; a field of a type this client does not know is left out."""
    types = {collection_pb.FieldSchema.Type.Value(f"TYPE_{kind.name}"): kind for kind in FieldType}
    return Collection(
        name=message.name,
        model=model_from_proto(message.model_version),
        dimensions=message.dimensions,
        item_count=message.item_count,
        fields=tuple(
            FieldSchema(schema.name, types[schema.type])
            for schema in message.fields
            if schema.type in types
        ),
    )
