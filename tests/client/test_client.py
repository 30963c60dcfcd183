from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from sentinel_client import (
    AlreadyExists,
    AsyncSentinelClient,
    ClientConfig,
    ConnectionFailed,
    DeadlineExceeded,
    F,
    FieldSchema,
    FieldType,
    HealthStatus,
    InvalidArgument,
    Item,
    NotFound,
    Outcome,
    ResourceExhausted,
    ResultTruncated,
    RetryPolicy,
    SearchTimings,
    SentinelError,
    Timeouts,
    Unavailable,
)
from sentinel_client._errors import from_rpc_error
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway, hit

CONFIG = ClientConfig(retry=RetryPolicy(initial_backoff=0.01))


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[AsyncSentinelClient]:
    async with AsyncSentinelClient(gateway.address, config=CONFIG) as client:
        yield client


async def test_search_returns_all_hits_and_what_was_searched(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.hits = [hit(rank, 1 / rank, f"/p/{rank}.jpg") for rank in range(1, 6)]
    result = await client.search("a dog", collection="photos", limit=4)
    assert [one.rank for one in result] == [1, 2, 3, 4]
    assert result[0].fields["path"] == "/p/1.jpg"
    assert (result.collection, result.model.model) == ("photos", "fake-clip")
    assert result.timings.total == 0.018
    assert result.timings.vector_search == 0.003


async def test_the_request_says_all_that_was_asked(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.search(
        collection="c",
        vector=np.ones(4),
        filter=F("year") >= 2020,
        output_fields=["path"],
        min_score=0.25,
        include_thumbnails=True,
        include_vectors=True,
    )
    params = gateway.calls["Search"][0].params
    assert params.query.vector.dimensions == 4
    assert params.filter.comparison.field == "year"
    assert list(params.output_fields) == ["path"]
    assert params.min_score == 0.25
    assert params.include_thumbnails
    assert params.include_vectors


@pytest.mark.parametrize("as_path", [False, True])
async def test_an_image_query_takes_bytes_or_a_path(
    gateway: FakeGateway, client: AsyncSentinelClient, tmp_path: Path, as_path: bool
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"jpeg")
    await client.search(image=tmp_path / "x.jpg" if as_path else b"jpeg", collection="c")
    assert gateway.calls["Search"][0].params.query.content.image.data == b"jpeg"


async def test_unknown_options_are_refused(client: AsyncSentinelClient) -> None:
    with pytest.raises(TypeError, match="limits"):
        await client.search("x", collection="c", limits=3)  # type: ignore[call-arg]


async def test_stream_search_yields_hits_as_they_come(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 4)]
    told: list[SearchTimings] = []
    ranks = []
    async for one in client.stream_search("x", collection="c", on_timings=told.append):
        assert not told  # it comes after the last hit
        ranks.append(one.rank)
    assert ranks == [1, 2, 3]
    assert [timings.total for timings in told] == [pytest.approx(0.018)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stream_without_summary_is_truncated(
    gateway: FakeGateway, client: AsyncSentinelClient, streamed: bool
) -> None:
    gateway.break_stream_after = -1
    with pytest.raises(ResultTruncated):
        if streamed:
            _ = [one async for one in client.stream_search("x", collection="c")]
        else:
            await client.search("x", collection="c")


async def test_pages_go_on_where_the_one_before_ended(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 4)]
    first = await client.search_page("x", collection="c", page_size=2)
    second = await client.search_page(
        "x", collection="c", page_size=2, page_token=first.next_page_token
    )
    assert [one.rank for one in (*first, *second)] == [1, 2, 3]
    assert second.next_page_token == ""


async def test_unavailable_twice_then_an_answer_is_an_answer_with_one_request_id(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["Search"].extend([core.Unavailable("DRAINING", "bye")] * 2)
    await client.search("x", collection="c")
    assert len(gateway.calls["Search"]) == 3
    assert len({metadata["x-request-id"] for metadata in gateway.metadata}) == 1


async def test_separate_calls_have_separate_request_ids(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.search("x", collection="c")
    await client.search("x", collection="c")
    assert len({metadata["x-request-id"] for metadata in gateway.metadata}) == 2


async def test_a_full_queue_is_waited_for(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    full = core.ResourceExhausted("QUEUE_FULL", "full", retry_after_s=0.2)
    gateway.failures["UpsertItems"].append(full)
    start = time.monotonic()
    results = await client.upsert([Item(text="x")], collection="c")
    assert time.monotonic() - start >= 0.2
    assert results[0].outcome is Outcome.STORED


async def test_all_calls_of_a_client_share_its_retry_budget(gateway: FakeGateway) -> None:
    """Full servers get a fifth more calls, not five times as many."""
    full = core.ResourceExhausted("QUEUE_FULL", "full", retry_after_s=0.01)
    gateway.failures["GetCollection"].extend([full] * 1_000)
    async with AsyncSentinelClient(gateway.address, config=CONFIG) as client:
        calls = [client.get_collection("photos") for _ in range(200)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {ResourceExhausted}
    assert 200 < len(gateway.calls["GetCollection"]) <= 240


async def test_exhausted_without_retry_info_is_a_limit_and_not_repeated(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["Search"].append(grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(ResourceExhausted) as caught:
        await client.search("x", collection="c")
    assert caught.value.reason == "UNKNOWN"
    assert len(gateway.calls["Search"]) == 1


async def test_a_stream_is_not_repeated_after_its_first_message(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 6)]
    gateway.break_stream_after = 2
    with pytest.raises(Unavailable):
        await client.search("x", collection="c")
    assert len(gateway.calls["Search"]) == 1


async def test_a_call_that_changes_things_blindly_is_not_repeated(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["CreateCollection"].append(core.Unavailable("DRAINING", "bye"))
    with pytest.raises(Unavailable):
        await client.create_collection("c")
    assert len(gateway.calls["CreateCollection"]) == 1


async def test_retries_end_with_the_last_error(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["GetCollection"].extend([core.Unavailable("STORE_UNAVAILABLE", "no")] * 9)
    with pytest.raises(Unavailable) as caught:
        await client.get_collection("c")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert len(gateway.calls["GetCollection"]) == CONFIG.retry.max_attempts


async def test_errors_carry_what_the_server_said(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["Search"].append(
        core.InvalidArgument("TEXT_TOO_LONG", "cut it", field="params.query", limit=9)
    )
    with pytest.raises(InvalidArgument, match="cut it") as caught:
        await client.search("x", collection="c")
    error = caught.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "TEXT_TOO_LONG"
    assert error.metadata == {"field": "params.query", "limit": "9"}
    assert error.field == "params.query"
    assert error.request_id == gateway.metadata[0]["x-request-id"]


@pytest.mark.parametrize("by_argument", [False, True])
async def test_no_answer_ends_at_the_deadline(gateway: FakeGateway, by_argument: bool) -> None:
    gateway.stall()
    config = ClientConfig(timeouts=Timeouts(search=60 if by_argument else 0.2))
    async with AsyncSentinelClient(gateway.address, config=config) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.search("x", collection="c", timeout=0.2 if by_argument else None)
    assert caught.value.reason == "OUT_OF_TIME"
    assert isinstance(caught.value, TimeoutError)


async def test_a_call_cancelled_on_the_way_is_repeated(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["SearchPage"] += [grpc.StatusCode.CANCELLED] * 5
    gateway.failures["Search"].append(grpc.StatusCode.CANCELLED)
    await client.search("x", collection="c")
    with pytest.raises(ConnectionFailed, match=rf"{gateway.address} cancelled the call"):
        await client.search_page("x", collection="c")
    assert len(gateway.calls["Search"]) == 2


def test_a_call_cancelled_at_its_deadline_is_out_of_time() -> None:
    cancelled = grpc.aio.AioRpcError(
        grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata()
    )
    error = from_rpc_error(cancelled, address="a:1", request_id="r", remaining=0.02)
    assert isinstance(error, DeadlineExceeded)
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "OUT_OF_TIME")


async def test_leaving_a_stream_cancels_the_call(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.stall()
    search = asyncio.create_task(client.search("x", collection="c"))
    assert await asyncio.to_thread(gateway.entered.wait, 10)
    search.cancel()
    assert await asyncio.to_thread(gateway.cancelled.wait, 10)


async def test_nobody_at_the_address_says_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with AsyncSentinelClient(address, config=CONFIG) as client:
            with pytest.raises(ConnectionFailed, match=address) as caught:
                await client.list_collections()
    assert caught.value.reason == "UNREACHABLE"


async def test_upsert_splits_by_count_and_keeps_the_order(gateway: FakeGateway) -> None:
    config = ClientConfig(upsert_max_items=3, upsert_in_flight=2)
    async with AsyncSentinelClient(gateway.address, config=config) as client:
        items = [Item(id=str(number), text=f"text {number}") for number in range(10)]
        results = await client.upsert(iter(items), collection="c")
    assert [result.id for result in results] == [item.id for item in items]
    assert sorted(len(call.items) for call in gateway.calls["UpsertItems"]) == [1, 3, 3, 3]
    assert gateway.most_in_flight <= 2


async def test_a_bad_item_and_an_unreadable_file_fail_alone(
    client: AsyncSentinelClient, tmp_path: Path
) -> None:
    items = [Item(image=b"BAD"), Item(id="gone", image=tmp_path / "gone.jpg"), Item(image=b"ok")]
    bad, gone, good = await client.upsert(items, collection="c")
    assert bad.error is not None
    assert bad.error.reason == "IMAGE_DECODE_FAILED"
    assert (gone.id, gone.outcome) == ("gone", Outcome.FAILED)
    assert gone.error is not None
    assert "gone.jpg" in gone.error.message
    assert good.outcome is Outcome.STORED


async def test_only_unreadable_files_send_nothing(
    gateway: FakeGateway, client: AsyncSentinelClient, tmp_path: Path
) -> None:
    results = await client.upsert([Item(image=tmp_path / "gone.jpg")], collection="c")
    assert results[0].outcome is Outcome.FAILED
    assert not gateway.calls["UpsertItems"]


async def test_items_are_read_and_deleted_by_id_in_any_number(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.upsert([Item(id=str(n), text="x") for n in range(3)], collection="c")
    ids = [str(number) for number in range(2_500)]
    found = await client.get_items(ids, collection="c")
    assert [item.id for item in found] == ["0", "1", "2"]
    assert len(found.missing_ids) == 2_497
    assert max(len(call.ids) for call in gateway.calls["GetItems"]) == 1_000
    assert await client.delete_items(ids, collection="c", dry_run=True) == 3
    assert await client.delete_items(ids, collection="c") == 3
    assert not gateway.items


async def test_deleting_needs_exactly_one_selector(client: AsyncSentinelClient) -> None:
    with pytest.raises(TypeError):
        await client.delete_items(collection="c")
    with pytest.raises(TypeError):
        await client.delete_items(["1"], collection="c", filter=F("a") == 1)


async def test_deleting_by_filter_sends_the_filter(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.delete_items(collection="c", filter=F("a") == 1)
    assert gateway.calls["DeleteItems"][0].WhichOneof("selector") == "filter"


async def test_a_preview_deletes_nothing_and_its_token_is_sent_only_when_given(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.add_collection("c")
    await client.upsert([Item(id=str(n), text="x") for n in range(3)], collection="c")
    some, condition = await client.preview_deletion("c", filter=F("a") == 1), F("a") == 1
    whole = await client.preview_deletion("c")
    assert (some.count, some.confirmation_token) == (3, "3 of c")
    assert whole.confirmation_token == "all of c"
    assert (len(gateway.items), list(gateway.collections)) == (3, ["c"])
    await client.delete_items(collection="c", filter=condition)
    await client.delete_items(
        collection="c", filter=condition, confirmation_token=some.confirmation_token
    )
    await client.delete_collection("c", confirmation_token=whole.confirmation_token)
    tokens = [call.confirmation_token for call in gateway.calls["DeleteItems"]]
    assert tokens == ["", "", "3 of c"]
    assert gateway.calls["DeleteCollection"][0].confirmation_token == "all of c"
    with pytest.raises(TypeError):
        await client.delete_items(["1"], collection="c", confirmation_token="3 of c")


async def test_get_or_create_makes_what_is_missing_once(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    fields = [FieldSchema("path", FieldType.STRING)]
    made = await client.get_or_create_collection("c", fields)
    again = await client.get_or_create_collection("c")
    assert made.fields == again.fields == tuple(fields)
    assert len(gateway.calls["CreateCollection"]) == 1


async def test_get_or_create_survives_somebody_faster(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.add_collection("c")
    gateway.failures["GetCollection"].append(core.NotFound("COLLECTION_NOT_FOUND", "no"))
    gateway.failures["CreateCollection"].append(core.AlreadyExists("COLLECTION_EXISTS", "yes"))
    assert (await client.get_or_create_collection("c")).name == "c"


async def test_collections_are_listed_over_all_pages_and_deleted(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    for name in "abcde":
        gateway.add_collection(name)
    await client.delete_collection("c")
    assert [one.name for one in await client.list_collections()] == ["a", "b", "d", "e"]
    with pytest.raises(NotFound):
        await client.delete_collection("c")


async def test_health_tells_each_service(gateway: FakeGateway, client: AsyncSentinelClient) -> None:
    assert (await client.health()).serving
    gateway.set_serving(False, "sentinel.search.v1.ItemService")
    health = await client.health()
    assert not health.serving
    assert health.services["sentinel.search.v1.ItemService"] is HealthStatus.NOT_SERVING
    assert health.services[""] is HealthStatus.SERVING


async def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AsyncSentinelClient().address == "127.0.0.1:50050"
    monkeypatch.setenv("SENTINEL_ADDRESS", "elsewhere:1")
    assert AsyncSentinelClient().address == "elsewhere:1"
    assert AsyncSentinelClient("here:2").address == "here:2"
    with pytest.raises(ValueError, match="scheme"):
        AsyncSentinelClient("http://here:2")


async def test_a_closed_client_says_so(gateway: FakeGateway) -> None:
    client = AsyncSentinelClient(gateway.address)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.health()


async def test_large_messages_pass(gateway: FakeGateway, client: AsyncSentinelClient) -> None:
    results = await client.upsert([Item(image=bytes(20 << 20))], collection="c")
    assert results[0].outcome is Outcome.STORED


def test_every_error_is_a_sentinel_error() -> None:
    assert issubclass(ConnectionFailed, Unavailable)
    assert issubclass(AlreadyExists, SentinelError)
