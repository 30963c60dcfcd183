"""Python client of Sentinel, a server for text and image search.

from sentinel_client import F, SentinelClient

with SentinelClient() as client:
    for hit in client.search("a dog on the beach", collection="photos", filter=F("year") > 2019):
        print(hit.score, hit.fields["path"])
"""

from __future__ import annotations

from sentinel_client._access import Tls
from sentinel_client._caller import Caller, Grant, Scope
from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig, Hedging, RetryPolicy, Timeouts
from sentinel_client._embedding import (
    Embedding,
    EmbeddingModel,
    EmbedOptions,
    RankedCandidate,
)
from sentinel_client._errors import (
    AlreadyExists,
    ConnectionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ResultTruncated,
    SentinelError,
    Unavailable,
)
from sentinel_client._filters import F, FieldValue, Filter, GeoPoint
from sentinel_client._query import Box, Q
from sentinel_client._search_types import (
    Diversity,
    GroupBy,
    Hit,
    Hybrid,
    Match,
    Notice,
    NoticeKind,
    SearchOptions,
    SearchPage,
    SearchResult,
    SearchTimings,
)
from sentinel_client._sync import SentinelClient
from sentinel_client._types import (
    Collection,
    CollectionOptions,
    Consistency,
    DeletionPreview,
    DownloadedImage,
    ElementType,
    FieldSchema,
    FieldType,
    FoundItems,
    Health,
    HealthStatus,
    ImageSource,
    ImageUri,
    IndexType,
    IngestAck,
    Item,
    ItemResult,
    MatchLevels,
    ModelVersion,
    Outcome,
    ReindexProgress,
    Role,
    Vector,
    VectorIndex,
    VectorStorage,
)

__all__ = [
    "AlreadyExists",
    "AsyncSentinelClient",
    "Box",
    "Caller",
    "ClientConfig",
    "Collection",
    "CollectionOptions",
    "ConnectionFailed",
    "Consistency",
    "DeadlineExceeded",
    "DeletionPreview",
    "Diversity",
    "DownloadedImage",
    "ElementType",
    "EmbedOptions",
    "Embedding",
    "EmbeddingModel",
    "F",
    "FailedPrecondition",
    "FieldSchema",
    "FieldType",
    "FieldValue",
    "Filter",
    "FoundItems",
    "GeoPoint",
    "Grant",
    "GroupBy",
    "Health",
    "HealthStatus",
    "Hedging",
    "Hit",
    "Hybrid",
    "ImageSource",
    "ImageUri",
    "IndexType",
    "IngestAck",
    "Internal",
    "InvalidArgument",
    "Item",
    "ItemResult",
    "Match",
    "MatchLevels",
    "ModelVersion",
    "NotFound",
    "Notice",
    "NoticeKind",
    "Outcome",
    "PermissionDenied",
    "Q",
    "RankedCandidate",
    "ReindexProgress",
    "ResourceExhausted",
    "ResultTruncated",
    "RetryPolicy",
    "Role",
    "Scope",
    "SearchOptions",
    "SearchPage",
    "SearchResult",
    "SearchTimings",
    "SentinelClient",
    "SentinelError",
    "Timeouts",
    "Tls",
    "Unavailable",
    "Vector",
    "VectorIndex",
    "VectorStorage",
]
