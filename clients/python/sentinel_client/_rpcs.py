"""The calls of the contract. What is safe to repeat is read from the contract itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[RequestT, ResponseT]):
    """One RPC: its path, its messages, and whether repeating it is safe."""

    path: str
    request: type[RequestT]
    response: type[ResponseT]
    repeatable: bool


def _rpc(
    file: FileDescriptor, name: str, request: type[RequestT], response: type[ResponseT]
) -> Rpc[RequestT, ResponseT]:
    service_name, method_name = name.split("/")
    method = file.services_by_name[service_name].methods_by_name[method_name]
    level = method.GetOptions().idempotency_level
    return Rpc(
        path=f"/{method.containing_service.full_name}/{method_name}",
        request=request,
        response=response,
        repeatable=level != MethodOptions.IDEMPOTENCY_UNKNOWN,
    )


_SEARCH, _ITEMS, _COLLECTIONS = (
    search_pb.DESCRIPTOR,
    item_pb.DESCRIPTOR,
    collection_pb.DESCRIPTOR,
)
SEARCH = _rpc(_SEARCH, "SearchService/Search", search_pb.SearchRequest, search_pb.SearchResponse)
SEARCH_PAGE = _rpc(
    _SEARCH,
    "SearchService/SearchPage",
    search_pb.SearchPageRequest,
    search_pb.SearchPageResponse,
)
BATCH_SEARCH = _rpc(
    _SEARCH,
    "SearchService/BatchSearch",
    search_pb.BatchSearchRequest,
    search_pb.BatchSearchResponse,
)
UPSERT_ITEMS = _rpc(
    _ITEMS, "ItemService/UpsertItems", item_pb.UpsertItemsRequest, item_pb.UpsertItemsResponse
)
INGEST_ITEMS = _rpc(
    _ITEMS, "ItemService/IngestItems", item_pb.IngestItemsRequest, item_pb.IngestItemsResponse
)
GET_ITEMS = _rpc(_ITEMS, "ItemService/GetItems", item_pb.GetItemsRequest, item_pb.GetItemsResponse)
LIST_ITEMS = _rpc(
    _ITEMS, "ItemService/ListItems", item_pb.ListItemsRequest, item_pb.ListItemsResponse
)
DOWNLOAD_IMAGE = _rpc(
    _ITEMS,
    "ItemService/DownloadImage",
    item_pb.DownloadImageRequest,
    item_pb.DownloadImageResponse,
)
DELETE_ITEMS = _rpc(
    _ITEMS, "ItemService/DeleteItems", item_pb.DeleteItemsRequest, item_pb.DeleteItemsResponse
)
CREATE_COLLECTION = _rpc(
    _COLLECTIONS,
    "CollectionService/CreateCollection",
    collection_pb.CreateCollectionRequest,
    collection_pb.CreateCollectionResponse,
)
GET_COLLECTION = _rpc(
    _COLLECTIONS,
    "CollectionService/GetCollection",
    collection_pb.GetCollectionRequest,
    collection_pb.GetCollectionResponse,
)
LIST_COLLECTIONS = _rpc(
    _COLLECTIONS,
    "CollectionService/ListCollections",
    collection_pb.ListCollectionsRequest,
    collection_pb.ListCollectionsResponse,
)
DELETE_COLLECTION = _rpc(
    _COLLECTIONS,
    "CollectionService/DeleteCollection",
    collection_pb.DeleteCollectionRequest,
    collection_pb.DeleteCollectionResponse,
)
SET_ALIAS = _rpc(
    _COLLECTIONS,
    "CollectionService/SetAlias",
    collection_pb.SetAliasRequest,
    collection_pb.SetAliasResponse,
)
DELETE_ALIAS = _rpc(
    _COLLECTIONS,
    "CollectionService/DeleteAlias",
    collection_pb.DeleteAliasRequest,
    collection_pb.DeleteAliasResponse,
)
REINDEX_COLLECTION = _rpc(
    _COLLECTIONS,
    "CollectionService/ReindexCollection",
    collection_pb.ReindexCollectionRequest,
    collection_pb.ReindexCollectionResponse,
)

# grpc.health.v1 without grpcio-health-checking, which the base install does not have:
# HealthCheckRequest is one string of number 1, its answer one enum of number 1, and these two
# messages of protobuf itself look the same on the wire. A health check is not repeated: the
# first answer is the answer.
HEALTH_CHECK = Rpc("/grpc.health.v1.Health/Check", StringValue, Int32Value, repeatable=False)

SERVICES: tuple[str, ...] = tuple(
    service.full_name
    for file in (_SEARCH, _ITEMS, _COLLECTIONS)
    for service in file.services_by_name.values()
)
