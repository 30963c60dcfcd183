"""Queries and documents at a gateway: items are documents, searches are queries, nothing mixes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from sentinel.embedding.v1 import embedding_service_pb2 as pb
from tests import processes
from tests.processes import metric
from tests.search_server.api.test_embedding import Stub, embed, new_words, stub_of
from tests.search_server.conftest import Gateway, connect, error_info, text
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at

ROLES = (pb.ROLE_QUERY, pb.ROLE_DOCUMENT)
LOOKUPS = "sentinel_gateway_embedding_cache_lookups_total"
ENTRIES = "sentinel_gateway_embedding_cache_entries"


@pytest.fixture(scope="module", params=[True, False], ids=["asymmetric", "symmetric"])
def asymmetric(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def servers(
    asymmetric: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[processes.Server, processes.Server]]:
    folder = tmp_path_factory.mktemp("roles")
    environment = {"FAKE_ASYMMETRIC": "1"} if asymmetric else {}
    with (
        processes.running(folder / "w", FAKE, environment=environment) as worker,
        gateway_at(folder, worker.address) as gateway,
    ):
        yield worker, gateway


@pytest.fixture
def worker(servers: tuple[processes.Server, processes.Server]) -> Stub:
    return stub_of(servers[0])


@pytest.fixture
def stub(servers: tuple[processes.Server, processes.Server]) -> Stub:
    return stub_of(servers[1])


@pytest.fixture
def gateway(servers: tuple[processes.Server, processes.Server]) -> Gateway:
    return connect(servers[1].address)


def vector(stub: Stub, content: Any, role: pb.Role) -> Any:
    [result] = embed(stub, content, role=role).results
    return np.frombuffer(result.vector.data, "<f4")


def test_items_are_documents_and_searches_are_queries(
    worker: Stub, gateway: Gateway, asymmetric: bool
) -> None:
    name = gateway.create()
    gateway.upsert(name, caption("red"))
    listed = gateway.hits(name, text("red"), include_vectors=True)
    stored = np.frombuffer(listed[0].vector.data, "<f4")
    query, document = (vector(worker, caption("red").content, role) for role in ROLES)
    np.testing.assert_allclose(stored, document, atol=1e-6)
    assert listed[0].score == pytest.approx(float(query @ document), abs=1e-5)
    assert (listed[0].score < 0.9) is asymmetric


def test_no_cached_query_is_taken_for_a_document(worker: Stub, stub: Stub) -> None:
    for order in (ROLES, ROLES[::-1]):
        content = new_words("red")
        for role in (*order, *order):
            np.testing.assert_array_equal(
                vector(stub, content, role), vector(worker, content, role)
            )


def test_a_symmetric_model_has_one_entry_for_both_roles(
    servers: tuple[processes.Server, processes.Server], stub: Stub, asymmetric: bool
) -> None:
    def counts() -> list[float]:
        address = servers[1].metrics_address
        return [
            metric(address, ENTRIES),
            metric(address, LOOKUPS, outcome="hit"),
            metric(address, LOOKUPS, outcome="miss"),
        ]

    before, content = counts(), new_words("blue")
    for role in (*ROLES, *ROLES):
        embed(stub, content, role=role)
    embed(stub, content)  # without a role, it is a document
    grown = [now - then for now, then in zip(counts(), before, strict=True)]
    assert grown == ([2, 3, 2] if asymmetric else [1, 4, 1])


@pytest.mark.parametrize(
    "roles",
    [{}, {"query_role": 2}, {"candidates_role": 1}, {"query_role": 2, "candidates_role": 1}],
    ids=str,
)
def test_a_ranking_is_the_workers_own(worker: Stub, stub: Stub, roles: dict[str, pb.Role]) -> None:
    request = pb.RankRequest(
        query=new_words("red"), candidates=[new_words("blue"), new_words("red"), new_words(" ")]
    )
    request.query_role = roles.get("query_role", 0)
    request.candidates_role = roles.get("candidates_role", 0)
    ours, theirs = (one.Rank(request, timeout=20) for one in (stub, worker))
    assert [one.index for one in ours.candidates] == [one.index for one in theirs.candidates]
    for our, their in zip(ours.candidates, theirs.candidates, strict=True):
        assert our.cosine == pytest.approx(their.cosine, abs=1e-5)


def test_the_model_says_whether_roles_matter(stub: Stub, asymmetric: bool) -> None:
    assert stub.GetModel(pb.GetModelRequest(), timeout=20).model.asymmetric is asymmetric


def test_an_unknown_role_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        embed(stub, new_words("red"), role=9)
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE")
