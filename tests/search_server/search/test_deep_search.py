"""Deep results over gRPC: streams that go far beyond a page, and messages that stay small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests import processes, secure
from tests.search_server.conftest import MAX_RESPONSE_BYTES, Gateway, connect, string
from tests.waiting import until

pytestmark = pytest.mark.slow  # thousands of rows
ITEMS, DIMENSIONS = 10_200, 384


def vector_of(values: npt.NDArray[np.float32]) -> content_pb2.Vector:
    return content_pb2.Vector(data=values.astype("<f4").tobytes(), dimensions=DIMENSIONS)


def query_of(values: npt.NDArray[np.float32]) -> search_service_pb2.Query:
    return search_service_pb2.Query(vector=vector_of(values))


class Deep:
    """A collection of 10,200 bare vectors, and the cosines that NumPy computes."""

    def __init__(self, gateway: Gateway) -> None:
        rng = np.random.default_rng(3)
        vectors = rng.normal(size=(ITEMS, DIMENSIONS)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.query = vectors[7]
        self.cosines = dict(enumerate((vectors.astype(np.float64) @ self.query).tolist()))
        self.collection = gateway.create()
        for start in range(0, ITEMS, 256):
            batch = [
                item_service_pb2.Item(id=str(start + place), vector=vector_of(values))
                for place, values in enumerate(vectors[start : start + 256])
            ]
            results = gateway.upsert(self.collection, *batch)
            assert {r.outcome for r in results} == {item_service_pb2.ItemResult.OUTCOME_STORED}

    def request(self, limit: int, **options: object) -> search_service_pb2.SearchRequest:
        params = search_service_pb2.SearchParams(
            collection=self.collection,
            query=query_of(self.query),
            **options,  # type: ignore[arg-type]
        )
        return search_service_pb2.SearchRequest(params=params, limit=limit, chunk_size=100)

    def check(self, hits: list[search_service_pb2.Hit]) -> None:
        best = sorted(self.cosines.values(), reverse=True)[: len(hits)]
        assert len({hit.id for hit in hits}) == len(hits)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [self.cosines[int(hit.id)] for hit in hits] == pytest.approx(best, abs=2e-6)
        assert [hit.score for hit in hits] == pytest.approx(best, abs=2e-6)


@pytest.fixture(scope="module")
def deep(gateway_process: processes.Server) -> Deep:
    return Deep(connect(gateway_process.address))


def row_fetches(server: processes.Server) -> int:
    """How often the gateway has fetched rows of a ranking from Milvus."""
    text = secure.read_metrics(server.metrics_address)
    name = 'sentinel_gateway_stage_duration_seconds_count{stage="milvus_rows"}'
    return next((int(float(x.split()[-1])) for x in text.splitlines() if x.startswith(name)), 0)


def hits_in(events: Iterator[search_service_pb2.SearchResponse]) -> list[search_service_pb2.Hit]:
    return [hit for event in events for hit in event.chunk.hits]


def test_a_stream_of_ten_thousand_is_in_exact_rank_order(
    gateway: Gateway, gateway_process: processes.Server, deep: Deep
) -> None:
    before = row_fetches(gateway_process)
    stream = gateway.search.Search(deep.request(10_000, include_vectors=True), timeout=60)
    first = list(next(stream).chunk.hits)
    # The rest is 15 MB, which do not fit in between: the gateway waits for the reader.
    after_one = row_fetches(gateway_process) - before
    rest = list(stream)
    # In blocks of 500, and a smaller one while nobody knows how large the rows are.
    assert after_one < row_fetches(gateway_process) - before <= 21
    assert rest[-1].summary.hit_count == 10_000
    hits = first + hits_in(iter(rest))
    assert len(hits) == 10_000
    deep.check(hits)


def test_a_client_that_goes_away_stops_the_fetching(
    gateway: Gateway, gateway_process: processes.Server, deep: Deep
) -> None:
    before = row_fetches(gateway_process)
    stream = gateway.search.Search(deep.request(10_000, include_vectors=True), timeout=60)
    next(stream)
    stream.cancel()
    until(lambda: not processes.in_flight(gateway_process), 20)
    assert row_fetches(gateway_process) - before < 20


def test_pages_reach_as_deep_as_the_stream(gateway: Gateway, deep: Deep) -> None:
    request = search_service_pb2.SearchPageRequest(params=deep.request(1).params, page_size=1_000)
    hits: list[search_service_pb2.Hit] = []
    while True:
        page = gateway.search.SearchPage(request, timeout=30)
        hits += page.hits
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert len(hits) == 10_000
    deep.check(hits)


def test_no_message_outgrows_its_limit(gateway: Gateway) -> None:
    """600 items of 110 kB: a page of all of them would be 66 MB."""
    name = gateway.create()
    ids = {f"item{number}" for number in range(600)}
    vectors = np.random.default_rng(5).normal(size=(len(ids), DIMENSIONS)).astype(np.float32)
    items = [
        item_service_pb2.Item(
            id=item_id,
            content=content_pb2.Content(text="é" * 29_000),
            vector=vector_of(values),
            fields={"path": string("x" * 52_000)},
        )
        for item_id, values in zip(sorted(ids), vectors, strict=True)
    ]
    for start in range(0, len(items), 100):
        gateway.upsert(name, *items[start : start + 100])
    params = search_service_pb2.SearchParams(collection=name, query=query_of(vectors[0]))
    request = search_service_pb2.SearchPageRequest(params=params, page_size=1_000)
    found: list[str] = []
    pages = 0
    while True:
        page = gateway.search.SearchPage(request, timeout=30)
        assert page.ByteSize() <= MAX_RESPONSE_BYTES
        found += [hit.id for hit in page.hits]
        pages += 1
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert pages > 10
    assert sorted(found) == sorted(ids)
    whole = search_service_pb2.SearchRequest(params=params, limit=600, chunk_size=600)
    chunks = [e.chunk for e in gateway.search.Search(whole, timeout=30) if e.HasField("chunk")]
    assert [hit.id for chunk in chunks for hit in chunk.hits] == found
    assert max(chunk.ByteSize() for chunk in chunks) <= MAX_RESPONSE_BYTES
