"""Between our types and the contract's messages; the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _errors
from sentinel_client._filters import Comparison, FieldValue, Filter, Group
from sentinel_client._query import Box
from sentinel_client._types import (
    Collection,
    CollectionOptions,
    Consistency,
    FieldSchema,
    FieldType,
    ImageUri,
    IndexType,
    Item,
    ItemResult,
    ModelVersion,
    Outcome,
    ReindexProgress,
    Vector,
    VectorIndex,
)

# A picture as it travels: its bytes, or where the gateway fetches them.
LoadedImage: TypeAlias = bytes | ImageUri

_FLOAT32_LE = np.dtype("<f4")
# The servers' limit. Looked at here, too: a message of 100 levels cannot even be written.
_MAX_FILTER_DEPTH = 32


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


def filter_to_proto(condition: Filter, depth: int = 1) -> filter_pb2.Filter:
    """Return the message of a filter that is `depth` levels deep in another.

    Raises:
        InvalidArgument: It nests too deep.
        TypeError: It is none, or compares with a value that no field has.
    """
    if depth > _MAX_FILTER_DEPTH:
        raise _errors.InvalidArgument(
            "FILTER_INVALID",
            f"filters nest at most {_MAX_FILTER_DEPTH} deep; join alternatives with isin(), or "
            "search several times",
            field="filter",
        )
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
                filters=[filter_to_proto(part, depth + 1) for part in condition.filters]
            )
        }
        return filter_pb2.Filter(**group)
    raise TypeError(f"{condition!r} is not a filter; make one with F")


def content_to_proto(
    text: str | None, image: LoadedImage | None, crop: Box | None = None
) -> content_pb2.Content | None:
    """Return the text or the picture as a message; None for neither."""
    if text is not None:
        return content_pb2.Content(text=text)
    if image is None:
        return None
    message = content_pb2.Image()
    if isinstance(image, ImageUri):
        message.uri = image.uri
    else:
        message.data = image
    if crop is not None:
        message.crop.left, message.crop.top, message.crop.right, message.crop.bottom = crop
    return content_pb2.Content(image=message)


def model_from_proto(message: content_pb2.ModelVersion) -> ModelVersion:
    """Return the model."""
    return ModelVersion(message.model, message.revision, message.fingerprint)


def item_to_proto(item: Item, image: LoadedImage | None) -> item_pb.Item:
    """Return the item's message; `image` is what its image source holds.

    Raises:
        TypeError: It has both a text and an image, or a field of an unknown type.
    """
    if item.text is not None and image is not None:
        raise TypeError("an item is a text or an image, not both")
    return item_pb.Item(
        id=item.id,
        content=content_to_proto(item.text, image),
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
    return collection_pb.FieldSchema(
        name=schema.name,
        type=f"TYPE_{schema.type.name}",
        indexed=schema.indexed,
        full_text=schema.full_text,
    )


def model_to_proto(model: ModelVersion) -> content_pb2.ModelVersion:
    """Return the model's message."""
    return content_pb2.ModelVersion(
        model=model.model, revision=model.revision, fingerprint=model.fingerprint
    )


def consistency_to_proto(consistency: Consistency | None) -> str:
    """Return the contract's name; None is "the default"."""
    return f"CONSISTENCY_{'UNSPECIFIED' if consistency is None else consistency.name}"


def collection_to_proto(
    name: str, fields: Iterable[FieldSchema], options: CollectionOptions
) -> collection_pb.Collection:
    """Return the message of a collection to make.

    Raises:
        TypeError: An option is none of `CollectionOptions`.
    """
    unknown = set(options) - set(CollectionOptions.__annotations__)
    if unknown:
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    model, index = options.get("model"), options.get("index")
    return collection_pb.Collection(
        name=name,
        fields=map(field_schema_to_proto, fields),
        model_version=None if model is None else model_to_proto(model),
        index=None if index is None else _index_to_proto(index),
        expected_item_count=options.get("expected_item_count", 0),
        default_consistency=consistency_to_proto(options.get("default_consistency")),
    )


def _index_to_proto(index: VectorIndex) -> collection_pb.VectorIndex:
    name = "UNSPECIFIED" if index.type is None else index.type.name
    return collection_pb.VectorIndex(type=f"TYPE_{name}", params=index.params)


def collection_from_proto(message: collection_pb.Collection) -> Collection:
    """Return the collection; what is of a kind this client does not know is left out."""
    types = {collection_pb.FieldSchema.Type.Value(f"TYPE_{kind.name}"): kind for kind in FieldType}
    indexes = {
        collection_pb.VectorIndex.Type.Value(f"TYPE_{kind.name}"): kind for kind in IndexType
    }
    levels = {
        search_pb.Consistency.Value(consistency_to_proto(level)): level for level in Consistency
    }
    return Collection(
        name=message.name,
        model=model_from_proto(message.model_version),
        dimensions=message.dimensions,
        item_count=message.item_count,
        fields=tuple(
            FieldSchema(schema.name, types[schema.type], schema.indexed, schema.full_text)
            for schema in message.fields
            if schema.type in types
        ),
        aliases=tuple(message.aliases),
        index=VectorIndex(indexes.get(message.index.type), dict(message.index.params)),
        default_consistency=levels.get(message.default_consistency),
        expected_item_count=message.expected_item_count,
    )


def reindex_progress_from_proto(
    message: collection_pb.ReindexCollectionResponse,
) -> ReindexProgress:
    """Return one report."""
    return ReindexProgress(
        done_count=message.done_count,
        total_count=message.total_count,
        failed_count=message.failed_count,
        failures={failure.id: failure.message for failure in message.failures},
        alias_swapped=message.alias_swapped,
        done=message.done,
    )
