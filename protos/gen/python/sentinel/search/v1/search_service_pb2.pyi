from google.protobuf import duration_pb2 as _duration_pb2
from sentinel.common.v1 import content_pb2 as _content_pb2
from sentinel.search.v1 import filter_pb2 as _filter_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Query(_message.Message):
    __slots__ = ("content", "vector", "item_id")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    content: _content_pb2.Content
    vector: _content_pb2.Vector
    item_id: str
    def __init__(self, content: _Optional[_Union[_content_pb2.Content, _Mapping]] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., item_id: _Optional[str] = ...) -> None: ...

class SearchParams(_message.Message):
    __slots__ = ("collection", "query", "filter", "output_fields", "include_vectors", "include_thumbnails", "min_score")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: Query
    filter: _filter_pb2.Filter
    output_fields: _containers.RepeatedScalarFieldContainer[str]
    include_vectors: bool
    include_thumbnails: bool
    min_score: float
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., output_fields: _Optional[_Iterable[str]] = ..., include_vectors: bool = ..., include_thumbnails: bool = ..., min_score: _Optional[float] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("params", "limit", "chunk_size")
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    params: SearchParams
    limit: int
    chunk_size: int
    def __init__(self, params: _Optional[_Union[SearchParams, _Mapping]] = ..., limit: _Optional[int] = ..., chunk_size: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("header", "chunk", "summary")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    header: SearchHeader
    chunk: HitChunk
    summary: SearchSummary
    def __init__(self, header: _Optional[_Union[SearchHeader, _Mapping]] = ..., chunk: _Optional[_Union[HitChunk, _Mapping]] = ..., summary: _Optional[_Union[SearchSummary, _Mapping]] = ...) -> None: ...

class SearchHeader(_message.Message):
    __slots__ = ("collection", "model_version")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    model_version: _content_pb2.ModelVersion
    def __init__(self, collection: _Optional[str] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class HitChunk(_message.Message):
    __slots__ = ("hits",)
    HITS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("id", "rank", "score", "fields", "image_uri", "thumbnail", "vector", "text")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _filter_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_filter_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    rank: int
    score: float
    fields: _containers.MessageMap[str, _filter_pb2.FieldValue]
    image_uri: str
    thumbnail: bytes
    vector: _content_pb2.Vector
    text: str
    def __init__(self, id: _Optional[str] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., fields: _Optional[_Mapping[str, _filter_pb2.FieldValue]] = ..., image_uri: _Optional[str] = ..., thumbnail: _Optional[bytes] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class SearchSummary(_message.Message):
    __slots__ = ("hit_count", "total", "embed", "embed_queue", "embed_inference", "vector_search")
    HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    EMBED_QUEUE_FIELD_NUMBER: _ClassVar[int]
    EMBED_INFERENCE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_SEARCH_FIELD_NUMBER: _ClassVar[int]
    hit_count: int
    total: _duration_pb2.Duration
    embed: _duration_pb2.Duration
    embed_queue: _duration_pb2.Duration
    embed_inference: _duration_pb2.Duration
    vector_search: _duration_pb2.Duration
    def __init__(self, hit_count: _Optional[int] = ..., total: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed_queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed_inference: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., vector_search: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SearchPageRequest(_message.Message):
    __slots__ = ("params", "page_size", "page_token")
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    params: SearchParams
    page_size: int
    page_token: str
    def __init__(self, params: _Optional[_Union[SearchParams, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class SearchPageResponse(_message.Message):
    __slots__ = ("hits", "next_page_token", "summary")
    HITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    next_page_token: str
    summary: SearchSummary
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., summary: _Optional[_Union[SearchSummary, _Mapping]] = ...) -> None: ...
