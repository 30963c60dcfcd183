from google.rpc import status_pb2 as _status_pb2
from sentinel.common.v1 import content_pb2 as _content_pb2
from sentinel.search.v1 import filter_pb2 as _filter_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Item(_message.Message):
    __slots__ = ("id", "content", "vector", "fields", "image_uri", "thumbnail", "digest", "by_reference", "vector_from_model")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _filter_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_filter_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BY_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FROM_MODEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    content: _content_pb2.Content
    vector: _content_pb2.Vector
    fields: _containers.MessageMap[str, _filter_pb2.FieldValue]
    image_uri: str
    thumbnail: bytes
    digest: str
    by_reference: bool
    vector_from_model: bool
    def __init__(self, id: _Optional[str] = ..., content: _Optional[_Union[_content_pb2.Content, _Mapping]] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., fields: _Optional[_Mapping[str, _filter_pb2.FieldValue]] = ..., image_uri: _Optional[str] = ..., thumbnail: _Optional[bytes] = ..., digest: _Optional[str] = ..., by_reference: bool = ..., vector_from_model: bool = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("collection", "items")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, collection: _Optional[str] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ItemResult, _Mapping]]] = ...) -> None: ...

class ItemResult(_message.Message):
    __slots__ = ("id", "outcome", "error", "truncated")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ItemResult.Outcome]
        OUTCOME_STORED: _ClassVar[ItemResult.Outcome]
        OUTCOME_UNCHANGED: _ClassVar[ItemResult.Outcome]
        OUTCOME_FAILED: _ClassVar[ItemResult.Outcome]
    OUTCOME_UNSPECIFIED: ItemResult.Outcome
    OUTCOME_STORED: ItemResult.Outcome
    OUTCOME_UNCHANGED: ItemResult.Outcome
    OUTCOME_FAILED: ItemResult.Outcome
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    outcome: ItemResult.Outcome
    error: _status_pb2.Status
    truncated: bool
    def __init__(self, id: _Optional[str] = ..., outcome: _Optional[_Union[ItemResult.Outcome, str]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., truncated: bool = ...) -> None: ...

class IngestItemsRequest(_message.Message):
    __slots__ = ("start", "batch")
    START_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    start: IngestStart
    batch: IngestBatch
    def __init__(self, start: _Optional[_Union[IngestStart, _Mapping]] = ..., batch: _Optional[_Union[IngestBatch, _Mapping]] = ...) -> None: ...

class IngestStart(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class IngestBatch(_message.Message):
    __slots__ = ("sequence", "items")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, sequence: _Optional[int] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class IngestItemsResponse(_message.Message):
    __slots__ = ("ack", "advice", "summary")
    ACK_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ack: IngestAck
    advice: IngestAdvice
    summary: IngestSummary
    def __init__(self, ack: _Optional[_Union[IngestAck, _Mapping]] = ..., advice: _Optional[_Union[IngestAdvice, _Mapping]] = ..., summary: _Optional[_Union[IngestSummary, _Mapping]] = ...) -> None: ...

class IngestAck(_message.Message):
    __slots__ = ("sequence", "stored_count", "unchanged_count", "failures", "failure_places", "digests", "truncated_count")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_PLACES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_COUNT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    stored_count: int
    unchanged_count: int
    failures: _containers.RepeatedCompositeFieldContainer[ItemResult]
    failure_places: _containers.RepeatedScalarFieldContainer[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    truncated_count: int
    def __init__(self, sequence: _Optional[int] = ..., stored_count: _Optional[int] = ..., unchanged_count: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[ItemResult, _Mapping]]] = ..., failure_places: _Optional[_Iterable[int]] = ..., digests: _Optional[_Iterable[str]] = ..., truncated_count: _Optional[int] = ...) -> None: ...

class IngestAdvice(_message.Message):
    __slots__ = ("suggested_batch_size", "suggested_batches_in_flight", "draining")
    SUGGESTED_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_BATCHES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    suggested_batch_size: int
    suggested_batches_in_flight: int
    draining: bool
    def __init__(self, suggested_batch_size: _Optional[int] = ..., suggested_batches_in_flight: _Optional[int] = ..., draining: bool = ...) -> None: ...

class IngestSummary(_message.Message):
    __slots__ = ("stored_count", "unchanged_count", "failed_count")
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    stored_count: int
    unchanged_count: int
    failed_count: int
    def __init__(self, stored_count: _Optional[int] = ..., unchanged_count: _Optional[int] = ..., failed_count: _Optional[int] = ...) -> None: ...

class GetItemsRequest(_message.Message):
    __slots__ = ("collection", "ids", "output_fields", "include_vectors", "include_thumbnails")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    output_fields: _containers.RepeatedScalarFieldContainer[str]
    include_vectors: bool
    include_thumbnails: bool
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., output_fields: _Optional[_Iterable[str]] = ..., include_vectors: bool = ..., include_thumbnails: bool = ...) -> None: ...

class GetItemsResponse(_message.Message):
    __slots__ = ("items", "missing_ids", "unread_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    UNREAD_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    unread_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., missing_ids: _Optional[_Iterable[str]] = ..., unread_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ListItemsRequest(_message.Message):
    __slots__ = ("collection", "page_size", "page_token", "filter", "output_fields", "include_vectors", "include_thumbnails", "order")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    collection: str
    page_size: int
    page_token: str
    filter: _filter_pb2.Filter
    output_fields: _containers.RepeatedScalarFieldContainer[str]
    include_vectors: bool
    include_thumbnails: bool
    order: ItemOrder
    def __init__(self, collection: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., output_fields: _Optional[_Iterable[str]] = ..., include_vectors: bool = ..., include_thumbnails: bool = ..., order: _Optional[_Union[ItemOrder, _Mapping]] = ...) -> None: ...

class ItemOrder(_message.Message):
    __slots__ = ("field", "descending")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    field: str
    descending: bool
    def __init__(self, field: _Optional[str] = ..., descending: bool = ...) -> None: ...

class ListItemsResponse(_message.Message):
    __slots__ = ("items", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DownloadImageRequest(_message.Message):
    __slots__ = ("collection", "id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    id: str
    def __init__(self, collection: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DownloadImageResponse(_message.Message):
    __slots__ = ("data", "media_type", "total_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    media_type: str
    total_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., media_type: _Optional[str] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("collection", "ids", "filter", "dry_run", "confirmation_token")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: ItemIds
    filter: _filter_pb2.Filter
    dry_run: bool
    confirmation_token: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[ItemIds, _Mapping]] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., dry_run: bool = ..., confirmation_token: _Optional[str] = ...) -> None: ...

class ItemIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("deleted_count", "confirmation_token")
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    deleted_count: int
    confirmation_token: str
    def __init__(self, deleted_count: _Optional[int] = ..., confirmation_token: _Optional[str] = ...) -> None: ...
