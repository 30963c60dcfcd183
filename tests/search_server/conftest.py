"""A real worker with the real default model, and a gateway on each Milvus."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    filter_pb2,
    item_service_pb2,
    item_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from sentinel_client import SentinelClient
from sentinel_client.testing import FakeSentinel
from tests import photos, processes, secure
from tests.search_server.fake_pair import SCHEMA, Pair, items, new_name, stored

MIB = 1024 * 1024
MAX_RESPONSE_BYTES = 3_670_016
PAGE_TOKEN_SECRET = "known to the tests"
FIELD_TYPES = {
    "path": collection_service_pb2.FieldSchema.TYPE_STRING,
    "year": collection_service_pb2.FieldSchema.TYPE_INT64,
    "ratio": collection_service_pb2.FieldSchema.TYPE_DOUBLE,
    "public": collection_service_pb2.FieldSchema.TYPE_BOOL,
    "tags": collection_service_pb2.FieldSchema.TYPE_STRING_LIST,
    "taken_at": collection_service_pb2.FieldSchema.TYPE_TIMESTAMP,
    "place": collection_service_pb2.FieldSchema.TYPE_GEO,
}


@dataclass(slots=True)
class Gateway:
    """Stubs of one gateway, and the few calls most tests make."""

    address: str
    search: search_service_pb2_grpc.SearchServiceStub
    items: item_service_pb2_grpc.ItemServiceStub
    collections: collection_service_pb2_grpc.CollectionServiceStub

    def create(self, name: str | None = None, **options: object) -> str:
        name = name or f"c_{uuid.uuid4().hex}"
        schemas = [
            collection_service_pb2.FieldSchema(name=field, type=field_type)
            for field, field_type in FIELD_TYPES.items()
        ]
        collection = collection_service_pb2.Collection(
            name=name,
            fields=schemas,
            **options,  # type: ignore[arg-type]
        )
        self.collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(collection=collection), timeout=20
        )
        return name

    def upsert(
        self, collection: str, *items: item_service_pb2.Item
    ) -> list[item_service_pb2.ItemResult]:
        request = item_service_pb2.UpsertItemsRequest(collection=collection, items=items)
        return list(self.items.UpsertItems(request, timeout=50).results)

    def hits(
        self, collection: str, query: search_service_pb2.Query, *, limit: int = 5, **params: object
    ) -> list[search_service_pb2.Hit]:
        request = search_service_pb2.SearchRequest(
            params=search_service_pb2.SearchParams(
                collection=collection,
                query=query,
                **params,  # type: ignore[arg-type]
            ),
            limit=limit,
        )
        return [
            hit for event in self.search.Search(request, timeout=20) for hit in event.chunk.hits
        ]

    def get(self, collection: str, *ids: str, **options: bool) -> item_service_pb2.GetItemsResponse:
        return self.items.GetItems(
            item_service_pb2.GetItemsRequest(collection=collection, ids=ids, **options), timeout=20
        )

    def count(self, collection: str) -> int:
        request = collection_service_pb2.GetCollectionRequest(name=collection)
        return self.collections.GetCollection(request, timeout=20).collection.item_count


def connect(address: str) -> Gateway:
    """Return stubs that receive no more than gRPC's default, 4 MiB."""
    options = [("grpc.enable_retries", 0)]
    channel = secure.channel(address, options)
    return Gateway(
        address,
        search_service_pb2_grpc.SearchServiceStub(channel),
        item_service_pb2_grpc.ItemServiceStub(channel),
        collection_service_pb2_grpc.CollectionServiceStub(channel),
    )


def text(words: str) -> search_service_pb2.Query:
    return search_service_pb2.Query(content=content_pb2.Content(text=words))


def image(data: bytes) -> content_pb2.Content:
    return content_pb2.Content(image=content_pb2.Image(data=data))


def string(value: str) -> filter_pb2.FieldValue:
    return filter_pb2.FieldValue(string_value=value)


def photo_item(name: str) -> item_service_pb2.Item:
    path = photos.photo(name)
    return item_service_pb2.Item(
        content=image(path.read_bytes()), fields={"path": string(path.name)}
    )


def error_info(error: grpc.RpcError) -> tuple[str, str]:
    """Return the code and the ErrorInfo reason of a failed call."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return error.code().name, reason_of(status_pb2.Status.FromString(details))


def reason_of(status: status_pb2.Status) -> str:
    """Return the ErrorInfo reason in a status; there must be exactly one."""
    infos = [
        detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    ]
    assert len(infos) == 1, status
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "sentinel"
    return info.reason


@pytest.fixture(scope="session")
def worker(default_worker: processes.Server) -> processes.Server:
    return default_worker


@pytest.fixture(scope="session")
def gateways(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], processes.Server]]:
    """Return the gateway in front of a Milvus, one for each pytest worker and Milvus."""
    started: dict[str, processes.Server] = {}
    with ExitStack() as stack:

        def gateway_of(milvus_uri: str) -> processes.Server:
            if milvus_uri not in started:
                folder = tmp_path_factory.mktemp("gateway")
                flags = processes.gateway_flags(folder, milvus_uri, worker.address)
                flags += ["--reference-places", "file:///"]
                secret = {"SENTINEL_GATEWAY_PAGE_TOKEN_SECRET": PAGE_TOKEN_SECRET}
                started[milvus_uri] = stack.enter_context(
                    processes.running(folder, "search_server", *flags, environment=secret)
                )
            return started[milvus_uri]

        yield gateway_of


@pytest.fixture(scope="session")
def gateway_process(
    gateways: Callable[[str], processes.Server], milvus_uri: str
) -> processes.Server:
    return gateways(milvus_uri)


@pytest.fixture
def gateway(gateway_process: processes.Server) -> Gateway:
    return connect(gateway_process.address)


@pytest.fixture(scope="module")
def pair(gateways: Callable[[str], processes.Server], lite_uri: str) -> Iterator[Pair]:
    """A FakeSentinel and a gateway with Milvus Lite, which have the same items."""
    with ExitStack() as stack:
        real = stack.enter_context(SentinelClient(gateways(lite_uri).address))
        dimensions = real.get_model().dimensions
        fake = stack.enter_context(FakeSentinel(dimensions=dimensions))
        made = Pair(fake, real, new_name(), dimensions)
        made.same(lambda client, pair: client.create_collection(pair.collection, SCHEMA))
        outcomes = made.same(stored(*items(made)))
        assert {one["outcome"] for one in outcomes} == {"STORED"}
        yield made


@pytest.fixture
def fresh(pair: Pair) -> Pair:
    """The same clients, with an empty collection of their own."""
    empty = pair._replace(collection=new_name())
    empty.same(lambda client, pair: client.create_collection(pair.collection, SCHEMA))
    return empty


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def albums() -> dict[str, str]:
    """The names of the albums by the address of their gateway."""
    return {}


@pytest.fixture(scope="session")
def album(gateway_process: processes.Server, albums: dict[str, str]) -> str:
    """A collection of all sample photos, indexed once; tests only read it."""
    address = gateway_process.address
    if address not in albums:
        connected = connect(address)
        name = connected.create()
        results = connected.upsert(name, *(photo_item(path.stem) for path in photos.all_photos()))
        outcomes = {result.outcome for result in results}
        assert outcomes == {item_service_pb2.ItemResult.OUTCOME_STORED}
        albums[address] = name
    return albums[address]
