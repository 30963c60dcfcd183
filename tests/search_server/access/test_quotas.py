"""Quotas of tenants and callers, at a gateway with TLS and keys."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from search_server.api import access
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import search_service_pb2 as search
from tests.search_server.access import secured
from tests.search_server.access.secured import OK, Caller, Secured
from tests.search_server.conftest import text
from tests.waiting import until

EXCEEDED = ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
TENANTS = {
    "calls": {"calls_per_second": 2},
    "costs": {"calls_per_second": 1},
    "embeds": {"calls_per_second": 1},
    "items": {"items_per_minute": 60},
    "bytes": {"bytes_per_minute": 60_000},
    "streams": {"concurrent_calls": 2},
    "paced": {"items_per_minute": 600},
    "stored": {"stored_items": 5},
    "large": {"stored_bytes": 200_000},
    "collections": {"collections": 2},
    "audited": {"calls_per_second": 0.01},
    "scoped": {"calls_per_second": 5},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quotas") / "quotas.json"
    path.write_text(json.dumps({"tenants": TENANTS}))
    return path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    with secured.running(folder, "--quotas-file", str(file)) as running:
        yield running


def caller_of(system: Secured, tenant: str, *, creates: bool = True) -> Caller:
    caller = system.caller(system.key("owner", tenant=tenant))
    if creates:
        until(lambda: created(caller, "photos") in (OK, ("ALREADY_EXISTS", "COLLECTION_EXISTS")))
    return caller


def created(caller: Caller, name: str) -> tuple[str, str]:
    request = collections.CreateCollectionRequest(collection=collections.Collection(name=name))
    return caller.call("CollectionService/CreateCollection", request)


def searching(query: search.Query | None = None) -> search.SearchRequest:
    return search.SearchRequest(
        params=search.SearchParams(collection="photos", query=query or text("red"))
    )


def upserting(numbers: range, words: str = "item") -> items.UpsertItemsRequest:
    return items.UpsertItemsRequest(collection="photos", items=list(_items(numbers, words)))


def _items(numbers: range, words: str) -> Iterator[items.Item]:
    for number in numbers:
        yield items.Item(id=str(number), content=content_pb2.Content(text=f"{words} {number}"))


def refusal(caller: Caller, method: str, request: Any) -> tuple[str, float | None]:
    """Return the quota that refuses the call, and when to retry."""
    with pytest.raises(grpc.RpcError) as caught:
        caller.answers(method, request)
    assert secured.error_info(caught.value) == EXCEEDED
    found: Any = dict(caught.value.trailing_metadata())
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_s = None
    for detail in status_pb2.Status.FromString(found["grpc-status-details-bin"]).details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_s = retry.retry_delay.ToNanoseconds() / 1e9
    assert f"the quota {info.metadata['quota']} of this" in caught.value.details()
    return info.metadata["quota"], retry_s


def test_calls_are_limited_and_admitted_again_at_their_rate(system: Secured) -> None:
    caller = caller_of(system, "calls")
    other = system.caller(system.key("owner"))
    begun, admitted = time.monotonic(), 0
    while admitted < 7:
        if caller.call("SearchService/Search", searching()) == OK:
            admitted += 1
        else:
            quota, retry_s = refusal(caller, "SearchService/Search", searching())
            assert quota == "calls_per_second"
            assert retry_s is not None
            assert 0 < retry_s <= 0.51
            time.sleep(retry_s)
        assert other.call("CollectionService/ListCollections") == OK
    assert time.monotonic() - begun >= (7 - 3) / 2


def test_a_call_is_charged_what_it_costs(system: Secured) -> None:
    caller = caller_of(system, "costs")
    picture = search.Query(content=content_pb2.Content())
    picture.content.image.data = noise(32, 0)
    until(lambda: caller.call("SearchService/Search", searching(picture)) == OK)
    quota, retry_s = refusal(caller, "SearchService/Search", searching())
    assert quota == "calls_per_second"
    assert retry_s is not None
    assert retry_s > 4


def test_embedding_is_charged_by_its_contents(system: Secured) -> None:
    caller = caller_of(system, "embeds")
    words, picture = content_pb2.Content(text="red"), content_pb2.Content()
    picture.image.data = noise(32, 0)
    embed = embedding.EmbedRequest(contents=[words, words, picture])
    rank = embedding.RankRequest(query=words, candidates=[words])
    until(lambda: caller.call("EmbeddingService/Embed", embed) == OK)
    quota, retry_s = refusal(caller, "EmbeddingService/Rank", rank)
    assert quota == "calls_per_second"
    assert retry_s is not None
    assert retry_s > 5
    costs = [access.EMBEDDING_RULES[one].cost for one in ("Embed", "Rank")]
    assert [cost(of).calls for cost, of in zip(costs, (embed, rank), strict=True)] == [10, 2]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Search", search.SearchRequest(limit=2**31 - 1)),
        ("SearchPage", search.SearchPageRequest(page_size=2**31 - 1)),
        ("BatchSearch", search.BatchSearchRequest(searches=[search.SearchPageRequest()] * 20_000)),
    ],
)
def test_no_request_costs_more_than_the_largest_that_is_answered(
    method: str, request_: Any
) -> None:
    assert access.SEARCH_RULES[method].cost(request_).calls <= 64 * 6


def test_calls_without_the_scope_are_charged_and_do_not_fill_the_log(system: Secured) -> None:
    caller = system.caller(system.key("reader:mine", tenant="scoped"))
    begun, answers = time.monotonic(), set()

    def lines() -> int:  # the others of the same second may have taken the room
        answers.add(caller.call("SearchService/Search", searching()))
        return sum(line["tenant"] == "scoped" for line in system.audited())

    for _ in range(200):
        answers.add(caller.call("SearchService/Search", searching()))
    until(lines)
    assert answers == {("PERMISSION_DENIED", "SCOPE_MISSING"), EXCEEDED}
    assert lines() <= 10 * (2 + int(time.monotonic() - begun))


def test_items_are_limited(system: Secured) -> None:
    caller = caller_of(system, "items")
    assert caller.call("ItemService/UpsertItems", upserting(range(64))) == OK
    quota, retry_s = refusal(caller, "ItemService/UpsertItems", upserting(range(3)))
    assert quota == "items_per_minute"
    assert retry_s is not None
    assert retry_s <= 5
    assert caller.call("SearchService/Search", searching()) == OK


def test_bytes_are_limited(system: Secured) -> None:
    caller = caller_of(system, "bytes")
    large = upserting(range(1), "word " * 10_000)
    assert [caller.call("ItemService/UpsertItems", large) for _ in range(2)] == [OK, OK]
    assert refusal(caller, "ItemService/UpsertItems", large)[0] == "bytes_per_minute"


def test_running_calls_are_limited(system: Secured) -> None:
    caller = caller_of(system, "streams")
    open_calls = []
    stub = caller.channel.stream_stream(
        "/sentinel.search.v1.ItemService/IngestItems",
        items.IngestItemsRequest.SerializeToString,
        items.IngestItemsResponse.FromString,
    )

    def requests() -> Iterator[items.IngestItemsRequest]:
        yield items.IngestItemsRequest(start=items.IngestStart(collection="photos"))
        until(lambda: released)

    released: list[bool] = []
    for _ in range(2):
        call = stub(requests(), metadata=caller.metadata, timeout=60)
        next(call)
        open_calls.append(call)
    assert refusal(caller, "SearchService/Search", searching())[0] == "concurrent_calls"
    open_calls[0].cancel()
    until(lambda: caller.call("SearchService/Search", searching()) == OK)
    released.append(True)
    list(open_calls[1])


def test_a_stream_is_slowed_down_and_stored(system: Secured) -> None:
    caller = caller_of(system, "paced")
    begun = time.monotonic()
    requests = [items.IngestItemsRequest(start=items.IngestStart(collection="photos"))]
    for sequence in range(1, 14):
        numbers = range(50 * sequence, 50 * sequence + 50)
        batch = items.IngestBatch(sequence=sequence, items=list(_items(numbers, "paced")))
        requests.append(items.IngestItemsRequest(batch=batch))
    answers = caller.answers("ItemService/IngestItems", *requests)
    assert answers[-1].summary.stored_count == 650
    assert time.monotonic() - begun >= (650 - 50 - 600) / 10


def noise(side: int, seed: int) -> bytes:
    """Return a JPEG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def results(caller: Caller, request: items.UpsertItemsRequest) -> list[str]:
    [answer] = caller.answers("ItemService/UpsertItems", request)
    found = []
    for result in answer.results:
        info = error_details_pb2.ErrorInfo()
        if result.outcome == items.ItemResult.OUTCOME_FAILED:
            result.error.details[0].Unpack(info)
        found.append(info.metadata["quota"] if info.reason == EXCEEDED[1] else info.reason)
    return found


def test_stored_items_are_limited_each_for_itself(system: Secured) -> None:
    caller = caller_of(system, "stored")
    assert results(caller, upserting(range(3))) == [""] * 3
    assert results(caller, upserting(range(2, 8))) == [""] * 3 + ["stored_items"] * 3
    assert results(caller, upserting(range(5), "replaced")) == [""] * 5
    delete = items.DeleteItemsRequest(collection="photos", ids=items.ItemIds(ids=["0", "1"]))
    assert caller.call("ItemService/DeleteItems", delete) == OK
    until(lambda: results(caller, upserting(range(6, 8))) == [""] * 2)
    assert results(caller, upserting(range(9, 10))) == ["stored_items"]


def test_stored_bytes_are_limited_also_as_a_new_gateway_estimates_them(system: Secured) -> None:
    caller = caller_of(system, "large")
    pictures = []
    for number in range(40):
        item = items.Item(id=f"p{number}", content=content_pb2.Content())
        item.content.image.data = noise(200, number)
        pictures.append(item)
    size = sum(len(item.content.image.data) for item in pictures) / len(pictures) + 4 * 8
    request = items.UpsertItemsRequest(collection="photos", items=pictures)
    stored = results(caller, request).count("")
    assert 0.9 * 200_000 / size - 2 <= stored <= 200_000 / size
    until_counted = time.monotonic() + 1.2  # then it counts what is stored, before it refuses
    until(lambda: time.monotonic() > until_counted)
    again = items.UpsertItemsRequest(collection="photos", items=pictures)
    assert abs(results(caller, again).count("") - stored) <= 2


def test_collections_are_limited_also_as_targets_of_a_reindex(system: Secured) -> None:
    caller = caller_of(system, "collections", creates=False)
    assert [created(caller, name) for name in ("one", "two", "three")] == [OK, OK, EXCEEDED]
    assert created(caller, "two") == ("ALREADY_EXISTS", "COLLECTION_EXISTS")
    reindex = collections.ReindexCollectionRequest(source="one", target="three")
    assert caller.call("CollectionService/ReindexCollection", reindex)[0] in (
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",  # the worker has no other model
    )
    delete = collections.DeleteCollectionRequest(name="one")
    assert caller.call("CollectionService/DeleteCollection", delete) == OK
    assert created(caller, "three") == OK


def test_refusals_are_audited_but_do_not_fill_the_log(system: Secured) -> None:
    caller = caller_of(system, "audited", creates=False)

    def noted() -> list[dict[str, Any]]:
        caller.call("SearchService/Search", searching())
        lines = [line for line in system.audited() if line["tenant"] == "audited"]
        return [line for line in lines if line["reason"] == "QUOTA_EXCEEDED"]

    begun = time.monotonic()
    for _ in range(200):
        noted()
    # Refusals of others may have taken the lines of the first second.
    until(noted)
    assert len(noted()) <= 10 * (2 + int(time.monotonic() - begun))


def test_the_file_is_read_again_and_a_wrong_one_changes_nothing(
    system: Secured, file: Path
) -> None:
    caller = system.caller(system.key("owner", tenant="later"))
    assert caller.call("CollectionService/ListCollections") == OK
    table = {"tenants": TENANTS | {"later": {"calls_per_second": 0.01}}}
    _replace(file, json.dumps(table))
    until(lambda: caller.call("CollectionService/ListCollections") == EXCEEDED)
    _replace(file, '{"tenants": {"later": {"calls": 5}}}')

    def told() -> bool:
        assert caller.call("CollectionService/ListCollections") == EXCEEDED
        return "file not read" in system.gateway.log.read_text()

    until(told)
    table["tenants"]["later"] = {}
    _replace(file, json.dumps(table))
    until(lambda: caller.call("CollectionService/ListCollections") == OK)


def _replace(file: Path, content: str) -> None:
    other = file.with_suffix(".new")
    other.write_text(content)
    other.replace(file)
