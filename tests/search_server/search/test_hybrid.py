"""Vectors blended with full text, over gRPC: on Milvus Lite it works, the old server refuses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from pymilvus import MilvusClient

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
    filter_pb2,
    item_service_pb2,
    search_service_pb2,
)
from tests import processes
from tests.search_server.conftest import Gateway, connect, error_info, string, text

FieldSchema = collection_service_pb2.FieldSchema
Hit = search_service_pb2.Hit
HybridParams = search_service_pb2.HybridParams
Item = item_service_pb2.Item
Query = search_service_pb2.Query

FIELDS = [
    FieldSchema(name="caption", type=FieldSchema.TYPE_STRING, full_text=True),
    FieldSchema(name="place", type=FieldSchema.TYPE_STRING, full_text=True),
    FieldSchema(name="path", type=FieldSchema.TYPE_STRING),
    FieldSchema(name="year", type=FieldSchema.TYPE_INT64),
]
# The words of the captions have nothing to do with the texts that the vectors are made of.
CAPTIONS = {
    "a red car": "umbrella festival in the rain",
    "a dog on the grass": "zebra crossing, early morning",
    "a cat on a sofa": "market day",
    "a plate of fruit": "umbrella",
    "a rocket": "an umbrella, an umbrella, an umbrella",
    "a boat at sea": "old harbour",
}


def create(gateway: Gateway, model: str = "") -> str:
    collection = collection_service_pb2.Collection(name=f"c_{uuid.uuid4().hex}", fields=FIELDS)
    collection.model_version.model = model
    gateway.collections.CreateCollection(
        collection_service_pb2.CreateCollectionRequest(collection=collection), timeout=20
    )
    return collection.name


def item(content: str, caption: str = "", **fields: filter_pb2.FieldValue) -> Item:
    if caption:
        fields["caption"] = string(caption)
    return Item(id=content, content=content_pb2.Content(text=content), fields=fields)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def by_words(gateway: Gateway, collection: str, words: str, **params: object) -> list[str]:
    """What the full-text ranking alone finds."""
    hybrid = HybridParams(text=words, vector_weight=0)
    return ids(gateway.hits(collection, text("x"), limit=50, hybrid=hybrid, **params))


def is_lite(milvus_uri: str) -> bool:
    return "://" not in milvus_uri


@pytest.fixture(scope="session")
def needs_full_text(milvus_uri: str) -> None:
    if not is_lite(milvus_uri):
        pytest.skip("Milvus 2.3.5 has no full-text search")


@pytest.fixture(scope="session")
def captions(needs_full_text: None, gateway_process: processes.Server) -> str:
    """A collection of captioned texts; tests only read it."""
    gateway = connect(gateway_process.address)
    name = create(gateway)
    gateway.upsert(name, *(item(content, caption) for content, caption in CAPTIONS.items()))
    return name


def test_words_find_what_the_vector_does_not(gateway: Gateway, captions: str) -> None:
    query = text("an animal in the garden")
    plain = gateway.hits(captions, query, limit=6)
    assert plain[0].id == "a dog on the grass"
    assert by_words(gateway, captions, "Zebra!") == ["a dog on the grass"]
    hits = gateway.hits(captions, query, limit=6, hybrid=HybridParams(text="festival"))
    assert hits[0].id == "a red car"
    assert by_words(gateway, captions, "festival") == ["a red car"]
    assert by_words(gateway, captions, "fest") == []  # whole words
    assert by_words(gateway, captions, "?!") == []


def test_how_often_and_how_rare_a_word_is_counts(gateway: Gateway, captions: str) -> None:
    assert by_words(gateway, captions, "umbrella") == ["a plate of fruit", "a rocket", "a red car"]
    assert by_words(gateway, captions, "umbrella harbour")[0] == "a boat at sea"


def test_the_querys_own_text_is_looked_for_when_no_other_is_given(
    gateway: Gateway, captions: str
) -> None:
    own = gateway.hits(captions, text("old harbour"), hybrid=HybridParams(), limit=6)
    given = gateway.hits(
        captions, text("old harbour"), hybrid=HybridParams(text="old harbour"), limit=6
    )
    assert [(hit.id, hit.score) for hit in own] == [(hit.id, hit.score) for hit in given]
    assert own[0].id == "a boat at sea"


@pytest.mark.parametrize(
    ("rrf_k", "vector_weight", "text_weight"), [(0, 1.0, 1.0), (1, 1.0, 0.25), (500, 0.5, 40.0)]
)
def test_a_score_is_the_sum_of_weights_over_ranks(
    gateway: Gateway, captions: str, rrf_k: int, vector_weight: float, text_weight: float
) -> None:
    query = text("a rocket launch")
    near = ids(gateway.hits(captions, query, limit=6))
    worded = by_words(gateway, captions, "umbrella")
    expected: dict[str, float] = {}
    for ranking, weight in ((near, vector_weight), (worded, text_weight)):
        for rank, item_id in enumerate(ranking, 1):
            expected[item_id] = expected.get(item_id, 0.0) + weight / ((rrf_k or 60) + rank)
    hybrid = HybridParams(
        text="umbrella", rrf_k=rrf_k, vector_weight=vector_weight, text_weight=text_weight
    )
    hits = gateway.hits(captions, query, limit=10, hybrid=hybrid)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected)
    assert [(-hit.score, hit.id) for hit in hits] == sorted((-hit.score, hit.id) for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, 7))


def test_a_weight_of_0_leaves_a_ranking_out(gateway: Gateway, captions: str) -> None:
    query = text("a rocket launch")
    vectors_only = HybridParams(text="umbrella", text_weight=0)
    hits = gateway.hits(captions, query, limit=6, hybrid=vectors_only)
    assert ids(hits) == ids(gateway.hits(captions, query, limit=6))
    assert len(by_words(gateway, captions, "umbrella")) == 3


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pages_are_the_stream_cut_in_pieces(gateway: Gateway, captions: str, size: int) -> None:
    params = search_service_pb2.SearchParams(
        collection=captions, query=text("an animal"), hybrid=HybridParams(text="umbrella market")
    )
    whole = gateway.hits(captions, params.query, limit=100, hybrid=params.hybrid)
    assert len(whole) == len(CAPTIONS)
    paged, token = list[Hit](), ""
    while True:
        page = gateway.search.SearchPage(
            search_service_pb2.SearchPageRequest(params=params, page_size=size, page_token=token),
            timeout=20,
        )
        paged += page.hits
        token = page.next_page_token
        if not token:
            break
    assert [(hit.id, hit.rank, hit.score) for hit in paged] == [
        (hit.id, hit.rank, hit.score) for hit in whole
    ]


def test_min_score_bounds_the_vector_ranking_only(gateway: Gateway, captions: str) -> None:
    query = text("a dog on the grass")
    plain = gateway.hits(captions, query, limit=6)
    assert plain[0].id == "a dog on the grass"
    bound = (plain[0].score + plain[1].score) / 2
    hits = gateway.hits(
        captions, query, limit=6, min_score=bound, hybrid=HybridParams(text="harbour")
    )
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {"a dog on the grass": 1 / 61, "a boat at sea": 1 / 61}
    )


def test_a_filter_and_the_query_item_bound_both_rankings(
    gateway: Gateway, needs_full_text: None
) -> None:
    name = create(gateway)
    items = [
        item(f"a dog {n}", "umbrella", year=filter_pb2.FieldValue(int_value=n)) for n in range(6)
    ]
    gateway.upsert(name, *items)
    late = filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="year",
            operator=filter_pb2.Comparison.OPERATOR_GREATER,
            values=[filter_pb2.FieldValue(int_value=2)],
        )
    )
    query = Query(item_id="a dog 4")
    hybrid = HybridParams(text="umbrella")
    hits = gateway.hits(name, query, limit=10, hybrid=hybrid, filter=late)
    assert sorted(ids(hits)) == ["a dog 3", "a dog 5"]
    assert len(gateway.hits(name, query, limit=10, hybrid=hybrid)) == 5
    assert by_words(gateway, name, "umbrella", filter=late) == ["a dog 3", "a dog 4", "a dog 5"]


@pytest.mark.parametrize("flushed", [False, True])
def test_words_follow_upserts_and_deletions(
    gateway: Gateway, needs_full_text: None, flushed: bool
) -> None:
    name = create(gateway)

    def settle() -> None:
        if flushed:
            time.sleep(1.0)  # the gateway flushes half a second after the last write

    gateway.upsert(name, item("a dog", "umbrella"), item("a cat", "umbrella"), item("a bird"))
    settle()
    assert sorted(by_words(gateway, name, "umbrella")) == ["a cat", "a dog"]
    gateway.upsert(name, item("a dog", "market"), item("a bird", "umbrella"))
    settle()
    assert sorted(by_words(gateway, name, "umbrella")) == ["a bird", "a cat"]
    assert by_words(gateway, name, "market") == ["a dog"]
    gateway.upsert(name, item("a dog"))  # without a caption now
    settle()
    assert by_words(gateway, name, "market") == []
    gateway.items.DeleteItems(
        item_service_pb2.DeleteItemsRequest(
            collection=name, ids=item_service_pb2.ItemIds(ids=["a cat"])
        ),
        timeout=20,
    )
    assert by_words(gateway, name, "umbrella") == ["a bird"]


def test_all_full_text_fields_are_searched_and_no_other(
    gateway: Gateway, needs_full_text: None
) -> None:
    name = create(gateway)
    gateway.upsert(
        name,
        item("a dog", "umbrella"),
        item("a cat", place=string("Umbrella Street")),
        item("a bird", path=string("umbrella")),
        item("umbrella"),
    )
    assert sorted(by_words(gateway, name, "umbrella")) == ["a cat", "a dog"]
    hit = gateway.hits(name, text("a cat"), limit=1, hybrid=HybridParams())[0]
    assert dict(hit.fields) == {"place": string("Umbrella Street")}  # no hidden column


def test_a_collection_says_which_fields_are_full_text(gateway: Gateway, captions: str) -> None:
    request = collection_service_pb2.GetCollectionRequest(name=captions)
    collection = gateway.collections.GetCollection(request, timeout=20).collection
    assert {schema.name for schema in collection.fields if schema.full_text} == {"caption", "place"}


@pytest.mark.slow
def test_words_survive_the_crash_of_the_gateway(
    tmp_path: Path, needs_full_text: None, worker: processes.Server
) -> None:
    """Killed right after an answer: some rows are flushed by then, some are not."""
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
    server = processes.start(tmp_path, "search_server", *flags)
    name = create(connect(server.address))
    written: list[str] = []
    for round_ in range(3):
        batch = [item(f"text {round_} {n}", f"umbrella w{round_}") for n in range(4)]
        connect(server.address).upsert(name, *batch)
        written += [one.id for one in batch]
        if round_ == 0:
            time.sleep(1.0)
        server.kill()
        server = processes.start(tmp_path, "search_server", *flags)
        gateway = connect(server.address)
        assert sorted(by_words(gateway, name, "umbrella")) == sorted(written)
        assert sorted(by_words(gateway, name, f"w{round_}")) == sorted(written[-4:])
    server.stop()


def test_words_are_there_after_a_change_of_the_model(tmp_path: Path, needs_full_text: None) -> None:
    fake = "tests.fakes.worker"
    with (
        processes.running(tmp_path / "o", fake, environment={"FAKE_NAME": "old"}) as old,
        processes.running(tmp_path / "n", fake, environment={"FAKE_NAME": "new"}) as new,
    ):
        flags = processes.gateway_flags(
            tmp_path, str(tmp_path / "milvus.db"), old.address, new.address
        )
        with processes.running(tmp_path, "search_server", *flags) as server:
            gateway = connect(server.address)
            name = create(gateway, model="old")
            gateway.upsert(name, item("a dog", "umbrella"), item("a cat", "market"))
            request = collection_service_pb2.ReindexCollectionRequest(source=name, target="after")
            list(gateway.collections.ReindexCollection(request, timeout=50))
            gateway.upsert("after", item("a bird", "umbrella"))
            assert sorted(by_words(gateway, "after", "umbrella")) == ["a bird", "a dog"]


@pytest.fixture
def client(milvus_uri: str) -> Iterator[MilvusClient]:
    """A connection of our own to the server; Milvus Lite has one only, the gateway's."""
    if is_lite(milvus_uri):
        pytest.skip("the gateway holds the file")
    connected = MilvusClient(milvus_uri)
    yield connected
    connected.close()


def test_a_milvus_that_cannot_do_it_says_so(gateway: Gateway, client: MilvusClient) -> None:
    """When a collection is made as when one is searched; no scratch collection stays behind."""
    plain = gateway.create()
    before = set(client.list_collections())
    for call in (
        lambda: create(gateway),
        lambda: gateway.hits(plain, text("a cat"), hybrid=HybridParams()),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_info(caught.value) == ("FAILED_PRECONDITION", "HYBRID_UNSUPPORTED")
    assert set(client.list_collections()) == before


def test_a_collection_without_full_text_says_so(
    gateway: Gateway, album: str, needs_full_text: None
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        gateway.hits(album, text("a cat"), hybrid=HybridParams())
    assert error_info(caught.value) == ("FAILED_PRECONDITION", "FULL_TEXT_MISSING")
    page = gateway.collections.ListCollections(
        collection_service_pb2.ListCollectionsRequest(page_size=1000), timeout=20
    )
    assert not [one.name for one in page.collections if "probe" in one.name]
