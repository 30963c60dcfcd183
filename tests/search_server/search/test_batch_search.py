"""Many searches in one call: as good as each by itself, cheaper, and each failing alone."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache
from search_server.milvus.search_store import SearchStore
from search_server.search.query_vectors import QueryVector, QueryVectors
from search_server.types.queries import Query as SearchQuery
from search_server.types.queries import Term
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2, item_service_pb2, search_service_pb2
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import ModelRef
from tests import photos, processes
from tests.processes import metric
from tests.search_server.api.test_bad_input import GOOD, NAN, compare, vector
from tests.search_server.conftest import (
    Gateway,
    connect,
    error_info,
    image,
    photo_item,
    reason_of,
    string,
    text,
)
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at
from tests.search_server.image_uris.test_fetching import fetching
from tests.search_server.search.test_queries import composite, words

Params = search_service_pb2.SearchParams
Request = search_service_pb2.SearchPageRequest
Query = search_service_pb2.Query
Page = search_service_pb2.SearchPageResponse
Diversity = search_service_pb2.DiversityParams
Group = search_service_pb2.GroupParams
Result = search_service_pb2.BatchSearchResult


def asked(collection: str, query: Query, size: int = 5, token: str = "", **more: object) -> Request:
    params = Params(collection=collection, query=query, **more)  # type: ignore[arg-type]
    return Request(params=params, page_size=size, page_token=token)


def batch(gateway: Gateway, *searches: Request) -> list[Result]:
    request = search_service_pb2.BatchSearchRequest(searches=searches)
    return list(gateway.search.BatchSearch(request, timeout=30).results)


def ranking(page: Page) -> list[tuple[str, int, float]]:
    return [(hit.id, hit.rank, round(hit.score, 4)) for hit in page.hits]


def several(album: str, cat: str) -> list[Request]:
    """Searches of every kind, some of them alike but for their query."""
    picture = Query(content=image(photos.photo("coffee").read_bytes()))
    named = compare("path", string("rocket.jpg"), string("coffee.png"), operator=7)
    return [
        asked(album, text("a cat")),
        asked(album, text("a rocket")),
        asked(album, picture),
        asked(album, Query(item_id=cat)),
        asked(album, Query(vector=vector(GOOD))),
        asked(album, composite(words("a cat"), words("a cup", -0.5))),
        asked(album, text("a flower"), size=3),
        asked(album, text("a flower"), filter=named),
        asked(album, text("a rocket"), filter=named, include_vectors=True),
        asked(album, text("a flower"), include_thumbnails=True),
        asked(album, text("a cat"), min_score=0.999),
        asked(album, text("a cat"), size=1_000),
        asked(album, text("a cat"), diversity=Diversity(mmr_lambda=0.3)),
        asked(album, text("a cup"), diversity=Diversity(mmr_lambda=0.3)),
        asked(album, text("a cat"), group=Group(field="path")),
        asked(album, text("a cat"), consistency=search_service_pb2.CONSISTENCY_STRONG),
    ]


def test_a_batch_answers_what_each_search_would(gateway: Gateway, album: str) -> None:
    cat = gateway.hits(album, text("a cat"), limit=1)[0].id
    searches = several(album, cat)
    results = batch(gateway, *searches)
    assert len(results) == len(searches)
    for search, result in zip(searches, results, strict=True):
        alone = gateway.search.SearchPage(search, timeout=20)
        assert ranking(result.page) == ranking(alone)
        assert bool(result.page.next_page_token) == bool(alone.next_page_token)
        assert result.page.summary.hit_count == len(alone.hits)
    assert results[8].page.hits[0].vector.dimensions == 384
    assert results[9].page.hits[0].thumbnail


def test_pages_go_on_within_batches_and_outside(gateway: Gateway, album: str) -> None:
    whole = [hit.id for hit in gateway.hits(album, text("a cat"), limit=9)]
    [first, other] = batch(gateway, asked(album, text("a cat"), 3), asked(album, text("a cup"), 3))
    [second, _] = batch(
        gateway,
        asked(album, text("a cat"), 3, first.page.next_page_token),
        asked(album, text("a cup"), 3, other.page.next_page_token),
    )
    third = gateway.search.SearchPage(
        asked(album, text("a cat"), 3, second.page.next_page_token), timeout=20
    )
    hits = [*first.page.hits, *second.page.hits, *third.hits]
    assert [hit.id for hit in hits] == whole
    assert [hit.rank for hit in hits] == list(range(1, 10))


def test_each_search_gets_the_fields_it_asked_for(gateway: Gateway) -> None:
    """Though they find the same rows."""
    name = gateway.create()
    item = photo_item("chelsea")
    item.fields["year"].int_value = 1999
    gateway.upsert(name, item)
    results = batch(
        gateway,
        asked(name, text("a cat"), output_fields=["year"]),
        asked(name, text("a dog"), output_fields=["path"]),
        asked(name, text("a bird")),
    )
    fields = [set(result.page.hits[0].fields) for result in results]
    assert fields == [{"year"}, {"path"}, {"year", "path"}]


def test_equal_searches_are_one_embed_call_and_one_milvus_search(
    gateway: Gateway, gateway_process: processes.Server, worker: processes.Server, album: str
) -> None:
    def counts() -> tuple[float, float]:
        return (
            metric(
                worker.metrics_address,
                "sentinel_embedder_request_duration_seconds_count",
                method="/sentinel.embedding.v1.EmbeddingService/Embed",
            ),
            metric(
                gateway_process.metrics_address,
                "sentinel_gateway_stage_duration_seconds_count",
                stage="milvus_search",
            ),
        )

    run = uuid.uuid4().hex[:8]  # texts that nobody has asked for, also when the test runs again
    embeds, searches = counts()
    results = batch(
        gateway, *(asked(album, text(f"photo {run} of number {n}"), 15) for n in range(64))
    )
    assert {len(result.page.hits) for result in results} == {15}
    assert counts() == (embeds + 1, searches + 1)
    # Another page size is another Milvus search; the texts are known by now.
    batch(gateway, *(asked(album, text(f"photo {run} of number {n}"), 5 + n % 2) for n in range(8)))
    assert counts() == (embeds + 1, searches + 3)
    # So do items that look for others like them, though each leaves itself out.
    ids = [hit.id for hit in gateway.hits(album, text("a cat"), limit=8)]
    embeds, searches = counts()
    results = batch(gateway, *(asked(album, Query(item_id=item_id), 5) for item_id in ids))
    assert counts() == (embeds, searches + 1)
    for item_id, result in zip(ids, results, strict=True):
        assert item_id not in [hit.id for hit in result.page.hits]
        assert len(result.page.hits) == 5


BAD: dict[str, tuple[Request, str, str]] = {
    "no query": (asked("album", Query()), "INVALID_ARGUMENT", "QUERY_MISSING"),
    "no params": (Request(), "INVALID_ARGUMENT", "QUERY_MISSING"),
    "blank text": (asked("album", text(" ")), "INVALID_ARGUMENT", "TEXT_EMPTY"),
    "too long a text": (asked("album", text("x" * 500_000)), "INVALID_ARGUMENT", "TEXT_TOO_LONG"),
    "no picture": (
        asked("album", Query(content=image(b"%PDF"))),
        "INVALID_ARGUMENT",
        "IMAGE_FORMAT_UNSUPPORTED",
    ),
    "a forbidden URI": (
        asked(
            "album",
            Query(content=content_pb2.Content(image=content_pb2.Image(uri="http://10.0.0.1/"))),
        ),
        "PERMISSION_DENIED",
        "URI_FORBIDDEN",
    ),
    "a NaN vector": (
        asked("album", Query(vector=vector(NAN))), "INVALID_ARGUMENT", "VECTOR_INVALID",
    ),
    "an unknown item": (asked("album", Query(item_id="nope")), "NOT_FOUND", "ITEM_NOT_FOUND"),
    "an unknown collection": (asked("nope", text("a cat")), "NOT_FOUND", "COLLECTION_NOT_FOUND"),
    "an unknown field": (
        asked("album", text("a cat"), output_fields=["nope"]),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "an unknown field in a filter": (
        asked("album", text("a cat"), filter=compare("nope", string("x"))),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "an unknown field to group by": (
        asked("album", text("a cat"), group=Group(field="nope")),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "an unknown index parameter": (
        asked("album", text("a cat"), index_params={"nope": 1}),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "terms that cancel out": (
        asked("album", composite(words("a cat"), words("a cat", -1))),
        "INVALID_ARGUMENT",
        "QUERY_CANCELS_OUT",
    ),
    "a negative page size": (
        asked("album", text("a cat"), -1), "INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE",
    ),
    "a damaged token": (
        asked("album", text("a cat"), token="nonsense"), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID",
    ),
}  # fmt: skip


def test_a_bad_search_fails_alone(gateway: Gateway, album: str) -> None:
    """All of them in one batch, each between two good neighbours."""
    searches, good = [], asked(album, text("a cat"))
    for bad, _, _ in BAD.values():
        request = Request()
        request.CopyFrom(bad)
        if request.params.collection == "album":
            request.params.collection = album
        searches += [good, request]
    results = batch(gateway, *searches)
    expected = ranking(gateway.search.SearchPage(good, timeout=20))
    assert all(ranking(result.page) == expected for result in results[::2])
    failures = {
        name: (grpc_code(result), reason_of(result.error))
        for name, result in zip(BAD, results[1::2], strict=True)
    }
    assert failures == {name: (code, reason) for name, (_, code, reason) in BAD.items()}


def grpc_code(result: Result) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == result.error.code)


def test_a_bad_search_is_told_by_its_path(gateway: Gateway, album: str) -> None:
    bad = asked(album, composite(words("a cat"), words("")))
    [_, result] = batch(gateway, asked(album, text("a cat")), bad)
    path = "searches[1].params.query.composite.terms[1].content.text"
    assert path in result.error.details[0].value.decode(errors="replace")


@pytest.mark.parametrize(("count", "reason"), [(0, "BATCH_EMPTY"), (65, "BATCH_TOO_LARGE")])
def test_a_batch_has_1_to_64_searches(
    gateway: Gateway, album: str, count: int, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        batch(gateway, *[asked(album, text("a cat"))] * count)
    assert error_info(caught.value) == ("INVALID_ARGUMENT", reason)


def test_more_texts_than_a_worker_takes_at_once_are_split(tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "w", FAKE, "--max-contents-per-request", "4") as worker,
        gateway_at(tmp_path, worker.address) as server,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        texts = [f"{colour} {n}" for n in range(4) for colour in ("red", "lime", "blue")]
        for start in range(0, len(texts), 4):
            gateway.upsert(name, *map(caption, texts[start : start + 4]))

        def calls() -> float:
            return metric(
                worker.metrics_address,
                "sentinel_embedder_request_duration_seconds_count",
                method="/sentinel.embedding.v1.EmbeddingService/Embed",
                code="OK",
            )

        before = calls()
        results = batch(gateway, *(asked(name, text(words_), 1) for words_ in texts))
        assert [result.page.hits[0].text for result in results] == texts
        assert calls() == before + 3


def test_without_a_worker_only_what_needs_one_fails(tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "w", FAKE) as worker,
        gateway_at(tmp_path, worker.address) as server,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        red = gateway.upsert(name, caption("red"), caption("blue"))[0].id
        gateway.hits(name, text("red"))
        worker.kill()
        results = batch(
            gateway,
            asked(name, text("lime")),
            asked(name, Query(item_id=red)),
            asked(name, text("red")),  # known by now
            asked(name, composite(words("lime"), words("red"))),
        )
    outcomes = [result.WhichOneof("outcome") for result in results]
    assert outcomes == ["error", "page", "page", "error"]
    assert [hit.text for hit in results[1].page.hits] == ["blue"]
    assert results[2].page.summary.embed_cached


def test_collections_and_models_may_be_mixed(tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "w1", FAKE, environment={"FAKE_NAME": "one"}) as one,
        processes.running(tmp_path / "w2", FAKE, environment={"FAKE_NAME": "two"}) as two,
        gateway_at(tmp_path, one.address, two.address) as server,
    ):
        gateway = connect(server.address)
        names = []
        for model in ("one", "two"):
            name = f"of_{model}"
            collection = collection_service_pb2.Collection(name=name)
            collection.model_version.model = model
            gateway.collections.CreateCollection(
                collection_service_pb2.CreateCollectionRequest(collection=collection), timeout=20
            )
            gateway.upsert(name, item_service_pb2.Item(id=model, content=caption("red").content))
            names.append(name)
        results = batch(gateway, *(asked(name, text("red")) for name in [*names, *names]))
    assert [result.page.hits[0].id for result in results] == ["one", "two", "one", "two"]


async def test_the_items_of_all_queries_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read for each collection, however many queries and terms name items."""
    store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
    metrics = ServerMetrics("gateway", CollectorRegistry())
    infos = [CollectionInfo(name, ModelRef("m", "r", "f"), 4, {}) for name in ("one", "two")]
    deadline = Deadline.after(None, default_s=50.0)
    directions = np.eye(4, dtype=np.float32)
    for info in infos:
        await store.create_collection(info, deadline)
        rows = [Row(str(n), "", "", "", {}, directions[n]) for n in range(4)]
        await store.upsert(info, rows, deadline)
    reads = []
    read = store.get

    async def noted(info: CollectionInfo, *arguments: Any, **options: Any) -> list[Row]:
        reads.append(info.name)
        return await read(info, *arguments, **options)

    monkeypatch.setattr(store, "get", noted)
    async with fetching() as fetcher:
        cache = QueryCache(EmbedderPool([], 1024 * 1024, metrics), 0, metrics)
        terms = (Term(item_id="0"), Term(item_id="1", weight=-1.0))
        asked_ = [
            (query, info)
            for info in infos
            for query in (SearchQuery((Term(item_id="3"),)), SearchQuery(terms, is_composite=True))
        ]
        found = await QueryVectors(cache, fetcher, store, metrics, lambda _: None).find(
            asked_, deadline
        )
    assert sorted(reads) == ["one", "two"]
    vectors = [one.vector for one in found if isinstance(one, QueryVector)]
    expected = [directions[3], (directions[0] - directions[1]) / np.sqrt(2)] * 2
    np.testing.assert_allclose(vectors, expected, atol=1e-7)
    await store.close()
