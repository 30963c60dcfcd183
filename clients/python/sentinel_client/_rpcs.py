"""The RPCs of the contract: path, messages, timeout, and when to send one again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeAlias, TypeVar

from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.search.v1 import access_service_pb2 as access_pb
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

# A field of `Timeouts`.
TimeoutKind: TypeAlias = Literal["search", "upsert", "read", "write", "health"]


@dataclass(frozen=True, slots=True)
class Rpc(Generic[RequestT, ResponseT]):
    """One RPC. A call without its own timeout takes the default of `timeout_kind`.

    Attributes:
        repeatable: Whether it may be sent again after it has failed.
        hedgeable: Whether it may be sent again while it runs, for an earlier answer.
        large_responses: Whether a response can neither be cut nor always be small.
    """

    path: str
    request: type[RequestT]
    response: type[ResponseT]
    timeout_kind: TimeoutKind
    repeatable: bool = False
    hedgeable: bool = False
    large_responses: bool = False


_SERVICES = [
    service
    for file in (search_pb, item_pb, collection_pb, embedding_pb)
    for service in file.DESCRIPTOR.services_by_name.values()
]
_METHODS = {
    method.input_type.full_name: method
    for service in (*_SERVICES, *access_pb.DESCRIPTOR.services_by_name.values())
    for method in service.methods
}

# Those whose health counts. AccessService needs nothing that could fail, and older gateways do not
# have it.
SERVICES: tuple[str, ...] = tuple(service.full_name for service in _SERVICES)


def _rpc(
    request: type[RequestT], response: type[ResponseT], timeout_kind: TimeoutKind
) -> Rpc[RequestT, ResponseT]:
    """Find the RPC that takes `request`. The contract says whether it is safe to repeat."""
    method = _METHODS[request.DESCRIPTOR.full_name]
    level = method.GetOptions().idempotency_level
    return Rpc(
        path=f"/{method.containing_service.full_name}/{method.name}",
        request=request,
        response=response,
        timeout_kind=timeout_kind,
        repeatable=level != MethodOptions.IDEMPOTENCY_UNKNOWN,
        hedgeable=level == MethodOptions.NO_SIDE_EFFECTS,
    )


SEARCH = _rpc(search_pb.SearchRequest, search_pb.SearchResponse, "search")
SEARCH_PAGE = _rpc(search_pb.SearchPageRequest, search_pb.SearchPageResponse, "search")
BATCH_SEARCH = _rpc(search_pb.BatchSearchRequest, search_pb.BatchSearchResponse, "search")
UPSERT_ITEMS = _rpc(item_pb.UpsertItemsRequest, item_pb.UpsertItemsResponse, "upsert")
INGEST_ITEMS = _rpc(item_pb.IngestItemsRequest, item_pb.IngestItemsResponse, "upsert")
GET_ITEMS = _rpc(item_pb.GetItemsRequest, item_pb.GetItemsResponse, "read")
LIST_ITEMS = _rpc(item_pb.ListItemsRequest, item_pb.ListItemsResponse, "read")
DOWNLOAD_IMAGE = _rpc(item_pb.DownloadImageRequest, item_pb.DownloadImageResponse, "read")
DELETE_ITEMS = _rpc(item_pb.DeleteItemsRequest, item_pb.DeleteItemsResponse, "write")
CREATE_COLLECTION = _rpc(
    collection_pb.CreateCollectionRequest, collection_pb.CreateCollectionResponse, "write"
)
GET_COLLECTION = _rpc(
    collection_pb.GetCollectionRequest, collection_pb.GetCollectionResponse, "read"
)
LIST_COLLECTIONS = _rpc(
    collection_pb.ListCollectionsRequest, collection_pb.ListCollectionsResponse, "read"
)
DELETE_COLLECTION = _rpc(
    collection_pb.DeleteCollectionRequest, collection_pb.DeleteCollectionResponse, "write"
)
PREVIEW_DELETION = _rpc(
    collection_pb.PreviewDeletionRequest, collection_pb.PreviewDeletionResponse, "write"
)
SET_ALIAS = _rpc(collection_pb.SetAliasRequest, collection_pb.SetAliasResponse, "write")
DELETE_ALIAS = _rpc(collection_pb.DeleteAliasRequest, collection_pb.DeleteAliasResponse, "write")
REINDEX_COLLECTION = _rpc(
    collection_pb.ReindexCollectionRequest, collection_pb.ReindexCollectionResponse, "write"
)
GET_CALLER = _rpc(access_pb.GetCallerRequest, access_pb.GetCallerResponse, "read")
EMBED = replace(  # many thumbnails are large
    _rpc(embedding_pb.EmbedRequest, embedding_pb.EmbedResponse, "upsert"), large_responses=True
)
EMBED_BULK = replace(EMBED, hedgeable=False)  # nobody waits for one of these requests
RANK = _rpc(embedding_pb.RankRequest, embedding_pb.RankResponse, "upsert")
GET_MODEL = _rpc(embedding_pb.GetModelRequest, embedding_pb.GetModelResponse, "read")

# grpc.health.v1 without grpcio-health-checking, which the base install does not have.
# HealthCheckRequest has one string field with number 1, its response one enum with number 1.
# These two messages of protobuf look the same on the wire. A failed health check is an answer,
# so it is not repeated.
HEALTH_CHECK = Rpc("/grpc.health.v1.Health/Check", StringValue, Int32Value, "health")
