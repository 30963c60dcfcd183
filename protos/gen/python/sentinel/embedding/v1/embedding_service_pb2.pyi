from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from sentinel.common.v1 import content_pb2 as _content_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BULK: _ClassVar[Priority]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_QUERY: _ClassVar[Role]
    ROLE_DOCUMENT: _ClassVar[Role]

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_IMAGE_WITH_TEXT: _ClassVar[Modality]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BULK: Priority
ROLE_UNSPECIFIED: Role
ROLE_QUERY: Role
ROLE_DOCUMENT: Role
MODALITY_UNSPECIFIED: Modality
MODALITY_TEXT: Modality
MODALITY_IMAGE: Modality
MODALITY_IMAGE_WITH_TEXT: Modality

class EmbedOptions(_message.Message):
    __slots__ = ("model", "normalize", "dimensions", "element_type", "truncate", "priority", "thumbnail_side", "role")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_SIDE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    normalize: bool
    dimensions: int
    element_type: _content_pb2.ElementType
    truncate: bool
    priority: Priority
    thumbnail_side: int
    role: Role
    def __init__(self, model: _Optional[str] = ..., normalize: bool = ..., dimensions: _Optional[int] = ..., element_type: _Optional[_Union[_content_pb2.ElementType, str]] = ..., truncate: bool = ..., priority: _Optional[_Union[Priority, str]] = ..., thumbnail_side: _Optional[int] = ..., role: _Optional[_Union[Role, str]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("contents", "options")
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    contents: _containers.RepeatedCompositeFieldContainer[_content_pb2.Content]
    options: EmbedOptions
    def __init__(self, contents: _Optional[_Iterable[_Union[_content_pb2.Content, _Mapping]]] = ..., options: _Optional[_Union[EmbedOptions, _Mapping]] = ...) -> None: ...

class EmbedResult(_message.Message):
    __slots__ = ("vector", "error", "token_count", "truncated", "image")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    vector: _content_pb2.Vector
    error: _status_pb2.Status
    token_count: int
    truncated: bool
    image: ImageInfo
    def __init__(self, vector: _Optional[_Union[_content_pb2.Vector, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., token_count: _Optional[int] = ..., truncated: bool = ..., image: _Optional[_Union[ImageInfo, _Mapping]] = ...) -> None: ...

class ImageInfo(_message.Message):
    __slots__ = ("width", "height", "media_type", "thumbnail")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    media_type: str
    thumbnail: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., media_type: _Optional[str] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("results", "model_version", "timings")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EmbedResult]
    model_version: _content_pb2.ModelVersion
    timings: StageTimings
    def __init__(self, results: _Optional[_Iterable[_Union[EmbedResult, _Mapping]]] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("sequence", "request")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request: EmbedRequest
    def __init__(self, sequence: _Optional[int] = ..., request: _Optional[_Union[EmbedRequest, _Mapping]] = ...) -> None: ...

class EmbedStreamResponse(_message.Message):
    __slots__ = ("sequence", "response", "error")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    response: EmbedResponse
    error: _status_pb2.Status
    def __init__(self, sequence: _Optional[int] = ..., response: _Optional[_Union[EmbedResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("query", "candidates", "model", "top_k", "query_role", "candidates_role")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    QUERY_ROLE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_ROLE_FIELD_NUMBER: _ClassVar[int]
    query: _content_pb2.Content
    candidates: _containers.RepeatedCompositeFieldContainer[_content_pb2.Content]
    model: str
    top_k: int
    query_role: Role
    candidates_role: Role
    def __init__(self, query: _Optional[_Union[_content_pb2.Content, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[_content_pb2.Content, _Mapping]]] = ..., model: _Optional[str] = ..., top_k: _Optional[int] = ..., query_role: _Optional[_Union[Role, str]] = ..., candidates_role: _Optional[_Union[Role, str]] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("candidates", "model_version", "timings")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[RankedCandidate]
    model_version: _content_pb2.ModelVersion
    timings: StageTimings
    def __init__(self, candidates: _Optional[_Iterable[_Union[RankedCandidate, _Mapping]]] = ..., model_version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ...) -> None: ...

class RankedCandidate(_message.Message):
    __slots__ = ("index", "cosine", "probability", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    cosine: float
    probability: float
    error: _status_pb2.Status
    def __init__(self, index: _Optional[int] = ..., cosine: _Optional[float] = ..., probability: _Optional[float] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class StageTimings(_message.Message):
    __slots__ = ("total", "decode", "preprocess", "queue", "inference", "batch_size")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    total: _duration_pb2.Duration
    decode: _duration_pb2.Duration
    preprocess: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    inference: _duration_pb2.Duration
    batch_size: int
    def __init__(self, total: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., decode: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., preprocess: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., inference: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., batch_size: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("version", "modalities", "dimensions", "max_text_tokens", "image_size", "logit_scale", "runtime", "device", "dtype", "limits", "supported_dimensions", "logit_bias", "sigmoid", "runtime_choice", "asymmetric", "languages")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOGIT_SCALE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SIGMOID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_CHOICE_FIELD_NUMBER: _ClassVar[int]
    ASYMMETRIC_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    version: _content_pb2.ModelVersion
    modalities: _containers.RepeatedScalarFieldContainer[Modality]
    dimensions: int
    max_text_tokens: int
    image_size: int
    logit_scale: float
    runtime: str
    device: str
    dtype: str
    limits: Limits
    supported_dimensions: _containers.RepeatedScalarFieldContainer[int]
    logit_bias: float
    sigmoid: bool
    runtime_choice: str
    asymmetric: bool
    languages: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[_Union[_content_pb2.ModelVersion, _Mapping]] = ..., modalities: _Optional[_Iterable[_Union[Modality, str]]] = ..., dimensions: _Optional[int] = ..., max_text_tokens: _Optional[int] = ..., image_size: _Optional[int] = ..., logit_scale: _Optional[float] = ..., runtime: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., supported_dimensions: _Optional[_Iterable[int]] = ..., logit_bias: _Optional[float] = ..., sigmoid: bool = ..., runtime_choice: _Optional[str] = ..., asymmetric: bool = ..., languages: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_contents_per_request", "max_text_chars", "max_image_bytes", "max_image_pixels", "max_queue_items", "max_stream_items")
    MAX_CONTENTS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    max_contents_per_request: int
    max_text_chars: int
    max_image_bytes: int
    max_image_pixels: int
    max_queue_items: int
    max_stream_items: int
    def __init__(self, max_contents_per_request: _Optional[int] = ..., max_text_chars: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_queue_items: _Optional[int] = ..., max_stream_items: _Optional[int] = ...) -> None: ...
