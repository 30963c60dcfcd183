"""Python client of Sentinel: plain words in, the right pictures out.

from sentinel_client import F, SentinelClient

with SentinelClient() as client:
    for hit in client.search("a dog on the beach", collection="photos", filter=F("year") > 2019):
        print(hit.score, hit.fields["path"])
"""

from __future__ import annotations

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig, RetryPolicy, Timeouts
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
from sentinel_client._filters import F, FieldValue, Filter
from sentinel_client._sync import SentinelClient
from sentinel_client._types import (
    Collection,
    FieldSchema,
    FieldType,
    FoundItems,
    Health,
    HealthStatus,
    Hit,
    ImageSource,
    Item,
    ItemResult,
    ModelVersion,
    Outcome,
    SearchOptions,
    SearchPage,
    SearchResult,
    SearchTimings,
    Vector,
)

__all__ = [
    "AlreadyExists",
    "AsyncSentinelClient",
    "ClientConfig",
    "Collection",
    "ConnectionFailed",
    "DeadlineExceeded",
    "F",
    "FailedPrecondition",
    "FieldSchema",
    "FieldType",
    "FieldValue",
    "Filter",
    "FoundItems",
    "Health",
    "HealthStatus",
    "Hit",
    "ImageSource",
    "Internal",
    "InvalidArgument",
    "Item",
    "ItemResult",
    "ModelVersion",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "ResourceExhausted",
    "ResultTruncated",
    "RetryPolicy",
    "SearchOptions",
    "SearchPage",
    "SearchResult",
    "SearchTimings",
    "SentinelClient",
    "SentinelError",
    "Timeouts",
    "Unavailable",
    "Vector",
]
