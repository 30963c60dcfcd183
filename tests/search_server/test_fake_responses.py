"""Responses of `FakeSentinel` end where a gateway's end, and bring the same trailers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import Item, SentinelClient, _rpcs
from sentinel_client.testing import FakeSentinel
from tests.search_server.conftest import MAX_RESPONSE_BYTES
from tests.search_server.fake_pair import Pair, stored

LARGE = 70
IDS = [f"large {number:02}" for number in range(LARGE)]
TEXT_BYTES = 60_000

Told = tuple[list[Any], str]


def sent(
    client: SentinelClient, rpc: _rpcs.Rpc[Any, Any], request: Message, *headers: tuple[str, str]
) -> Told:
    """Send a request once; return its responses, or the code that it failed with, and its id.

    The id is the one in the trailers.
    """
    connection = client._client._connection
    streams = rpc is _rpcs.SEARCH

    async def call() -> Told:
        options = connection._options(rpc, connection._attempts(rpc, 20))
        own = [one for one in options["metadata"] if one[0] not in dict(headers)]
        started = connection._callable(rpc, "unary_stream" if streams else "unary_unary")(
            request, timeout=20, metadata=(*own, *headers)
        )
        try:
            responses = [one async for one in started] if streams else [await started]
        except grpc.aio.AioRpcError as error:
            responses = [error.code().name]
        trailers = dict(await started.trailing_metadata())
        return responses, str(trailers["x-request-id"])

    return client._run(call())


@pytest.fixture(scope="module")
def large(pair: Pair) -> Pair:
    """The clients, with a collection of 4.2 MB."""
    made = pair._replace(collection=f"{pair.collection}_large")
    made.same(lambda client, pair: client.create_collection(pair.collection))
    texts = (f"{number:02}".ljust(TEXT_BYTES, "x") for number in range(LARGE))
    given = [
        Item(id=item_id, text=text, vector=made.vector(number))
        for number, (item_id, text) in enumerate(zip(IDS, texts, strict=True))
    ]
    outcomes = made.same(stored(*given))
    assert {one["outcome"] for one in outcomes} == {"STORED"}
    return made


def sizes_fit(responses: list[Any]) -> bool:
    return all(one.ByteSize() <= MAX_RESPONSE_BYTES for one in responses)


def search_params(pair: Pair) -> search_pb.SearchParams:
    vector = content_pb2.Vector(data=pair.vector(999).tobytes(), dimensions=pair.dimensions)
    return search_pb.SearchParams(collection=pair.collection, query=search_pb.Query(vector=vector))


def test_get_items_names_the_items_that_it_has_not_read(large: Pair) -> None:
    def parts(client: SentinelClient, pair: Pair) -> Any:
        wanted, found = [*IDS, "nobody"], []
        while wanted:
            request = item_pb.GetItemsRequest(collection=pair.collection, ids=wanted)
            [answer], _ = sent(client, _rpcs.GET_ITEMS, request)
            assert sizes_fit([answer])
            wanted = list(answer.unread_ids)
            found.append(([one.id for one in answer.items], wanted, list(answer.missing_ids)))
        return found

    first, second = large.same(parts)
    assert (first[0] + second[0], first[1]) == (IDS, second[0])
    assert first[2] == ["nobody"]
    read = large.same(lambda client, pair: client.get_items(IDS, collection=pair.collection))
    assert len(read["items"]) == LARGE


def listed(client: SentinelClient, pair: Pair) -> Any:
    request = item_pb.ListItemsRequest(collection=pair.collection, page_size=1_000)
    pages = []
    while not pages or request.page_token:
        [page], _ = sent(client, _rpcs.LIST_ITEMS, request)
        pages.append(page)
        request.page_token = page.next_page_token
    assert sizes_fit(pages)
    return [[one.id for one in page.items] for page in pages]


def found_by_page(client: SentinelClient, pair: Pair) -> Any:
    request = search_pb.SearchPageRequest(params=search_params(pair), page_size=1_000)
    pages = []
    while not pages or request.page_token:
        [page], _ = sent(client, _rpcs.SEARCH_PAGE, request)
        pages.append(page)
        request.page_token = page.next_page_token
    assert sizes_fit(pages)
    return [[one.id for one in page.hits] for page in pages]


def found_by_stream(client: SentinelClient, pair: Pair) -> Any:
    request = search_pb.SearchRequest(params=search_params(pair), limit=1_000, chunk_size=1_000)
    messages, _ = sent(client, _rpcs.SEARCH, request)
    assert sizes_fit(messages)
    return [[one.id for one in message.chunk.hits] for message in messages]


@pytest.mark.parametrize("call", [listed, found_by_page, found_by_stream])
def test_large_answers_come_in_the_same_parts(
    large: Pair, call: Callable[[SentinelClient, Pair], Any]
) -> None:
    first, second = large.same(call)
    assert len(first) > len(second) > 0
    assert sorted(first + second) == IDS


def test_a_batch_of_searches_shares_one_message(large: Pair) -> None:
    def batch(client: SentinelClient, pair: Pair) -> Any:
        one = search_pb.SearchPageRequest(params=search_params(pair), page_size=30)
        request = search_pb.BatchSearchRequest(searches=[one] * 64)
        [answer], _ = sent(client, _rpcs.BATCH_SEARCH, request)
        assert sizes_fit([answer])
        pages = [result.page for result in answer.results]
        one.page_token = pages[-1].next_page_token
        [later], _ = sent(client, _rpcs.SEARCH_PAGE, one)
        return [[hit.id for hit in page.hits] for page in (*pages, later)]

    *pages, later = large.same(batch)
    assert len(pages[0]) == 1
    assert pages[-1] == []  # there was no room left
    assert later[:1] == pages[0]
    assert len(later) == 30


def test_callers_may_ask_for_larger_answers(large: Pair) -> None:
    def counts(client: SentinelClient, pair: Pair) -> Any:
        request = item_pb.GetItemsRequest(collection=pair.collection, ids=IDS)
        [more], _ = sent(client, _rpcs.GET_ITEMS, request, ("x-max-response-bytes", "8000000"))
        [less], _ = sent(client, _rpcs.GET_ITEMS, request, ("x-max-response-bytes", "8000"))
        [wrong], _ = sent(client, _rpcs.GET_ITEMS, request, ("x-max-response-bytes", "many"))
        return len(more.items), len(less.items), wrong

    more, less, wrong = large.same(counts)
    assert more == LARGE > less > 1
    assert wrong == "INVALID_ARGUMENT"


def test_an_answer_that_cannot_be_cut_is_refused() -> None:
    request = embedding_pb.EmbedRequest(contents=[content_pb2.Content(text="a dog")] * 256)
    with FakeSentinel(dimensions=4_096) as client:
        [answer], _ = sent(client, _rpcs.EMBED, request)  # this client takes large ones
        [refused], _ = sent(client, _rpcs.EMBED, request, ("x-max-response-bytes", "1"))
    assert answer.ByteSize() > MAX_RESPONSE_BYTES
    assert refused == "RESOURCE_EXHAUSTED"


CALLS: dict[str, tuple[_rpcs.Rpc[Any, Any], Message]] = {
    "answer": (_rpcs.EMBED, embedding_pb.EmbedRequest(contents=[content_pb2.Content(text="a")])),
    "refusal": (_rpcs.GET_ITEMS, item_pb.GetItemsRequest(collection="nobody", ids=["x"])),
    "refused stream": (_rpcs.SEARCH, search_pb.SearchRequest()),
    "health": (_rpcs.HEALTH_CHECK, _rpcs.HEALTH_CHECK.request()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_sends_its_request_id_back(pair: Pair, name: str) -> None:
    rpc, request = CALLS[name]
    for given in ("mine 1/2", "x" * 200):
        told = pair.same(
            lambda client, _, given=given: sent(  # type: ignore[misc]
                client, rpc, request, ("x-request-id", given)
            )[1]
        )
        assert told == given[:128]


def test_a_call_without_a_usable_request_id_gets_one(pair: Pair) -> None:
    rpc, request = CALLS["answer"]
    for client in (pair.fake, pair.real):
        ids = {sent(client, rpc, request, ("x-request-id", ""))[1] for _ in range(2)}
        assert len(ids) == 2
        assert all(ids)
