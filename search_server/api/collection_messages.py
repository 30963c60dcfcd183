"""Convert collections and reindexes between messages and our types."""

from __future__ import annotations

from collections.abc import Sequence

from search_server.api import common_messages
from search_server.api.common_messages import (
    CONSISTENCIES_TO_WIRE,
    enum_table,
    is_listed,
    out_of_range,
    shown_name,
    stored_name,
)
from search_server.collections.reindex_copier import ReindexProgress
from search_server.collections.reindexer import ReindexRequest
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel_core.errors import InvalidArgument
from sentinel_core.vectors import Element
from sentinel_store.collections import (
    MAX_FIELDS,
    CollectionInfo,
    IndexKind,
    MatchLevels,
    NewCollection,
    NewFields,
    VectorIndex,
    VectorStorage,
)
from sentinel_store.values import Consistency, FieldType

_INDEX_KINDS = enum_table(pb.VectorIndex.Type, "TYPE", IndexKind)
_INDEX_KINDS_TO_WIRE = {ours: theirs for theirs, ours in _INDEX_KINDS.items()}
_FIELD_TYPES = enum_table(pb.FieldSchema.Type, "TYPE", FieldType)
_FIELD_TYPES_TO_WIRE = {ours: theirs for theirs, ours in _FIELD_TYPES.items()}
_ELEMENTS = enum_table(content_pb2.ElementType, "ELEMENT_TYPE", Element)
_ELEMENTS_TO_WIRE = {ours: theirs for theirs, ours in _ELEMENTS.items()}


def new_collection_from(message: pb.Collection) -> NewCollection:
    """Convert the description of a new collection."""
    if message.metric not in (pb.Collection.METRIC_UNSPECIFIED, pb.Collection.METRIC_COSINE):
        raise out_of_range(f"there is no metric {message.metric}", "collection.metric")
    if message.expected_item_count < 0:
        raise out_of_range(
            f"expected_item_count is {message.expected_item_count}; use 0 where it is unknown",
            "collection.expected_item_count",
        )
    declared = _fields_from(message.fields, "collection.fields")
    return NewCollection(
        name=stored_name(message.name, "collection.name"),
        fields=declared.types,
        model=common_messages.model_from(message.model_version),
        indexed=declared.indexed,
        full_text=declared.full_text,
        index=_index_from(message.index),
        expected_item_count=message.expected_item_count,
        consistency=common_messages.consistency_from(
            message.default_consistency, "collection.default_consistency"
        )
        or Consistency.SESSION,
        dimensions=message.dimensions,
        storage=_storage_from(message.storage, "collection.storage"),
    )


def _fields_from(schemas: Sequence[pb.FieldSchema], path: str) -> NewFields:
    """Read declared fields, which are at `path`, and check what is declared about them."""
    fields: dict[str, FieldType] = {}
    if len(schemas) > MAX_FIELDS:  # before they are converted
        raise out_of_range(f"a collection has at most {MAX_FIELDS} fields", path)
    for position, schema in enumerate(schemas):
        where = f"{path}[{position}]"
        name = schema.name[:200]
        if schema.type not in _FIELD_TYPES:
            raise out_of_range(f"field {name!r} needs a type", where)
        if schema.name in fields:
            raise out_of_range(f"field {name!r} is declared twice", where)
        fields[schema.name] = field_type = _FIELD_TYPES[schema.type]
        if schema.indexed and field_type in (FieldType.STRING_LIST, FieldType.GEO):
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {name!r} is a {field_type}, which has no index",
                field=f"{where}.indexed",
                name=name,
            )
        if schema.full_text and field_type is not FieldType.STRING:
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {name!r} has no full text: it is not a {FieldType.STRING}",
                field=f"{where}.full_text",
                name=name,
            )
    return NewFields(
        fields,
        tuple(schema.name for schema in schemas if schema.indexed),
        tuple(schema.name for schema in schemas if schema.full_text),
    )


def _index_from(message: pb.VectorIndex) -> VectorIndex | None:
    if message.type == pb.VectorIndex.TYPE_UNSPECIFIED:
        if message.params:
            raise out_of_range(
                "parameters need a type of index; set one", "collection.index.params"
            )
        return None
    if message.type not in _INDEX_KINDS:
        raise out_of_range(f"there is no type {message.type}", "collection.index.type")
    params = common_messages.index_params_from(message.params, "collection.index.params")
    return VectorIndex(_INDEX_KINDS[message.type], params)


def _storage_from(message: pb.VectorStorage, path: str) -> VectorStorage:
    element = _ELEMENTS.get(message.element_type, Element.FLOAT32)
    is_known = message.element_type in (content_pb2.ELEMENT_TYPE_UNSPECIFIED, *_ELEMENTS)
    if not is_known or element is Element.BINARY:
        raise out_of_range(
            f"vectors are not stored as element type {message.element_type}; use float32, float16, "
            "bfloat16 or int8",
            f"{path}.element_type",
        )
    if message.rescore and element is not Element.INT8:
        raise out_of_range(
            f"only int8 is rescored, not {element}: it finds the same hits without",
            f"{path}.rescore",
        )
    return VectorStorage(element, message.rescore)


def _storage_to(storage: VectorStorage) -> pb.VectorStorage:
    return pb.VectorStorage(
        element_type=_ELEMENTS_TO_WIRE[storage.element], rescore=storage.rescore
    )


def collection_to(
    info: CollectionInfo, item_count: int, aliases: Sequence[str], levels: MatchLevels | None
) -> pb.Collection:
    """Convert the description of a collection, and what scores mean in it."""
    message = pb.Collection(
        name=shown_name(info.name),
        dimensions=info.dimensions,
        metric=pb.Collection.METRIC_COSINE,
        fields=[
            pb.FieldSchema(
                name=name,
                type=_FIELD_TYPES_TO_WIRE[field_type],
                indexed=name in info.indexed,
                full_text=name in info.full_text,
            )
            for name, field_type in info.fields.items()
        ],
        item_count=item_count,
        aliases=[shown_name(alias) for alias in aliases if is_listed(alias)],
        index=pb.VectorIndex(type=_INDEX_KINDS_TO_WIRE[info.index.kind], params=info.index.params),
        expected_item_count=info.expected_item_count,
        default_consistency=CONSISTENCIES_TO_WIRE[info.consistency],
        storage=_storage_to(info.storage),
        match_levels=None
        if levels is None
        else pb.MatchLevels(fair=levels.fair, strong=levels.strong, item_count=levels.item_count),
    )
    common_messages.set_model(message.model_version, info.model)
    return message


def reindex_request_from(message: pb.ReindexCollectionRequest) -> ReindexRequest:
    """Convert the request of a reindex."""
    return ReindexRequest(
        source=stored_name(message.source, "source"),
        target=stored_name(message.target, "target"),
        alias=stored_name(message.alias, "alias") if message.alias else "",
        model=common_messages.model_from(message.model_version),
        dimensions=message.dimensions,
        storage=_storage_from(message.storage, "storage") if message.HasField("storage") else None,
        added=_fields_from(message.added_fields, "added_fields"),
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
