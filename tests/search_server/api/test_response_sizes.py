"""No response exceeds 3.5 MiB, whatever is stored: with the largest rows, on every method.

All clients here have gRPC's default limit of 4 MiB, except where a test says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from search_server.api.item_messages import item_to
from search_server.api.search_messages import add_hits
from search_server.types.items import StoredItem
from search_server.types.message_sizes import message_bytes
from search_server.types.searches import Hit
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2, embedding_service_pb2_grpc
from sentinel.search.v1 import (
    access_service_pb2,
    collection_service_pb2,
    filter_pb2,
    item_service_pb2,
    search_service_pb2,
)
from sentinel_client import ClientConfig, Q, SearchPage, SentinelClient
from sentinel_store.items import Row
from tests import processes, secure
from tests.search_server.conftest import (
    MAX_RESPONSE_BYTES,
    MIB,
    Gateway,
    connect,
    error_info,
    image,
    reason_of,
    string,
)

Item = item_service_pb2.Item
MORE = (("x-max-response-bytes", str(16 * MIB)),)
TEXTS, PICTURES = 60, 10
DIMENSIONS = 384


def vector(seed: int) -> content_pb2.Vector:
    values = np.random.default_rng(seed).normal(size=DIMENSIONS).astype("<f4")
    return content_pb2.Vector(data=values.tobytes(), dimensions=DIMENSIONS)


def text_item(number: int) -> Item:
    """As large as an item may be: 60 kB of text and nearly as much in its fields."""
    fields = {"path": string("x" * 29_000), "tags": filter_pb2.FieldValue()}
    fields["tags"].list_value.values.extend(["é" * 500] * 9)
    content = content_pb2.Content(text=f"{number:03}" + "名" * 19_999)
    return Item(id=f"text{number:03}", content=content, vector=vector(number), fields=fields)


def picture_item(number: int) -> Item:
    """Noise, whose thumbnail is as large as one of that size can be."""
    pixels = np.random.default_rng(number).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    seen = vector(TEXTS + number)  # of no text: equal scores may come in any order
    return Item(id=f"picture{number:03}", content=image(file.getvalue()), vector=seen)


@dataclass(frozen=True)
class Library:
    """A gateway with the largest rows that it stores: some 8 MB."""

    gateway: Gateway
    collection: str
    ids: frozenset[str]

    def params(self, **options: Any) -> search_service_pb2.SearchParams:
        query = search_service_pb2.Query(vector=vector(1_000))
        return search_service_pb2.SearchParams(
            collection=self.collection,
            query=query,
            include_vectors=True,
            include_thumbnails=True,
            **options,
        )


@pytest.fixture(scope="module")
def library(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Library]:
    folder: Path = tmp_path_factory.mktemp("large")
    flags = processes.gateway_flags(folder, str(folder / "m.db"), worker.address)
    flags += ["--thumbnail-side", "1024"]
    with processes.running(folder, "search_server", *flags) as server:
        gateway = connect(server.address)
        name = gateway.create()
        items = [*map(text_item, range(TEXTS)), *map(picture_item, range(PICTURES))]
        for start in range(0, len(items), 30):
            results = gateway.upsert(name, *items[start : start + 30])
            assert {one.outcome for one in results} == {item_service_pb2.ItemResult.OUTCOME_STORED}
        yield Library(gateway, name, frozenset(item.id for item in items))


def search(library: Library) -> tuple[list[Any], list[str]]:
    request = search_service_pb2.SearchRequest(
        params=library.params(), limit=1_000, chunk_size=1_000
    )
    messages = list(library.gateway.search.Search(request, timeout=60))
    return messages, [hit.id for message in messages for hit in message.chunk.hits]


def pages(library: Library, call: Any, request: Any, rows: str) -> tuple[list[Any], list[str]]:
    messages = []
    while True:
        messages.append(call(request, timeout=60))
        request.page_token = messages[-1].next_page_token
        if not request.page_token:
            return messages, [row.id for page in messages for row in getattr(page, rows)]


def search_page(library: Library) -> tuple[list[Any], list[str]]:
    request = search_service_pb2.SearchPageRequest(params=library.params(), page_size=1_000)
    return pages(library, library.gateway.search.SearchPage, request, "hits")


def list_items(library: Library) -> tuple[list[Any], list[str]]:
    request = item_service_pb2.ListItemsRequest(
        collection=library.collection,
        page_size=1_000,
        include_vectors=True,
        include_thumbnails=True,
    )
    return pages(library, library.gateway.items.ListItems, request, "items")


def get_items(library: Library) -> tuple[list[Any], list[str]]:
    messages, ids = [], [*sorted(library.ids), "nobody", *("x" * 200 + str(n) for n in range(900))]
    missing = ids[len(library.ids) :]
    while ids:
        request = item_service_pb2.GetItemsRequest(
            collection=library.collection, ids=ids, include_vectors=True, include_thumbnails=True
        )
        messages.append(library.gateway.items.GetItems(request, timeout=60))
        ids = list(messages[-1].unread_ids)
    assert [one for message in messages for one in message.missing_ids] == missing
    return messages, [item.id for message in messages for item in message.items]


def batch_search(library: Library) -> tuple[list[Any], list[str]]:
    """64 searches, until each has found everything."""
    messages, found = [], [list[str]() for _ in range(64)]
    left = {
        number: search_service_pb2.SearchPageRequest(params=library.params(), page_size=1_000)
        for number in range(64)
    }
    for number, one in left.items():
        one.params.query.vector.CopyFrom(vector(2_000 + number))
        one.page_size = 2
    while left:
        request = search_service_pb2.BatchSearchRequest(searches=left.values())
        messages.append(library.gateway.search.BatchSearch(request, timeout=60))
        for number, result in zip(list(left), messages[-1].results, strict=True):
            assert result.WhichOneof("outcome") == "page", result
            found[number] += [hit.id for hit in result.page.hits]
            assert result.page.summary.hit_count == len(result.page.hits)
            left[number].page_token = result.page.next_page_token
            left[number].page_size = 2 - len(found[number])
            if len(found[number]) == 2:
                del left[number]
    assert all(len(set(ids)) == 2 for ids in found)
    return messages, sorted(library.ids)


def download(library: Library) -> tuple[list[Any], list[str]]:
    request = item_service_pb2.DownloadImageRequest(collection=library.collection, id="picture000")
    messages = list(library.gateway.items.DownloadImage(request, timeout=60))
    return messages, sorted(library.ids)


CALLS: dict[str, Callable[[Library], tuple[list[Any], list[str]]]] = {
    "Search": search,
    "SearchPage": search_page,
    "BatchSearch": batch_search,
    "ListItems": list_items,
    "GetItems": get_items,
    "DownloadImage": download,
}
# Their responses are small by the bounds of their requests, or have tests of their own below.
OTHERS = {
    "UpsertItems", "IngestItems", "DeleteItems", "CreateCollection", "GetCollection",
    "ListCollections", "DeleteCollection", "PreviewDeletion", "SetAlias", "DeleteAlias",
    "ReindexCollection", "GetCaller", "Embed", "EmbedStream", "Rank", "GetModel",
}  # fmt: skip


def test_every_method_is_thought_of() -> None:
    files = (
        access_service_pb2,
        collection_service_pb2,
        embedding_service_pb2,
        item_service_pb2,
        search_service_pb2,
    )
    services = [one for file in files for one in file.DESCRIPTOR.services_by_name.values()]
    assert {method.name for one in services for method in one.methods} == CALLS.keys() | OTHERS


@pytest.mark.parametrize("method", CALLS)
def test_the_largest_rows_arrive_in_messages_that_every_client_reads(
    library: Library, method: str
) -> None:
    messages, ids = CALLS[method](library)
    assert sorted(ids) == sorted(library.ids)
    sizes = [message.ByteSize() for message in messages]
    assert max(sizes) <= MAX_RESPONSE_BYTES
    if method != "DownloadImage":  # which has parts of 1 MiB
        # They were cut, and none of them much too early: a row has up to 0.2 MB.
        assert len(sizes) > 2
        assert sum(size > MAX_RESPONSE_BYTES - MIB for size in sizes) >= len(sizes) // 2


@pytest.mark.parametrize("method", ["SearchPage", "ListItems"])
def test_who_asks_for_more_gets_more_in_one_message(library: Library, method: str) -> None:
    options = [("grpc.max_receive_message_length", 16 * MIB)]
    with secure.channel(library.gateway.address, options) as channel:
        params = library.params()
        if method == "SearchPage":
            service, answer = "Search", search_service_pb2.SearchPageResponse
            request: Any = search_service_pb2.SearchPageRequest(params=params, page_size=1_000)
        else:
            service, answer = "Item", item_service_pb2.ListItemsResponse
            request = item_service_pb2.ListItemsRequest(
                collection=library.collection, page_size=1_000
            )
        call = channel.unary_unary(
            f"/sentinel.search.v1.{service}Service/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        page = call(request, timeout=60, metadata=MORE)
    assert 4 * MIB < page.ByteSize() <= 16 * MIB


@pytest.fixture(scope="module")
def narrow(worker: processes.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose responses have room for 20 kB of rows, and in a batch of two for none."""
    constants = {
        "sentinel_core.responses._REST_BYTES": MAX_RESPONSE_BYTES - 20_000,
        "search_server.api.search_service._ERROR_BYTES": MAX_RESPONSE_BYTES // 2,
    }
    folder: Path = tmp_path_factory.mktemp("narrow")
    flags = processes.gateway_flags(folder, str(folder / "m.db"), worker.address)
    with processes.running(folder, "search_server", *flags, constants=constants) as server:
        yield connect(server.address)


def test_many_large_collections_are_listed_in_parts(narrow: Gateway) -> None:
    """In a real response there is room for a thousand, which take long to make."""
    fields = [
        collection_service_pb2.FieldSchema(name=f"field_{number:050}", type=1)  # type: ignore[arg-type]
        for number in range(56)
    ]
    names = [f"c{number}" for number in range(8)]
    for name in names:
        collection = collection_service_pb2.Collection(name=name, fields=fields)
        request = collection_service_pb2.CreateCollectionRequest(collection=collection)
        narrow.collections.CreateCollection(request, timeout=20)
    found, token = [], ""
    while True:
        page = narrow.collections.ListCollections(
            collection_service_pb2.ListCollectionsRequest(page_token=token), timeout=60
        )
        assert 0 < len(page.collections) < len(names)
        assert page.ByteSize() < 20_500
        found += [one.name for one in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert set(names) <= set(found)
    assert found == sorted(set(found))


def test_a_search_of_a_batch_without_room_for_a_token_fails_alone(narrow: Gateway) -> None:
    name = narrow.create()
    narrow.upsert(name, *(Item(id=str(number), vector=vector(number)) for number in range(5)))
    query = search_service_pb2.Query(vector=vector(7))
    params = search_service_pb2.SearchParams(collection=name, query=query, include_vectors=True)
    searches = [
        search_service_pb2.SearchPageRequest(params=params, page_size=3),
        search_service_pb2.SearchPageRequest(),
    ]
    request = search_service_pb2.BatchSearchRequest(searches=searches)
    large, wrong = narrow.search.BatchSearch(request, timeout=60).results
    assert reason_of(large.error) == "RESPONSE_TOO_LARGE"
    assert reason_of(wrong.error) == "QUERY_MISSING"


@pytest.mark.slow  # thumbnails of 60 large pictures
def test_thumbnails_that_do_not_fit_are_refused_with_a_reason(library: Library) -> None:
    contents = [picture_item(number).content for number in range(30)]
    options = embedding_service_pb2.EmbedOptions(thumbnail_side=1024)
    request = embedding_service_pb2.EmbedRequest(contents=contents, options=options)
    receive = [("grpc.max_receive_message_length", 16 * MIB)]
    with secure.channel(library.gateway.address, receive) as channel:
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Embed(request, timeout=60)
        assert error_info(caught.value) == ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE")
        answer = stub.Embed(request, timeout=60, metadata=MORE)
        assert len(answer.results) == 30
        assert answer.ByteSize() > MAX_RESPONSE_BYTES


@pytest.mark.slow  # thumbnails of 30 large pictures
def test_in_a_stream_to_a_worker_only_the_message_is_refused(worker: processes.Server) -> None:
    options = embedding_service_pb2.EmbedOptions(thumbnail_side=1024)
    large = embedding_service_pb2.EmbedRequest(
        contents=[picture_item(number).content for number in range(30)], options=options
    )
    small = embedding_service_pb2.EmbedRequest(contents=large.contents[:1], options=options)
    with secure.channel(worker.address) as channel:
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        answers = {
            answer.sequence: answer
            for answer in stub.EmbedStream(
                (
                    embedding_service_pb2.EmbedStreamRequest(sequence=place, request=request)
                    for place, request in enumerate((large, small))
                ),
                timeout=120,
            )
        }
    assert reason_of(answers[0].error) == "RESPONSE_TOO_LARGE"
    assert answers[1].response.results[0].image.thumbnail


words = st.text(max_size=300)
values = st.one_of(
    words,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(words, max_size=40),
)


@settings(max_examples=60, deadline=None)
@given(
    row=st.builds(
        Row,
        id=st.text(min_size=1, max_size=64),
        digest=st.just("0" * 64),
        image=st.just(""),
        text=st.text(max_size=2_000),
        fields=st.dictionaries(words, values, max_size=64),
        vector=st.sampled_from([None, np.ones(3, np.float32), np.ones(40_000, np.float32)]),
    ),
    thumbnail=st.integers(0, 300_000).map(bytes),
    uri=st.text(max_size=3_000),
)
def test_the_size_of_a_row_is_never_underestimated(row: Row, thumbnail: bytes, uri: str) -> None:
    hit = Hit(row, 10_000, -0.5, uri, thumbnail)
    page = search_service_pb2.SearchPageResponse()
    add_hits(page, [hit])
    assert page.ByteSize() <= message_bytes(hit) <= page.ByteSize() + 128 + 64 * 40
    item = StoredItem(row, uri, thumbnail)
    listed = item_service_pb2.ListItemsResponse(items=[item_to(item)])
    assert listed.ByteSize() <= message_bytes(item)


def test_the_python_client_reads_on_where_a_response_ends(library: Library) -> None:
    config = ClientConfig(max_message_bytes=4 * MIB)
    options = {"collection": library.collection, "include_thumbnails": True}
    rng = np.random.default_rng(3)
    queries = [Q(vector=rng.normal(size=DIMENSIONS)) for _ in range(5)]
    with SentinelClient(library.gateway.address, config=config) as client:
        found = client.get_items([*sorted(library.ids), "nobody"], **options)
        assert [item.id for item in found] == sorted(library.ids)
        assert found.missing_ids == ("nobody",)
        pages = client.batch_search(queries, limit=15, **options)
        for query, page in zip(queries, pages, strict=True):
            assert isinstance(page, SearchPage), page
            alone = client.search(query, limit=15, **options)
            assert [hit.id for hit in page] == [hit.id for hit in alone]
            assert page.next_page_token
