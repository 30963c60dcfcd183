from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest

from sentinel_client import AsyncSentinelClient, Item, NotFound, Outcome, SentinelClient
from tests.client.fake_gateway import FakeGateway, hit


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_signatures() -> None:
    assert public(SentinelClient) == public(AsyncSentinelClient)
    for name in public(SentinelClient) - {"address", "close"}:
        one, other = getattr(SentinelClient, name), getattr(AsyncSentinelClient, name)
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__ == other.__doc__


def test_it_searches_stores_and_reads(gateway: FakeGateway) -> None:
    gateway.hits = [hit(1, 0.5, "/p/1.jpg")]
    with SentinelClient(gateway.address) as client:
        assert client.search("x", collection="c")[0].fields["path"] == "/p/1.jpg"
        assert client.upsert([Item(text="x")], collection="c")[0].outcome is Outcome.STORED
        with pytest.raises(NotFound):
            client.get_collection("none")


def test_a_stream_can_be_left_early(gateway: FakeGateway) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 100)]
    with SentinelClient(gateway.address) as client:
        assert len(list(client.stream_search("x", collection="c", limit=99))) == 99
        for one in client.stream_search("x", collection="c", limit=99):
            assert one.rank == 1
            break
        unfinished = client.stream_search("x", collection="c")
        next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]


def test_ctrl_c_just_after_a_call_was_sent_ends_the_stream(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that moment nobody holds the call yet, so nobody has cancelled it."""
    submit = SentinelClient._submit
    interrupts = [KeyboardInterrupt]

    def interrupted(client: SentinelClient, work: Any) -> Any:
        future = submit(client, work)
        if interrupts:
            assert gateway.entered.wait(20)
            raise interrupts.pop()
        return future

    gateway.stall()
    with SentinelClient(gateway.address) as client:
        monkeypatch.setattr(SentinelClient, "_submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(client.stream_search("x", collection="c"))
        assert gateway.cancelled.wait(20)


def test_threads_may_share_one_client(gateway: FakeGateway) -> None:
    gateway.hits = [hit(1, 0.5)]
    found: list[int] = []
    with SentinelClient(gateway.address) as client:
        threads = [
            threading.Thread(target=lambda: found.append(len(client.search("x", collection="c"))))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1] * 8


def test_the_loop_thread_ends_with_the_last_client_and_starts_again(gateway: FakeGateway) -> None:
    def loops() -> int:
        return sum(thread.name == "sentinel-client" for thread in threading.enumerate())

    for _ in range(2):
        one, other = SentinelClient(gateway.address), SentinelClient(gateway.address)
        assert one.health().serving
        assert other.health().serving
        assert loops() == 1
        one.close()
        one.close()
        assert other.health().serving
        other.close()
        assert loops() == 0
    with pytest.raises(RuntimeError, match="closed"):
        one.health()
