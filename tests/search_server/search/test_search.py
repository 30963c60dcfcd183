"""Searching real photos in plain words, over gRPC, on each Milvus."""

from __future__ import annotations

import io
import time
import uuid

import grpc
import numpy as np
import pytest
from PIL import Image

from search_server.api.page_tokens import PageTokens
from search_server.settings import GatewaySettings
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import filter_pb2, search_service_pb2
from tests import photos
from tests.search_server.conftest import (
    PAGE_TOKEN_SECRET,
    Gateway,
    error_info,
    image,
    photo_item,
    string,
    text,
)


def named(name: str) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="path", operator=filter_pb2.Comparison.OPERATOR_EQUAL, values=[string(name)]
        )
    )


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("a cat", "chelsea.png"),
        ("a cup of coffee", "coffee.png"),
        ("motorbike", "motorcycle_left.png"),
        ("a flower", "flower.jpg"),
        ("a rocket launch", "rocket.jpg"),
        ("a temple in china", "china.jpg"),
    ],
)
def test_plain_words_find_the_right_photo_first(
    gateway: Gateway, album: str, words: str, first: str
) -> None:
    hits = gateway.hits(album, text(words))
    assert hits[0].fields["path"].string_value == first
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_photo_finds_itself(gateway: Gateway, album: str) -> None:
    query = search_service_pb2.Query(content=image(photos.photo("chelsea").read_bytes()))
    hits = gateway.hits(album, query)
    assert hits[0].fields["path"].string_value == "chelsea.png"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_more_like_this_leaves_the_item_itself_out(gateway: Gateway, album: str) -> None:
    cat = gateway.hits(album, text("a cat"), limit=1)[0].id
    hits = gateway.hits(album, search_service_pb2.Query(item_id=cat), limit=100)
    assert len(hits) == len(photos.all_photos()) - 1
    assert cat not in {hit.id for hit in hits}


def test_a_vector_finds_its_item(gateway: Gateway, album: str) -> None:
    cat = gateway.hits(album, text("a cat"), limit=1, include_vectors=True)[0]
    query = search_service_pb2.Query(vector=cat.vector)
    assert gateway.hits(album, query, limit=1)[0].id == cat.id
    vector = np.frombuffer(cat.vector.data, "<f4")
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    # Its length does not matter, its direction does.
    scaled = content_pb2.Vector(
        data=(vector * 3e20).astype("<f4").tobytes(), dimensions=len(vector)
    )
    hit = gateway.hits(album, search_service_pb2.Query(vector=scaled), limit=1)[0]
    assert hit.id == cat.id
    assert hit.score == pytest.approx(1.0, abs=1e-5)


def parts(event: search_service_pb2.SearchResponse) -> list[str]:
    return [name for name in ("header", "chunk", "summary") if event.HasField(name)]


def test_the_first_message_has_a_header_the_last_one_a_summary(
    gateway: Gateway, album: str
) -> None:
    request = search_service_pb2.SearchRequest(
        params=search_service_pb2.SearchParams(
            collection=album, query=text(f"a cat that nobody asked for yet {uuid.uuid4().hex}")
        ),
        limit=10,
        chunk_size=4,
    )
    events = list(gateway.search.Search(request, timeout=20))
    assert [parts(event) for event in events] == (
        [["header", "chunk"], ["chunk"], ["chunk", "summary"]]
    )
    assert [len(event.chunk.hits) for event in events] == [4, 4, 2]
    assert events[0].header.collection == album
    assert events[0].header.model_version.model == "conse-minilm-lite0"
    summary = events[-1].summary
    assert summary.hit_count == 10
    stages = (summary.embed, summary.embed_inference, summary.vector_search)
    assert all(stage.ToNanoseconds() > 0 for stage in stages)
    assert summary.total.ToNanoseconds() >= sum(
        stage.ToNanoseconds() for stage in (summary.embed, summary.vector_search)
    )


@pytest.mark.parametrize(
    ("limit", "chunk_size", "shapes"),
    [
        (10, 32, [["header", "chunk", "summary"]]),
        (4, 4, [["header", "chunk", "summary"]]),
        (8, 4, [["header", "chunk"], ["chunk", "summary"]]),
    ],
)
def test_a_short_result_is_one_message(
    gateway: Gateway, album: str, limit: int, chunk_size: int, shapes: list[list[str]]
) -> None:
    params = search_service_pb2.SearchParams(collection=album, query=text("a cat"))
    request = search_service_pb2.SearchRequest(params=params, limit=limit, chunk_size=chunk_size)
    events = list(gateway.search.Search(request, timeout=20))
    assert [parts(event) for event in events] == shapes
    ranks = [hit.rank for event in events for hit in event.chunk.hits]
    assert ranks == list(range(1, limit + 1))
    assert events[-1].summary.hit_count == limit


def test_after_a_full_chunk_below_the_limit_the_summary_comes_alone(
    gateway: Gateway, album: str
) -> None:
    params = search_service_pb2.SearchParams(
        collection=album, query=text("a cat"), filter=named("coffee.png")
    )
    request = search_service_pb2.SearchRequest(params=params, limit=5, chunk_size=1)
    events = list(gateway.search.Search(request, timeout=20))
    assert [parts(event) for event in events] == [["header", "chunk"], ["summary"]]
    assert events[-1].summary.hit_count == 1


def test_a_result_without_hits_is_one_message(gateway: Gateway, album: str) -> None:
    params = search_service_pb2.SearchParams(
        collection=album, query=text("a cat"), filter=named("nobody has this name")
    )
    [event] = gateway.search.Search(search_service_pb2.SearchRequest(params=params), timeout=20)
    assert parts(event) == ["header", "summary"]
    assert event.header.collection == album


def test_hits_carry_what_was_asked_for(gateway: Gateway, album: str) -> None:
    plain = gateway.hits(album, text("a cat"), limit=1)[0]
    assert plain.thumbnail == b""
    assert not plain.HasField("vector")
    assert plain.image_uri.endswith(plain.id)  # the id is the SHA-256 of the bytes
    full = gateway.hits(
        album, text("a cat"), limit=1, include_thumbnails=True, include_vectors=True
    )[0]
    thumbnail = Image.open(io.BytesIO(full.thumbnail))
    assert thumbnail.format == "WEBP"
    assert max(thumbnail.size) == 256
    assert full.vector.dimensions == 384


def test_output_fields_choose_what_comes_back(gateway: Gateway) -> None:
    name = gateway.create()
    item = photo_item("chelsea")
    item.fields["year"].int_value = 2**62 + 1
    gateway.upsert(name, item)
    hit = gateway.hits(name, text("a cat"), output_fields=["year"])[0]
    assert dict(hit.fields) == {"year": filter_pb2.FieldValue(int_value=2**62 + 1)}


def test_a_filter_narrows_the_search(gateway: Gateway, album: str) -> None:
    hits = gateway.hits(album, text("a cat"), filter=named("coffee.png"))
    assert [hit.fields["path"].string_value for hit in hits] == ["coffee.png"]


def test_min_score_cuts_the_tail(gateway: Gateway, album: str) -> None:
    every = gateway.hits(album, text("a cat"), limit=10)
    bound = (every[2].score + every[3].score) / 2
    assert len(gateway.hits(album, text("a cat"), limit=10, min_score=bound)) == 3
    assert gateway.hits(album, text("a cat"), min_score=1.0) == []


def test_pages_are_the_stream_cut_in_pieces(gateway: Gateway, album: str) -> None:
    whole = [(hit.id, hit.rank) for hit in gateway.hits(album, text("a cat"), limit=100)]
    params = search_service_pb2.SearchParams(collection=album, query=text("a cat"))
    paged, token = [], ""
    while True:
        page = gateway.search.SearchPage(
            search_service_pb2.SearchPageRequest(params=params, page_size=7, page_token=token),
            timeout=20,
        )
        paged += [(hit.id, hit.rank) for hit in page.hits]
        token = page.next_page_token
        if not token:
            break
    assert paged == whole


def test_pages_of_equal_scores_lose_and_double_nothing(gateway: Gateway) -> None:
    name = gateway.create()
    twins = [photo_item("chelsea") for _ in range(60)]
    ids = {uuid.uuid4().hex for _ in twins}
    for twin, twin_id in zip(twins, ids, strict=True):
        twin.id = twin_id
    gateway.upsert(name, *twins)
    params = search_service_pb2.SearchParams(collection=name, query=text("a cat"))
    found, token = [], ""
    while True:
        page = gateway.search.SearchPage(
            search_service_pb2.SearchPageRequest(params=params, page_size=7, page_token=token),
            timeout=20,
        )
        found += [hit.id for hit in page.hits]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == sorted(ids)


def test_a_page_token_expires(gateway: Gateway, album: str) -> None:
    params = search_service_pb2.SearchParams(collection=album, query=text("a cat"))
    request = search_service_pb2.SearchPageRequest(params=params, page_size=3)
    request.page_token = gateway.search.SearchPage(request, timeout=20).next_page_token
    # Made an hour and a second ago by another replica, with the same secret.
    replica = GatewaySettings(page_token_secret=PAGE_TOKEN_SECRET)
    then = PageTokens(replica.page_token_key(), 3600.0, lambda: time.time() - 3601)
    now = PageTokens(replica.page_token_key(), 3600.0)
    identity = b"SearchPage\0" + params.SerializeToString(deterministic=True)
    request.page_token = then.make(now.read(request.page_token, identity), identity)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.search.SearchPage(request, timeout=20)
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "PAGE_TOKEN_EXPIRED")


@pytest.mark.parametrize("kind", ["FLAT", "AUTOINDEX", "HNSW", "IVF_FLAT"])
def test_parameters_of_an_index_are_taken_whatever_the_index(gateway: Gateway, kind: str) -> None:
    name = gateway.create(index={"type": f"TYPE_{kind}"})
    gateway.upsert(name, *map(photo_item, ("chelsea", "coffee", "rocket")))
    plain = gateway.hits(name, text("a cat"), limit=20)
    most = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
    for params in ({"ef": 1, "nprobe": 1, "search_list": 1}, most):
        tuned = gateway.hits(name, text("a cat"), limit=20, index_params=params)
        assert [hit.id for hit in tuned] == [hit.id for hit in plain]


def test_an_empty_collection_has_no_hits(gateway: Gateway) -> None:
    assert gateway.hits(gateway.create(), text("a cat")) == []
