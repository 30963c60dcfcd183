from sentinel.common.v1 import content_pb2 as _content_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Collection(_message.Message):
    __slots__ = ("name", "model_version", "dimensions", "metric", "fields", "item_count")
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
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_version: _content_pb2.ModelVersion
    dimensions: int
    metric: Collection.Metric
    fields: _containers.RepeatedCompositeFieldContainer[FieldSchema]
    item_count: int
    def __init__(self, name: _Optional[str] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., dimensions: _Optional[int] = ..., metric: _Optional[_Union[Collection.Metric, str]] = ..., fields: _Optional[_Iterable[_Union[FieldSchema, _Mapping]]] = ..., item_count: _Optional[int] = ...) -> None: ...

class FieldSchema(_message.Message):
    __slots__ = ("name", "type")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNSPECIFIED: _ClassVar[FieldSchema.Type]
        TYPE_STRING: _ClassVar[FieldSchema.Type]
        TYPE_INT64: _ClassVar[FieldSchema.Type]
        TYPE_DOUBLE: _ClassVar[FieldSchema.Type]
        TYPE_BOOL: _ClassVar[FieldSchema.Type]
        TYPE_STRING_LIST: _ClassVar[FieldSchema.Type]
    TYPE_UNSPECIFIED: FieldSchema.Type
    TYPE_STRING: FieldSchema.Type
    TYPE_INT64: FieldSchema.Type
    TYPE_DOUBLE: FieldSchema.Type
    TYPE_BOOL: FieldSchema.Type
    TYPE_STRING_LIST: FieldSchema.Type
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FieldSchema.Type
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FieldSchema.Type, str]] = ...) -> None: ...

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
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
