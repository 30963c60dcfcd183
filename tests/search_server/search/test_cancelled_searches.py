"""A caller who leaves ends its search in Milvus, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sentinel.search.v1 import search_service_pb2
from tests import processes
from tests.search_server.conftest import Gateway, connect, photo_item, text
from tests.search_server.milvus import milvus_front

pytestmark = pytest.mark.milvus

# Long after what the tests wait for, so that no search ends because its time is over.
_SEARCH_TIMEOUT_S = 60.0
_SOON_S = 10.0


@pytest.fixture(scope="module")
def front(milvus_server_uri: str) -> Iterator[milvus_front.MilvusFront]:
    with milvus_front.before(milvus_server_uri) as standing:
        yield standing


@pytest.fixture(scope="module")
def gateway(
    front: milvus_front.MilvusFront,
    worker: processes.Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("front")
    flags = processes.gateway_flags(folder, front.uri, worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield connect(server.address)


@pytest.fixture(scope="module")
def collection(gateway: Gateway) -> str:
    name = gateway.create()
    gateway.upsert(name, photo_item("coffee"), photo_item("chelsea"))
    return name


def search(collection: str, limit: int) -> search_service_pb2.SearchRequest:
    params = search_service_pb2.SearchParams(collection=collection, query=text("a cat"))
    return search_service_pb2.SearchRequest(params=params, limit=limit)


@pytest.mark.parametrize(
    ("limit", "held"),
    [(2, "Search"), (3, "Query"), (2_000, "Search")],
    ids=["the first page", "its look for missed hits", "a deep ranking"],
)
def test_a_cancelled_search_is_cancelled_in_milvus(
    gateway: Gateway, front: milvus_front.MilvusFront, collection: str, limit: int, held: str
) -> None:
    with front.holding(held) as call:
        stream = gateway.search.Search(search(collection, limit), timeout=_SEARCH_TIMEOUT_S)
        assert call.begun.wait(_SOON_S)
        assert not call.left.is_set()
        stream.cancel()  # type: ignore[attr-defined]
        assert call.left.wait(_SOON_S)
    assert len(gateway.hits(collection, text("a cat"))) == 2


def test_a_page_whose_caller_leaves_is_cancelled_in_milvus(
    gateway: Gateway, front: milvus_front.MilvusFront, collection: str
) -> None:
    request = search_service_pb2.SearchPageRequest(params=search(collection, 2).params, page_size=2)
    with front.holding("Search") as call:
        page = gateway.search.SearchPage.future(request, timeout=_SEARCH_TIMEOUT_S)
        assert call.begun.wait(_SOON_S)
        page.cancel()
        assert call.left.wait(_SOON_S)


def test_a_search_whose_time_is_over_is_cancelled_in_milvus(
    gateway: Gateway, front: milvus_front.MilvusFront, collection: str
) -> None:
    with front.holding("Search") as call:
        with pytest.raises(grpc.RpcError) as caught:
            list(gateway.search.Search(search(collection, 2), timeout=2))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.left.wait(_SOON_S)
