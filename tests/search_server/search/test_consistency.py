"""How fresh searches are, by level: what this gateway wrote, what another one wrote."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
    item_service_pb2,
    search_service_pb2,
)
from tests import processes
from tests.search_server.conftest import Gateway, connect
from tests.waiting import until

UNSPECIFIED = search_service_pb2.CONSISTENCY_UNSPECIFIED
EVENTUAL = search_service_pb2.CONSISTENCY_EVENTUAL
BOUNDED = search_service_pb2.CONSISTENCY_BOUNDED
SESSION = search_service_pb2.CONSISTENCY_SESSION
STRONG = search_service_pb2.CONSISTENCY_STRONG


def item(number: int) -> item_service_pb2.Item:
    return item_service_pb2.Item(id=f"item{number}", vector=vector(number))


def vector(number: int) -> content_pb2.Vector:
    data = np.eye(384, dtype="<f4")[number].tobytes()
    return content_pb2.Vector(data=data, dimensions=384)


def found(gateway: Gateway, collection: str, number: int, level: int) -> bool:
    query = search_service_pb2.Query(vector=vector(number))
    hits = gateway.hits(collection, query, limit=1, consistency=level)
    return bool(hits) and hits[0].id == f"item{number}"


@pytest.fixture(scope="module")
def other(
    worker: processes.Server, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A second gateway of the same server; a file of Milvus Lite takes one only."""
    if milvus_uri.endswith(".db"):
        pytest.skip("a file of Milvus Lite belongs to one gateway")
    folder = tmp_path_factory.mktemp("other")
    flags = processes.gateway_flags(folder, milvus_uri, worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield connect(server.address)


@pytest.mark.parametrize("level", [UNSPECIFIED, SESSION, STRONG])
def test_a_gateway_finds_what_it_wrote(gateway: Gateway, level: int) -> None:
    name = gateway.create()
    for number in range(10):
        gateway.upsert(name, item(number))
        assert found(gateway, name, number, level), number


@pytest.mark.parametrize("level", [EVENTUAL, BOUNDED])
def test_looser_levels_find_it_in_the_end(gateway: Gateway, level: int) -> None:
    name = gateway.create()
    gateway.upsert(name, item(1))
    until(lambda: found(gateway, name, 1, level))


def test_strong_finds_what_any_gateway_wrote(gateway: Gateway, other: Gateway) -> None:
    name = gateway.create()
    for number in range(10):
        gateway.upsert(name, item(number))
        assert found(other, name, number, STRONG), number


def test_a_collections_level_holds_where_none_is_named(gateway: Gateway, other: Gateway) -> None:
    name = gateway.create(default_consistency=STRONG)
    for number in range(10):
        gateway.upsert(name, item(number))
        assert found(other, name, number, UNSPECIFIED), number


@pytest.mark.parametrize("level", [UNSPECIFIED, EVENTUAL, BOUNDED, SESSION, STRONG])
def test_a_collection_tells_its_level(gateway: Gateway, level: int) -> None:
    name = gateway.create(default_consistency=level)
    request = collection_service_pb2.GetCollectionRequest(name=name)
    collection = gateway.collections.GetCollection(request, timeout=20).collection
    assert collection.default_consistency == (level or SESSION)
