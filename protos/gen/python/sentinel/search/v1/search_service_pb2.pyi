from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from sentinel.common.v1 import content_pb2 as _content_pb2
from sentinel.search.v1 import filter_pb2 as _filter_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_EVENTUAL: _ClassVar[Consistency]
    CONSISTENCY_BOUNDED: _ClassVar[Consistency]
    CONSISTENCY_SESSION: _ClassVar[Consistency]
    CONSISTENCY_STRONG: _ClassVar[Consistency]

class MatchLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MATCH_LEVEL_UNSPECIFIED: _ClassVar[MatchLevel]
    MATCH_LEVEL_WEAK: _ClassVar[MatchLevel]
    MATCH_LEVEL_FAIR: _ClassVar[MatchLevel]
    MATCH_LEVEL_STRONG: _ClassVar[MatchLevel]
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_EVENTUAL: Consistency
CONSISTENCY_BOUNDED: Consistency
CONSISTENCY_SESSION: Consistency
CONSISTENCY_STRONG: Consistency
MATCH_LEVEL_UNSPECIFIED: MatchLevel
MATCH_LEVEL_WEAK: MatchLevel
MATCH_LEVEL_FAIR: MatchLevel
MATCH_LEVEL_STRONG: MatchLevel

class Query(_message.Message):
    __slots__ = ("content", "vector", "item_id", "composite")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    COMPOSITE_FIELD_NUMBER: _ClassVar[int]
    content: _content_pb2.Content
    vector: _content_pb2.Vector
    item_id: str
    composite: CompositeQuery
    def __init__(self, content: _Optional[_Union[_content_pb2.Content, _Mapping]] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., item_id: _Optional[str] = ..., composite: _Optional[_Union[CompositeQuery, _Mapping]] = ...) -> None: ...

class CompositeQuery(_message.Message):
    __slots__ = ("terms",)
    TERMS_FIELD_NUMBER: _ClassVar[int]
    terms: _containers.RepeatedCompositeFieldContainer[WeightedTerm]
    def __init__(self, terms: _Optional[_Iterable[_Union[WeightedTerm, _Mapping]]] = ...) -> None: ...

class WeightedTerm(_message.Message):
    __slots__ = ("content", "vector", "item_id", "weight")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    content: _content_pb2.Content
    vector: _content_pb2.Vector
    item_id: str
    weight: float
    def __init__(self, content: _Optional[_Union[_content_pb2.Content, _Mapping]] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., item_id: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class SearchParams(_message.Message):
    __slots__ = ("collection", "query", "filter", "output_fields", "include_vectors", "include_thumbnails", "min_score", "consistency", "hybrid", "diversity", "index_params", "group")
    class IndexParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    HYBRID_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    INDEX_PARAMS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: Query
    filter: _filter_pb2.Filter
    output_fields: _containers.RepeatedScalarFieldContainer[str]
    include_vectors: bool
    include_thumbnails: bool
    min_score: float
    consistency: Consistency
    hybrid: HybridParams
    diversity: DiversityParams
    index_params: _containers.ScalarMap[str, int]
    group: GroupParams
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., output_fields: _Optional[_Iterable[str]] = ..., include_vectors: bool = ..., include_thumbnails: bool = ..., min_score: _Optional[float] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., hybrid: _Optional[_Union[HybridParams, _Mapping]] = ..., diversity: _Optional[_Union[DiversityParams, _Mapping]] = ..., index_params: _Optional[_Mapping[str, int]] = ..., group: _Optional[_Union[GroupParams, _Mapping]] = ...) -> None: ...

class HybridParams(_message.Message):
    __slots__ = ("text", "rrf_k", "vector_weight", "text_weight")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RRF_K_FIELD_NUMBER: _ClassVar[int]
    VECTOR_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TEXT_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    text: str
    rrf_k: int
    vector_weight: float
    text_weight: float
    def __init__(self, text: _Optional[str] = ..., rrf_k: _Optional[int] = ..., vector_weight: _Optional[float] = ..., text_weight: _Optional[float] = ...) -> None: ...

class DiversityParams(_message.Message):
    __slots__ = ("duplicate_threshold", "mmr_lambda")
    DUPLICATE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MMR_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    duplicate_threshold: float
    mmr_lambda: float
    def __init__(self, duplicate_threshold: _Optional[float] = ..., mmr_lambda: _Optional[float] = ...) -> None: ...

class GroupParams(_message.Message):
    __slots__ = ("field", "size")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    field: str
    size: int
    def __init__(self, field: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("id", "rank", "score", "fields", "image_uri", "thumbnail", "vector", "text", "match_level")
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
    MATCH_LEVEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    rank: int
    score: float
    fields: _containers.MessageMap[str, _filter_pb2.FieldValue]
    image_uri: str
    thumbnail: bytes
    vector: _content_pb2.Vector
    text: str
    match_level: MatchLevel
    def __init__(self, id: _Optional[str] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., fields: _Optional[_Mapping[str, _filter_pb2.FieldValue]] = ..., image_uri: _Optional[str] = ..., thumbnail: _Optional[bytes] = ..., vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., text: _Optional[str] = ..., match_level: _Optional[_Union[MatchLevel, str]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("kind", "message")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Notice.Kind]
        KIND_TEXT_TRUNCATED: _ClassVar[Notice.Kind]
        KIND_LANGUAGE_UNKNOWN: _ClassVar[Notice.Kind]
    KIND_UNSPECIFIED: Notice.Kind
    KIND_TEXT_TRUNCATED: Notice.Kind
    KIND_LANGUAGE_UNKNOWN: Notice.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: Notice.Kind
    message: str
    def __init__(self, kind: _Optional[_Union[Notice.Kind, str]] = ..., message: _Optional[str] = ...) -> None: ...

class SearchSummary(_message.Message):
    __slots__ = ("hit_count", "total", "embed", "embed_queue", "embed_inference", "vector_search", "embed_cached", "notices")
    HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    EMBED_QUEUE_FIELD_NUMBER: _ClassVar[int]
    EMBED_INFERENCE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_SEARCH_FIELD_NUMBER: _ClassVar[int]
    EMBED_CACHED_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    hit_count: int
    total: _duration_pb2.Duration
    embed: _duration_pb2.Duration
    embed_queue: _duration_pb2.Duration
    embed_inference: _duration_pb2.Duration
    vector_search: _duration_pb2.Duration
    embed_cached: bool
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    def __init__(self, hit_count: _Optional[int] = ..., total: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed_queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed_inference: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., vector_search: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., embed_cached: bool = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ...) -> None: ...

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

class BatchSearchRequest(_message.Message):
    __slots__ = ("searches",)
    SEARCHES_FIELD_NUMBER: _ClassVar[int]
    searches: _containers.RepeatedCompositeFieldContainer[SearchPageRequest]
    def __init__(self, searches: _Optional[_Iterable[_Union[SearchPageRequest, _Mapping]]] = ...) -> None: ...

class BatchSearchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchSearchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchSearchResult, _Mapping]]] = ...) -> None: ...

class BatchSearchResult(_message.Message):
    __slots__ = ("page", "error")
    PAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    page: SearchPageResponse
    error: _status_pb2.Status
    def __init__(self, page: _Optional[_Union[SearchPageResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
