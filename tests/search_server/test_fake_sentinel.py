"""`sentinel_client.testing.FakeSentinel` is like a gateway: both get the same calls.

Each test makes its calls on the fake and on a real gateway with Milvus Lite and the real default
model, and compares the outcomes: results, and codes, reasons, fields and metadata of errors. What
depends on the model is left out: scores of texts and images, its name, durations.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from sentinel_client import (
    Collection,
    CollectionOptions,
    Diversity,
    F,
    GroupBy,
    Hybrid,
    ImageUri,
    IndexType,
    Item,
    Q,
    Role,
    SentinelClient,
    VectorIndex,
)
from tests import photos, secure
from tests.search_server.fake_bad_calls import BAD, RAW
from tests.search_server.fake_pair import (
    SCHEMA,
    Call,
    Pair,
    new_name,
    plain,
    search,
    stored,
)

# Reads that find something

SEARCHES: dict[str, Call] = {
    "plain": search(),
    "one": search(limit=1),
    "all": search(limit=10_000),
    "fields": search(output_fields=["year", "tags"]),
    "vectors": search(include_vectors=True, limit=3),
    "thumbnails": search(item_id="copy", include_thumbnails=True, limit=100),
    "min_score": search(min_score=0.05),
    "like an item": search(item_id="item 03"),
    "index_params": search(index_params={"ef": 300, "nprobe": 3}),
    "without duplicates": search(item_id="item 09", diversity=Diversity(duplicate_threshold=0.9)),
    "different": search(diversity=Diversity(mmr_lambda=0.3), limit=20),
    "both": search(diversity=Diversity(duplicate_threshold=0.9, mmr_lambda=0.7), limit=20),
    "groups": search(group_by=GroupBy("year")),
    "groups of two": search(group_by=GroupBy("title", size=2), limit=40),
    "different groups": search(
        group_by=GroupBy("public", size=3), diversity=Diversity(mmr_lambda=0.5)
    ),
    "words": search(hybrid=Hybrid(text="rocket", vector_weight=0)),
    "words of all": search(hybrid=Hybrid(text="Dog NIGHT", vector_weight=0), limit=50),
    "words and vector": search(hybrid=Hybrid(text="rocket", rrf_k=10, text_weight=2), limit=50),
    "no words": search(hybrid=Hybrid(text="zebra"), limit=5),
    "sum": lambda client, pair: client.search(
        Q(item_id="item 01") + 0.5 * Q(vector=pair.vector(2)) - Q(item_id="item 03"),
        collection=pair.collection,
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_same_hits(pair: Pair, name: str) -> None:
    assert pair.same(SEARCHES[name])["hits"]


READS: dict[str, Call] = {
    "stream": lambda client, pair: client.stream_search(
        vector=pair.vector(3), collection=pair.collection, limit=30, chunk_size=7
    ),
    "pages": lambda client, pair: client.pages(
        vector=pair.vector(3), collection=pair.collection, page_size=7
    ),
    "pages of groups": lambda client, pair: client.pages(
        vector=pair.vector(3), collection=pair.collection, page_size=4, group_by=GroupBy("year")
    ),
    "pages of different hits": lambda client, pair: client.pages(
        vector=pair.vector(3),
        collection=pair.collection,
        page_size=7,
        diversity=Diversity(mmr_lambda=0.4),
    ),
    "batch": lambda client, pair: client.batch_search(
        [Q(vector=pair.vector(1)), Q(item_id="nobody"), Q(" "), Q(item_id="item 04")],
        collection=pair.collection,
        limit=3,
    ),
    "items": lambda client, pair: client.get_items(
        ["picture", "nobody", "text", "item 00", "text"],
        collection=pair.collection,
        include_thumbnails=True,
        include_vectors=True,
    ),
    "some fields": lambda client, pair: client.get_items(
        ["item 00"], collection=pair.collection, output_fields=["title"]
    ),
    "list": lambda client, pair: client.list_items(collection=pair.collection, page_size=10),
    "image": lambda client, pair: client.download_image("picture", collection=pair.collection),
    "collection": lambda client, pair: client.get_collection(pair.collection),
    "count": lambda client, pair: client.preview_deletion(pair.collection, filter=F("year") > 2003),
    "count all": lambda client, pair: client.preview_deletion(pair.collection),
    "health": lambda client, pair: client.health(),
    "unknown health": lambda client, pair: client.health(services=["nobody"]),
    "no items": lambda client, pair: client.get_items([], collection=pair.collection),
}


@pytest.mark.parametrize("name", READS)
def test_reads_return_the_same(pair: Pair, name: str) -> None:
    assert not isinstance(pair.same(READS[name]), tuple)  # an error


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_fail_for_the_same_reason(pair: Pair, name: str) -> None:
    reason, call = BAD[name]
    told = pair.same(call)
    assert isinstance(told, tuple)
    assert told[2] == reason


@pytest.mark.parametrize("name", RAW)
def test_bad_requests_fail_for_the_same_reason(pair: Pair, name: str) -> None:
    reason, call = RAW[name]
    told = pair.same(call)
    assert isinstance(told, tuple)
    assert told[2] == reason


BAD_ITEMS = [
    ("CONTENT_MISSING", Item(id="x")),
    ("TEXT_EMPTY", Item(text=" ")),
    ("IMAGE_EMPTY", Item(image=b"")),
    ("IMAGE_FORMAT_UNSUPPORTED", Item(image=b"no image at all")),
    ("URI_FORBIDDEN", Item(image=ImageUri("file:///etc/passwd"))),
    ("FIELD_UNKNOWN", Item(text="x", fields={"yaer": 1})),
    ("FIELD_TYPE", Item(text="x", fields={"year": "2001"})),
    ("FIELD_TYPE", Item(text="x", fields={"public": 1})),
    ("FIELD_TYPE", Item(text="x", fields={"ratio": math.inf})),
    ("PARAMETER_OUT_OF_RANGE", Item(text="x", fields={"title": "y" * 60_000})),
    ("NAME_INVALID", Item(id="x" * 257, text="x")),
    ("NAME_INVALID", Item(id="a\nb", text="x")),
    ("VECTOR_DIMENSIONS", Item(text="x", vector=np.ones(3, np.float32))),
    ("TEXT_TOO_LONG", Item(text="x" * 60_001)),
]


def test_bad_items_fail_alone_and_for_the_same_reason(fresh: Pair) -> None:
    given = [*(item for _, item in BAD_ITEMS), Item(text="good")]
    results = fresh.same(stored(*given))
    assert [one["error"] and one["error"][2] for one in results] == [
        *(reason for reason, _ in BAD_ITEMS),
        None,
    ]
    acks = fresh.same(
        lambda client, pair: sorted(
            (given.index(item), plain(error))
            for ack in client.ingest(given, collection=pair.collection)
            for item, error in ack.failed_items
        )
    )
    # An ingest sends batches as small as it likes, so paths of fields differ from an upsert's.
    assert [error[2] for _, error in acks] == [reason for reason, _ in BAD_ITEMS]


# Calls that change something


def test_items_are_stored_changed_and_deleted_alike(fresh: Pair) -> None:
    picture = photos.photo("coffee").read_bytes()
    first = [
        Item(text="a dog on the beach"),
        Item(id="2", text="a city at night", fields={"year": 2001, "ratio": 3}),
        Item(id="3", image=picture, fields={"title": "coffee"}),
        Item(id="4", vector=fresh.vector(4)),
        Item(id="2", text="the last of two", fields={"year": 2002}),
    ]
    broken = Item(id="2", image=b"no image at all")
    outcomes = [
        [one["outcome"] for one in fresh.same(stored(*given))]
        for given in (
            first,
            first,
            [Item(id="3", image=picture, fields={"title": "a cup"})],
            [Item(id="4", text="now a text")],
            [Item(id="2", text="not the last"), broken],
        )
    ]
    assert outcomes == [
        ["STORED"] * 5,
        ["UNCHANGED"] * 5,
        ["STORED"],
        ["STORED"],
        ["FAILED"] * 2,
    ]
    everything = READS["list"]
    assert len(fresh.same(everything)) == 4
    deletions = [
        {"ids": ["4", "nobody", "4"]},
        {"filter": F("year") >= 2002, "dry_run": True},
        {"filter": F("year") >= 2002},
        {"filter": F("year") >= 2002},
    ]
    deleted = [
        fresh.same(
            lambda client, pair, given=given: client.delete_items(  # type: ignore[misc]
                collection=pair.collection, **given
            )
        )
        for given in deletions
    ]
    assert deleted == [1, 1, 1, 0]
    assert len(fresh.same(everything)) == 2


def test_an_ingest_acknowledges_the_same(fresh: Pair) -> None:
    given = [Item(id=f"{number:03}", vector=fresh.vector(number)) for number in range(150)]

    def totals(client: SentinelClient, pair: Pair) -> Any:
        acks = list(client.ingest(given, collection=pair.collection))
        counts = [
            sum(getattr(one, f"{name}_count") for one in acks) for name in ("stored", "unchanged")
        ]
        return counts, sorted(digest for ack in acks for digest in ack.digests)

    assert fresh.same(totals)[0] == [150, 0]
    assert fresh.same(totals)[0] == [0, 150]
    assert len(fresh.same(READS["list"])) == 150


def test_long_texts_are_reported_alike(fresh: Pair) -> None:
    def results(client: SentinelClient, pair: Pair) -> Any:
        items = [Item(text="word " * 1000), Item(text="short")]
        stored = client.upsert(items, collection=pair.collection)
        more = [Item(text="words " * 1000), Item(text="shorter")]
        acks = client.ingest(more, collection=pair.collection)
        return [one.truncated for one in stored], sum(ack.truncated_count for ack in acks)

    assert fresh.same(results) == [[True, False], 1]


def test_pages_stay_the_same_while_items_come_and_go(fresh: Pair) -> None:
    fresh.same(stored(*(Item(id=str(at), vector=fresh.vector(at)) for at in range(30))))

    def ranks(client: SentinelClient, pair: Pair) -> Any:
        pages = client.pages(vector=pair.vector(99), collection=pair.collection, page_size=10)
        first = next(iter(pages))
        near = Item(id="new", vector=pair.vector(99))
        client.upsert([near], collection=pair.collection)
        client.delete_items([first.hits[0].id], collection=pair.collection)
        rest = [hit for page in pages for hit in page]
        client.delete_items(["new"], collection=pair.collection)
        client.upsert(
            [Item(id=first.hits[0].id, vector=first_vector(pair, first.hits[0].id))],
            collection=pair.collection,
        )
        return [*first.hits, *rest]

    hits = fresh.same(ranks)
    assert len({one["id"] for one in hits}) == 30


def first_vector(pair: Pair, item_id: str) -> Any:
    return pair.vector(int(item_id))


def test_collections_are_created_and_described_alike(pair: Pair) -> None:
    for given in (
        CollectionOptions(),
        CollectionOptions(index=VectorIndex(IndexType.HNSW, {"M": 8})),
        CollectionOptions(index=VectorIndex(IndexType.AUTOINDEX), expected_item_count=5),
        CollectionOptions(index=VectorIndex(IndexType.IVF_FLAT)),
    ):
        name = new_name()
        made = pair.same(
            lambda client, _, name=name, given=given: client.create_collection(  # type: ignore[misc]
                name, SCHEMA, **given
            )
        )
        assert made["fields"] == plain(SCHEMA)
        pair.same(lambda client, _, name=name: client.delete_collection(name))  # type: ignore[misc]


def test_aliases_and_deletions_go_alike(fresh: Pair) -> None:
    alias, other = new_name(), new_name()
    steps: list[Call] = [
        lambda client, pair: client.set_alias(alias, pair.collection),
        lambda client, pair: client.get_collection(alias),
        lambda client, pair: client.search(vector=pair.vector(1), collection=alias),
        lambda client, pair: client.upsert([Item(id="1", text="x")], collection=alias),
        lambda client, pair: client.set_alias(other, alias),
        lambda client, pair: client.create_collection(alias),
        lambda client, pair: client.delete_collection(alias),
        lambda client, pair: client.delete_collection(pair.collection),
        lambda client, pair: client.preview_deletion(pair.collection),
        lambda client, pair: client.delete_alias(alias),
        lambda client, pair: client.delete_alias(alias),
        lambda client, pair: client.get_collection(pair.collection),
        lambda client, pair: client.delete_collection(
            pair.collection,
            confirmation_token=client.preview_deletion(pair.collection).confirmation_token,
        ),
        lambda client, pair: client.get_collection(pair.collection),
    ]
    told = [fresh.same(step) for step in steps]
    assert [one[2] for one in told if isinstance(one, tuple)] == [
        "COLLECTION_ALIASED",
        "COLLECTION_EXISTS",
        "COLLECTION_ALIASED",
        "COLLECTION_ALIASED",
        "COLLECTION_ALIASED",
        "COLLECTION_NOT_FOUND",
    ]


def test_a_confirmation_is_of_one_collection(fresh: Pair) -> None:
    def recreated(client: SentinelClient, pair: Pair) -> Any:
        token = client.preview_deletion(pair.collection).confirmation_token
        client.delete_collection(pair.collection)
        client.create_collection(pair.collection)
        return client.delete_collection(pair.collection, confirmation_token=token)

    assert fresh.same(recreated)[2] == "CONFIRMATION_OUTDATED"


def test_all_collections_are_listed_alike(fresh: Pair) -> None:
    def ours(client: SentinelClient, pair: Pair) -> list[Collection]:
        return [one for one in client.list_collections() if one.name == pair.collection]

    assert len(fresh.same(ours)) == 1


# What depends on the model: only what every model does


def test_a_text_is_found_by_its_own_words(fresh: Pair) -> None:
    texts = ["a dog on the beach", "the city at night", "a rocket"]
    fresh.same(stored(*(Item(id=text, text=text) for text in texts)))
    for text in texts:
        first = fresh.same(
            lambda client, pair, text=text: client.search(  # type: ignore[misc]
                text, collection=pair.collection, limit=1
            )
        )
        assert first["hits"][0]["id"] == text
        assert first["hits"][0]["score"] == 1


def test_an_image_is_found_by_itself(fresh: Pair) -> None:
    paths = [photos.photo("coffee"), photos.photo("chelsea")]
    fresh.same(stored(*(Item(id=path.stem, image=path) for path in paths)))
    for path in paths:
        first = fresh.same(
            lambda client, pair, path=path: client.search(  # type: ignore[misc]
                image=path, collection=pair.collection, limit=1
            )
        )
        assert first["hits"][0]["id"] == path.stem


def test_embeddings_have_the_same_form(pair: Pair) -> None:
    contents = [
        "a dog",
        Q(image=photos.photo("coffee")),
        " ",
        Q(image=b"no image at all"),
        Q("a cup", image=photos.photo("coffee")),
        Q(" ", image=photos.photo("coffee")),
    ]

    def form(client: SentinelClient, _: Pair) -> Any:
        found = client.embed_many(contents, thumbnail_side=64)
        return [
            (
                one.vector is not None and round(float(np.linalg.norm(one.vector)), 3),
                None if one.error is None else plain(one.error),
                one.media_type,
                bool(one.thumbnail),
                one.truncated,
            )
            for one in found
        ]

    assert [one[0] for one in pair.same(form)] == [1, 1, False, False, False, False]
    pair.same(lambda client, _: client.embed(["a", "b", "a"]).shape)
    pair.same(lambda client, _: client.embed("a").shape)


def test_a_symmetric_model_ignores_roles(pair: Pair) -> None:
    def agree(client: SentinelClient, _: Pair) -> Any:
        query, document = (client.embed("a dog", role=role) for role in Role)
        ranked = [
            client.rank("a dog", ["a dog", "a cat"], query_role=one, candidates_role=other)
            for one, other in product(Role, Role)
        ]
        # Batches of several sizes differ by rounding.
        firsts = {(places[0].index, round(places[0].cosine, 4)) for places in ranked}
        return bool(np.array_equal(query, document)), sorted(firsts)

    assert pair.same(agree) == [True, [[0, 1.0]]]


def test_rankings_have_the_same_form(pair: Pair) -> None:
    candidates = ["a text", "a dog", " ", Q(image=b"no image at all")]

    def form(client: SentinelClient, _: Pair) -> Any:
        ranked = client.rank("a dog", candidates)
        first, total = ranked[0], sum(one.probability for one in ranked)
        errors = [(one.index, plain(one.error)) for one in ranked if one.error is not None]
        return first.index, round(first.cosine, 3), round(total, 3), errors

    assert pair.same(form)[:3] == [1, 1, 1]


def test_the_model_and_the_caller_are_described_alike(pair: Pair) -> None:
    pair.same(
        lambda client, _: [
            getattr(client.get_model(), name)
            for name in (
                "dimensions",
                "embeds_texts",
                "embeds_images",
                "max_contents",
                "asymmetric",
                "embeds_image_with_text",
            )
        ]
    )
    if not secure.is_on():
        pair.same(lambda client, _: client.get_caller())
