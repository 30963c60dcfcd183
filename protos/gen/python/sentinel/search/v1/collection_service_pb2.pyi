from sentinel.common.v1 import content_pb2 as _content_pb2
from sentinel.search.v1 import search_service_pb2 as _search_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Collection(_message.Message):
    __slots__ = ("name", "model_version", "dimensions", "metric", "fields", "default_consistency", "item_count", "aliases", "index", "expected_item_count", "storage", "match_levels")
    class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        METRIC_UNSPECIFIED: _ClassVar[Collection.Metric]
        METRIC_COSINE: _ClassVar[Collection.Metric]
    METRIC_UNSPECIFIED: Collection.Metric
    METRIC_COSINE: Collection.Metric
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    MATCH_LEVELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_version: _content_pb2.ModelVersion
    dimensions: int
    metric: Collection.Metric
    fields: _containers.RepeatedCompositeFieldContainer[FieldSchema]
    default_consistency: _search_service_pb2.Consistency
    item_count: int
    aliases: _containers.RepeatedScalarFieldContainer[str]
    index: VectorIndex
    expected_item_count: int
    storage: VectorStorage
    match_levels: MatchLevels
    def __init__(self, name: _Optional[str] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., dimensions: _Optional[int] = ..., metric: _Optional[_Union[Collection.Metric, str]] = ..., fields: _Optional[_Iterable[_Union[FieldSchema, _Mapping]]] = ..., default_consistency: _Optional[_Union[_search_service_pb2.Consistency, str]] = ..., item_count: _Optional[int] = ..., aliases: _Optional[_Iterable[str]] = ..., index: _Optional[_Union[VectorIndex, _Mapping]] = ..., expected_item_count: _Optional[int] = ..., storage: _Optional[_Union[VectorStorage, _Mapping]] = ..., match_levels: _Optional[_Union[MatchLevels, _Mapping]] = ...) -> None: ...

class MatchLevels(_message.Message):
    __slots__ = ("fair", "strong", "item_count")
    FAIR_FIELD_NUMBER: _ClassVar[int]
    STRONG_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    fair: float
    strong: float
    item_count: int
    def __init__(self, fair: _Optional[float] = ..., strong: _Optional[float] = ..., item_count: _Optional[int] = ...) -> None: ...

class VectorStorage(_message.Message):
    __slots__ = ("element_type", "rescore")
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESCORE_FIELD_NUMBER: _ClassVar[int]
    element_type: _content_pb2.ElementType
    rescore: bool
    def __init__(self, element_type: _Optional[_Union[_content_pb2.ElementType, str]] = ..., rescore: bool = ...) -> None: ...

class VectorIndex(_message.Message):
    __slots__ = ("type", "params")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNSPECIFIED: _ClassVar[VectorIndex.Type]
        TYPE_FLAT: _ClassVar[VectorIndex.Type]
        TYPE_AUTOINDEX: _ClassVar[VectorIndex.Type]
        TYPE_HNSW: _ClassVar[VectorIndex.Type]
        TYPE_IVF_FLAT: _ClassVar[VectorIndex.Type]
        TYPE_IVF_SQ8: _ClassVar[VectorIndex.Type]
        TYPE_DISKANN: _ClassVar[VectorIndex.Type]
    TYPE_UNSPECIFIED: VectorIndex.Type
    TYPE_FLAT: VectorIndex.Type
    TYPE_AUTOINDEX: VectorIndex.Type
    TYPE_HNSW: VectorIndex.Type
    TYPE_IVF_FLAT: VectorIndex.Type
    TYPE_IVF_SQ8: VectorIndex.Type
    TYPE_DISKANN: VectorIndex.Type
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    type: VectorIndex.Type
    params: _containers.ScalarMap[str, int]
    def __init__(self, type: _Optional[_Union[VectorIndex.Type, str]] = ..., params: _Optional[_Mapping[str, int]] = ...) -> None: ...

class FieldSchema(_message.Message):
    __slots__ = ("name", "type", "indexed", "full_text")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNSPECIFIED: _ClassVar[FieldSchema.Type]
        TYPE_STRING: _ClassVar[FieldSchema.Type]
        TYPE_INT64: _ClassVar[FieldSchema.Type]
        TYPE_DOUBLE: _ClassVar[FieldSchema.Type]
        TYPE_BOOL: _ClassVar[FieldSchema.Type]
        TYPE_STRING_LIST: _ClassVar[FieldSchema.Type]
        TYPE_TIMESTAMP: _ClassVar[FieldSchema.Type]
        TYPE_GEO: _ClassVar[FieldSchema.Type]
    TYPE_UNSPECIFIED: FieldSchema.Type
    TYPE_STRING: FieldSchema.Type
    TYPE_INT64: FieldSchema.Type
    TYPE_DOUBLE: FieldSchema.Type
    TYPE_BOOL: FieldSchema.Type
    TYPE_STRING_LIST: FieldSchema.Type
    TYPE_TIMESTAMP: FieldSchema.Type
    TYPE_GEO: FieldSchema.Type
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    INDEXED_FIELD_NUMBER: _ClassVar[int]
    FULL_TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FieldSchema.Type
    indexed: bool
    full_text: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FieldSchema.Type, str]] = ..., indexed: bool = ..., full_text: bool = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class CreateCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections", "next_page_token")
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    next_page_token: str
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteCollectionRequest(_message.Message):
    __slots__ = ("name", "confirmation_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    confirmation_token: str
    def __init__(self, name: _Optional[str] = ..., confirmation_token: _Optional[str] = ...) -> None: ...

class DeleteCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PreviewDeletionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PreviewDeletionResponse(_message.Message):
    __slots__ = ("item_count", "confirmation_token")
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    item_count: int
    confirmation_token: str
    def __init__(self, item_count: _Optional[int] = ..., confirmation_token: _Optional[str] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "collection")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    alias: str
    collection: str
    def __init__(self, alias: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: str
    def __init__(self, alias: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReindexCollectionRequest(_message.Message):
    __slots__ = ("source", "target", "alias", "model_version", "dimensions", "storage", "added_fields")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    alias: str
    model_version: _content_pb2.ModelVersion
    dimensions: int
    storage: VectorStorage
    added_fields: _containers.RepeatedCompositeFieldContainer[FieldSchema]
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., alias: _Optional[str] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., dimensions: _Optional[int] = ..., storage: _Optional[_Union[VectorStorage, _Mapping]] = ..., added_fields: _Optional[_Iterable[_Union[FieldSchema, _Mapping]]] = ...) -> None: ...

class ReindexCollectionResponse(_message.Message):
    __slots__ = ("done_count", "total_count", "failed_count", "failures", "alias_swapped", "done")
    DONE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ALIAS_SWAPPED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    done_count: int
    total_count: int
    failed_count: int
    failures: _containers.RepeatedCompositeFieldContainer[ReindexFailure]
    alias_swapped: bool
    done: bool
    def __init__(self, done_count: _Optional[int] = ..., total_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[ReindexFailure, _Mapping]]] = ..., alias_swapped: bool = ..., done: bool = ...) -> None: ...

class ReindexFailure(_message.Message):
    __slots__ = ("id", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    message: str
    def __init__(self, id: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
