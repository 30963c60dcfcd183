"""An image with a text through a gateway: embedded, searched with, ranked, and never stored."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from search_server.api.admission import cost_of
from search_server.types.queries import Query, SearchSpec, Term
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from sentinel_store.items import Content, Kind
from tests import photos, processes
from tests.search_server.api.test_embedding import (
    Stub,
    embed,
    field_of,
    refusal_of,
    stub_of,
    without_times,
    words,
)
from tests.search_server.conftest import Gateway, connect, image, reason_of
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at


@pytest.fixture(scope="module", params=[True, False], ids=["able", "unable"])
def able(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def servers(
    able: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[processes.Server, processes.Server]]:
    folder = tmp_path_factory.mktemp("both")
    environment = {"FAKE_IMAGE_WITH_TEXT": "1"} if able else {}
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


def both(text: str) -> content_pb2.Content:
    content = image(photos.photo("coffee").read_bytes())
    content.image.text = text
    return content


def test_the_answer_is_the_workers_own(worker: Stub, stub: Stub, able: bool) -> None:
    ours, theirs = (without_times(embed(one, both("at night"))) for one in (stub, worker))
    assert ours == theirs
    assert ours.results[0].HasField("vector") is able
    if not able:
        assert reason_of(ours.results[0].error) == "MODALITY_UNSUPPORTED"
        assert field_of(ours.results[0].error) == "contents[0].image.text"


def test_a_search_with_both_finds_what_is_near_the_vector(
    worker: Stub, gateway: Gateway, able: bool
) -> None:
    name = gateway.create()
    gateway.upsert(name, caption("at night"), caption("at noon"))
    query = search_service_pb2.Query(content=both("at night"))
    if not able:
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits(name, query)
        assert refusal_of(caught.value) == (
            "INVALID_ARGUMENT",
            "MODALITY_UNSUPPORTED",
            "params.query.content.image.text",
        )
        return
    first = gateway.hits(name, query, include_vectors=True)[0]
    assert first.text == "at night"
    [result] = embed(worker, both("at night"), role=pb.ROLE_QUERY).results
    expected = np.frombuffer(result.vector.data, "<f4") @ np.frombuffer(first.vector.data, "<f4")
    assert first.score == pytest.approx(float(expected), abs=1e-5)


def test_a_ranking_names_the_text(stub: Stub, able: bool) -> None:
    request = pb.RankRequest(query=words("at night"), candidates=[both("at night"), both(" ")])
    answer = stub.Rank(request, timeout=20)
    errors = {one.index: one.error for one in answer.candidates if one.HasField("error")}
    assert set(errors) == ({1} if able else {0, 1})
    assert reason_of(errors[1]) == "TEXT_EMPTY"
    assert field_of(errors[1]) == "candidates[1].image.text"


def test_an_item_is_never_both(gateway: Gateway) -> None:
    name = gateway.create()
    good, bad = caption("fine"), item_service_pb2.Item(content=both("at night"))
    stored, refused = gateway.upsert(name, good, bad)
    assert stored.outcome == item_service_pb2.ItemResult.OUTCOME_STORED
    assert reason_of(refused.error) == "MODALITY_UNSUPPORTED"
    assert field_of(refused.error) == "items[1].content.image.text"
    assert "keep the text in a field" in refused.error.message


def test_both_cost_a_search_the_characters_of_the_text() -> None:
    content = Content(Kind.IMAGE, b"pixels", beside="in blue")
    spec = SearchSpec("c", Query((Term(content=content),)))
    assert cost_of(spec) == {"searches": 1, "characters": 7}
