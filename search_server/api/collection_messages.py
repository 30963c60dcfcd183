"""Convert collections and reindexes between messages and our types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_server.api import common_messages
from search_server.api.common_messages import (
    consistency_from,
    consistency_to,
    out_of_range,
    schema_from,
    schema_to,
)
from search_server.collections.reindex_copier import ReindexProgress
from search_server.collections.reindexer import ReindexRequest
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import CollectionInfo, IndexKind, NewCollection, VectorIndex
from sentinel_store.values import Consistency, FieldType

_INDEX_KINDS = {
    pb.VectorIndex.TYPE_FLAT: IndexKind.FLAT,
    pb.VectorIndex.TYPE_AUTOINDEX: IndexKind.AUTOINDEX,
    pb.VectorIndex.TYPE_HNSW: IndexKind.HNSW,
    pb.VectorIndex.TYPE_IVF_FLAT: IndexKind.IVF_FLAT,
    pb.VectorIndex.TYPE_IVF_SQ8: IndexKind.IVF_SQ8,
    pb.VectorIndex.TYPE_DISKANN: IndexKind.DISKANN,
}
_INDEX_KINDS_TO_WIRE = {ours: theirs for theirs, ours in _INDEX_KINDS.items()}


def new_collection_from(message: pb.Collection) -> NewCollection:
    """Convert the description of a new collection."""
    if message.metric not in (pb.Collection.METRIC_UNSPECIFIED, pb.Collection.METRIC_COSINE):
        raise out_of_range(f"there is no metric {message.metric}", "collection.metric")
    if message.expected_item_count < 0:
        raise out_of_range(
            f"expected_item_count is {message.expected_item_count}; use 0 where it is unknown",
            "collection.expected_item_count",
        )
    fields = schema_from(message.fields)
    return NewCollection(
        name=message.name,
        fields=fields,
        model=common_messages.model_from(message.model_version),
        indexed=_indexed_from(message.fields),
        full_text=_full_text_from(message.fields),
        index=_index_from(message.index),
        expected_item_count=message.expected_item_count,
        consistency=consistency_from(message.default_consistency, "collection.default_consistency")
        or Consistency.SESSION,
    )


def _indexed_from(schemas: Iterable[pb.FieldSchema]) -> tuple[str, ...]:
    for position, schema in enumerate(schemas):
        if schema.indexed and schema.type == pb.FieldSchema.TYPE_STRING_LIST:
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {schema.name[:200]!r} is a {FieldType.STRING_LIST}, which has no index",
                field=f"collection.fields[{position}].indexed",
                name=schema.name[:200],
            )
    return tuple(schema.name for schema in schemas if schema.indexed)


def _full_text_from(schemas: Iterable[pb.FieldSchema]) -> tuple[str, ...]:
    for position, schema in enumerate(schemas):
        if schema.full_text and schema.type != pb.FieldSchema.TYPE_STRING:
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {schema.name[:200]!r} has no full text: it is not a {FieldType.STRING}",
                field=f"collection.fields[{position}].full_text",
                name=schema.name[:200],
            )
    return tuple(schema.name for schema in schemas if schema.full_text)


def _index_from(message: pb.VectorIndex) -> VectorIndex | None:
    if message.type == pb.VectorIndex.TYPE_UNSPECIFIED:
        if message.params:
            raise out_of_range(
                "parameters need a type of index; set one", "collection.index.params"
            )
        return None
    if message.type not in _INDEX_KINDS:
        raise out_of_range(f"there is no type {message.type}", "collection.index.type")
    return VectorIndex(_INDEX_KINDS[message.type], dict(message.params))


def collection_to(info: CollectionInfo, item_count: int, aliases: Sequence[str]) -> pb.Collection:
    """Convert the description of a collection."""
    return pb.Collection(
        name=info.name,
        model_version=common_messages.model_to(info.model),
        dimensions=info.dimensions,
        metric=pb.Collection.METRIC_COSINE,
        fields=schema_to(info.fields, info.indexed, info.full_text),
        item_count=item_count,
        aliases=aliases,
        index=pb.VectorIndex(type=_INDEX_KINDS_TO_WIRE[info.index.kind], params=info.index.params),
        expected_item_count=info.expected_item_count,
        default_consistency=consistency_to(info.consistency),
    )


def reindex_request_from(message: pb.ReindexCollectionRequest) -> ReindexRequest:
    """Convert the request of a reindex."""
    return ReindexRequest(
        source=message.source,
        target=message.target,
        alias=message.alias,
        model=common_messages.model_from(message.model_version),
    )


def progress_to(progress: ReindexProgress, *, done: bool = False) -> pb.ReindexCollectionResponse:
    """Convert the progress of a reindex; its failures only once it is done."""
    return pb.ReindexCollectionResponse(
        done_count=progress.done,
        total_count=progress.total,
        failed_count=progress.failed,
        failures=[
            pb.ReindexFailure(id=item_id, message=why)
            for item_id, why in (progress.failures if done else ())
        ],
        alias_swapped=progress.alias_swapped,
        done=done,
    )
