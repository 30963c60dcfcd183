"""Convert between the client's types and the contract's messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _errors, _search_types, _types
from sentinel_client._field_messages import field_value, fields_from_proto, filter_to_proto
from sentinel_client._filters import Filter
from sentinel_client._query import Box, Term

# An image as it is sent: its bytes, or the URI that the gateway fetches.
LoadedImage: TypeAlias = bytes | _types.ImageUri

_FLOAT32_LE = np.dtype("<f4")

_FIELD_TYPES = {
    collection_pb.FieldSchema.Type.Value(f"TYPE_{one.name}"): one for one in _types.FieldType
}
_INDEX_TYPES = {
    collection_pb.VectorIndex.Type.Value(f"TYPE_{one.name}"): one for one in _types.IndexType
}
_ELEMENT_TYPES = {
    content_pb2.ElementType.Value(f"ELEMENT_TYPE_{one.name}"): one for one in _types.ElementType
}
_CONSISTENCIES = {
    search_pb.Consistency.Value(f"CONSISTENCY_{one.name}"): one for one in _types.Consistency
}
_OUTCOMES = {
    item_pb.ItemResult.OUTCOME_STORED: _types.Outcome.STORED,
    item_pb.ItemResult.OUTCOME_UNCHANGED: _types.Outcome.UNCHANGED,
}


def vector_to_proto(vector: npt.ArrayLike) -> content_pb2.Vector:
    array = np.ascontiguousarray(vector, dtype=_FLOAT32_LE)
    if np.ndim(vector) != 1:
        raise ValueError(f"a vector has one dimension, not shape {np.shape(vector)}")
    return content_pb2.Vector(
        data=array.tobytes(),
        element_type=content_pb2.ELEMENT_TYPE_FLOAT32,
        dimensions=array.shape[0],
    )


def vector_from_proto(message: content_pb2.Vector) -> _types.Vector:
    """Convert to a float32 array `[dimensions]` that owns its memory."""
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if (
        message.element_type not in known
        or len(message.data) != message.dimensions * _FLOAT32_LE.itemsize
    ):
        raise _errors.Internal("VECTOR_INVALID", "the server sent a vector that cannot be read")
    return np.frombuffer(message.data, dtype=_FLOAT32_LE).astype(np.float32)


def content_to_proto(
    text: str | None, image: LoadedImage | None, crop: Box | None = None
) -> content_pb2.Content | None:
    if image is None:
        return None if text is None else content_pb2.Content(text=text)
    message = content_pb2.Image(text=text or "")
    if isinstance(image, _types.ImageUri):
        message.uri = image.uri
    else:
        message.data = image
    if crop is not None:
        message.crop.left, message.crop.top, message.crop.right, message.crop.bottom = crop
    return content_pb2.Content(image=message)


def named_content_to_proto(
    text: str | None, image: LoadedImage | None, crop: Box | None
) -> content_pb2.Content:
    """Convert a text or an image; raise InvalidArgument if no message can hold it."""
    with _named("content", "NOT_UNICODE"):
        content = content_to_proto(text, image, crop)
    return content or content_pb2.Content()


def item_to_proto(item: _types.Item, image: LoadedImage | None) -> item_pb.Item:
    """Convert an item; `image` is the loaded image source.

    Raises:
        InvalidArgument: No message can hold a value of the item.
    """
    if item.text is not None and image is not None:
        raise TypeError("an item is a text or an image, not both")
    message = item_pb.Item()
    with _named("id", "NAME_INVALID"):
        message.id = item.id
    with _named("content", "NOT_UNICODE"):
        content = content_to_proto(item.text, image)
        if content is not None:
            message.content.CopyFrom(content)
    if item.vector is not None:
        with _named("vector", "VECTOR_INVALID"):
            message.vector.CopyFrom(vector_to_proto(item.vector))
    for name, value in item.fields.items():
        with _named(f"fields[{name}]", "FIELD_TYPE"):
            message.fields[name].CopyFrom(_item_field(value))
    if item.by_reference:
        message.by_reference = True
        message.digest = item.digest
    return message


def _item_field(value: object) -> filter_pb2.FieldValue:
    """Convert a value out of the caller's data, where another type is no fault of the program."""
    try:
        return field_value(value)
    except TypeError as error:
        raise ValueError(error) from None


@contextmanager
def _named(path: str, reason: str) -> Iterator[None]:
    """Convert an error of protobuf or numpy, which names no field, to InvalidArgument."""
    try:
        yield
    except UnicodeEncodeError as error:
        path = path.encode(errors="backslashreplace").decode()
        cause = f"half of a character ({error.object[error.start]!a})"
        raise _errors.InvalidArgument(
            reason, f"{path} is not valid Unicode: it has {cause}", field=path
        ) from None
    except (ValueError, OverflowError) as error:
        raise _errors.InvalidArgument(reason, f"{path}: {error}", field=path) from None


def item_from_proto(message: item_pb.Item) -> _types.Item:
    """Convert a stored item; the server does not send its image bytes."""
    return _types.Item(
        id=message.id,
        text=message.content.text if message.content.WhichOneof("kind") == "text" else None,
        vector=vector_from_proto(message.vector) if message.HasField("vector") else None,
        fields=fields_from_proto(message.fields),
        image_uri=message.image_uri,
        thumbnail=message.thumbnail,
        digest=message.digest,
        by_reference=message.by_reference,
    )


def item_result_from_proto(message: item_pb.ItemResult) -> _types.ItemResult:
    """Convert the result of an upsert; an unknown outcome counts as a failure."""
    outcome = _OUTCOMES.get(message.outcome, _types.Outcome.FAILED)
    error = _errors.from_status(message.error) if outcome is _types.Outcome.FAILED else None
    return _types.ItemResult(message.id, outcome, error, message.truncated)


def model_to_proto(model: _types.ModelVersion | None) -> content_pb2.ModelVersion | None:
    return None if model is None else content_pb2.ModelVersion(**asdict(model))


def model_from_proto(message: content_pb2.ModelVersion) -> _types.ModelVersion:
    return _types.ModelVersion(message.model, message.revision, message.fingerprint)


def field_schema_to_proto(schema: _types.FieldSchema) -> collection_pb.FieldSchema:
    return collection_pb.FieldSchema(
        name=schema.name,
        type=f"TYPE_{schema.type.name}",
        indexed=schema.indexed,
        full_text=schema.full_text,
    )


def consistency_to_proto(consistency: _types.Consistency | None) -> str:
    return f"CONSISTENCY_{'UNSPECIFIED' if consistency is None else consistency.name}"


def collection_to_proto(
    name: str, fields: Iterable[_types.FieldSchema], options: _types.CollectionOptions
) -> collection_pb.Collection:
    index = options.get("index")
    return collection_pb.Collection(
        name=name,
        fields=map(field_schema_to_proto, fields),
        model_version=model_to_proto(options.get("model")),
        index=None if index is None else _index_to_proto(index),
        expected_item_count=options.get("expected_item_count", 0),
        default_consistency=consistency_to_proto(options.get("default_consistency")),
        dimensions=options.get("dimensions", 0),
        storage=storage_to_proto(options.get("storage")),
    )


def storage_to_proto(storage: _types.VectorStorage | None) -> collection_pb.VectorStorage | None:
    if storage is None:
        return None
    return collection_pb.VectorStorage(
        element_type=f"ELEMENT_TYPE_{storage.element_type.name}", rescore=storage.rescore
    )


def _storage_from_proto(message: collection_pb.VectorStorage) -> _types.VectorStorage:
    """Convert a storage; an older gateway has float32 only and does not say it."""
    element_type = _ELEMENT_TYPES.get(message.element_type, _types.ElementType.FLOAT32)
    return _types.VectorStorage(element_type, message.rescore)


def _index_to_proto(index: _types.VectorIndex) -> collection_pb.VectorIndex:
    name = "UNSPECIFIED" if index.type is None else index.type.name
    return collection_pb.VectorIndex(type=f"TYPE_{name}", params=index.params)


def collection_from_proto(message: collection_pb.Collection) -> _types.Collection:
    """Convert a collection; leave out field types that this client does not know."""
    return _types.Collection(
        name=message.name,
        model=model_from_proto(message.model_version),
        dimensions=message.dimensions,
        item_count=message.item_count,
        fields=tuple(
            _types.FieldSchema(
                schema.name, _FIELD_TYPES[schema.type], schema.indexed, schema.full_text
            )
            for schema in message.fields
            if schema.type in _FIELD_TYPES
        ),
        aliases=tuple(message.aliases),
        index=_types.VectorIndex(_INDEX_TYPES.get(message.index.type), dict(message.index.params)),
        default_consistency=_CONSISTENCIES.get(message.default_consistency),
        expected_item_count=message.expected_item_count,
        storage=_storage_from_proto(message.storage),
        match_levels=_match_levels_from_proto(message),
    )


def _match_levels_from_proto(message: collection_pb.Collection) -> _types.MatchLevels | None:
    if not message.HasField("match_levels"):
        return None
    levels = message.match_levels
    return _types.MatchLevels(levels.fair, levels.strong, levels.item_count)


def reindex_progress_from_proto(
    message: collection_pb.ReindexCollectionResponse,
) -> _types.ReindexProgress:
    return _types.ReindexProgress(
        done_count=message.done_count,
        total_count=message.total_count,
        failed_count=message.failed_count,
        failures={failure.id: failure.message for failure in message.failures},
        alias_swapped=message.alias_swapped,
        done=message.done,
    )


def query_to_proto(terms: Sequence[tuple[Term, LoadedImage | None]]) -> search_pb.Query:
    """Convert the terms of a query, each with its loaded image."""
    if len(terms) == 1 and terms[0][0].weight == 1:
        return search_pb.Query(**_term_fields(*terms[0]))
    return search_pb.Query(
        composite=search_pb.CompositeQuery(
            terms=[
                search_pb.WeightedTerm(weight=term.weight, **_term_fields(term, image))
                for term, image in terms
            ]
        )
    )


def _term_fields(term: Term, image: LoadedImage | None) -> dict[str, Any]:
    if term.vector is not None:
        return {"vector": vector_to_proto(term.vector)}
    if term.item_id is not None:
        return {"item_id": term.item_id}
    return {"content": content_to_proto(term.text, image, term.crop)}


def search_params(
    collection: str,
    query: search_pb.Query,
    *,
    filter: Filter | None = None,
    output_fields: Sequence[str] = (),
    min_score: float | None = None,
    include_thumbnails: bool = False,
    include_vectors: bool = False,
    consistency: _types.Consistency | None = None,
    hybrid: _search_types.Hybrid | None = None,
    diversity: _search_types.Diversity | None = None,
    group_by: _search_types.GroupBy | None = None,
    index_params: Mapping[str, int] | None = None,
) -> search_pb.SearchParams:
    if isinstance(output_fields, str):
        raise TypeError("output_fields is a list of names, not one string")
    return search_pb.SearchParams(
        collection=collection,
        query=query,
        filter=None if filter is None else filter_to_proto(filter),
        output_fields=output_fields,
        include_vectors=include_vectors,
        include_thumbnails=include_thumbnails,
        min_score=min_score,
        consistency=consistency_to_proto(consistency),
        # These three have the same fields on both sides.
        hybrid=None if hybrid is None else search_pb.HybridParams(**asdict(hybrid)),
        diversity=None if diversity is None else search_pb.DiversityParams(**asdict(diversity)),
        group=None if group_by is None else search_pb.GroupParams(**asdict(group_by)),
        index_params=index_params,
    )
