"""What pymilvus raises becomes an error that says what to do; a full Milvus above all."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import AsyncMilvusClient
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, Internal, Unavailable
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import errors
from sentinel_store.milvus.connection import read_server
from sentinel_store.values import ModelRef

QUOTA = "quota exceeded[reason=disk quota exceeded, please allocate more resources]"


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


@asynccontextmanager
async def open_store(uri: str) -> AsyncIterator[SearchStore]:
    store = SearchStore(uri, "", threads=4)
    try:
        yield store
    finally:
        await store.close()


def status(code: int, reason: str, legacy: int = 1) -> MilvusException:
    """The exception as pymilvus makes it of an answer."""
    return MilvusException.from_status(
        common_pb2.Status(code=code, reason=reason, error_code=legacy)  # type: ignore[arg-type]
    )


FULL = {
    "a disk quota": status(9, QUOTA, common_pb2.ForceDeny),  # seen with 2.3.5
    "a memory quota": status(9, QUOTA.replace("disk", "memory"), common_pb2.ForceDeny),
    "a memory limit": status(3, "memory limit exceeded[predict=2][limit=1]"),
    "a disk limit": status(7, "disk limit exceeded[predict=2][limit=1]"),
    "a server's disk": status(65535, "write /var/lib/milvus/x: no space left on device"),
    "Lite's disk": status(1, "[Errno 28] No space left on device: 'a.db/wal/1.log'"),
    "Lite's quota": status(1, "[Errno 122] Disk quota exceeded"),
    "a limit on files": status(1, "[Errno 27] File too large"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_milvus_is_said(name: str) -> None:
    error = errors.converted(FULL[name], deadline())
    assert isinstance(error, Unavailable)
    assert error.reason == "STORE_UNAVAILABLE"
    assert error.message.startswith("Milvus is full")


def test_other_refusals_are_not_taken_for_a_full_milvus() -> None:
    slow = errors.converted(status(9, "time tick long delay"), deadline())
    assert isinstance(slow, Unavailable)
    assert "full" not in slow.message
    assert isinstance(errors.converted(status(1, "some fault"), deadline()), Internal)


def test_the_last_error_of_a_call_whose_time_is_over_is_no_fault() -> None:
    last = status(65535, "[has_collection] Retry timeout: 9.98s, message=whatever it was")
    assert isinstance(errors.converted(last, deadline()), DeadlineExceeded)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "service not ready[standalone=3]: Abnormal"),  # Milvus starts or stops
        (4, "request limit exceeded[limit=16]"),
        (8, "rate limit exceeded[rate=10]"),
        (11, "time tick long delay"),
        (101, "collection not loaded[collection=1]"),
        (106, "collection on recovering[collection=1]"),
        (401, "replica not available[replica=7]"),
        (500, "channel not found[channel=by-dev-rootcoord-dml_0]"),
        (503, "channel not available[channel=by-dev-rootcoord-dml_0]"),
        (602, "segment lacks[segment=1]"),
        (902, "node offline[node=3]"),
        (904, "node not match[expectedNodeID=1][actualNodeID=2]"),
        (1303, "deny to write the message to mq"),
        (10_000, "context canceled"),
        (65535, "fail to search on QueryNode 3: worker(3) query failed: node offline[node=3]"),
        (65535, "failed to search: no available shard leaders[collection=1]"),
        (65535, "rpc error: code = Unavailable desc = transport is closing"),
        (65535, "nodes not enough"),
        (65535, "there is no vector index on collection: a, please create index firstly"),
        (700, "index not found[collection=a]"),
        (65535, "proxy TaskCondition context Done"),
        (65535, "empty grpc client: find no available rootcoord, check rootcoord state"),
    ],
)
def test_states_of_a_server_that_pass_are_unavailable_and_log_nothing(
    code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = errors.converted(status(code, reason), deadline())
    assert isinstance(error, Unavailable)
    assert error.reason == "STORE_UNAVAILABLE"
    assert not caplog.records


def test_whatever_milvus_calls_retriable_is_unavailable() -> None:
    answer = common_pb2.Status(code=4242, reason="something of tomorrow", retriable=True)
    error = errors.converted(MilvusException.from_status(answer), deadline())
    assert isinstance(error, Unavailable)


def test_milvus_own_timeout_is_out_of_time() -> None:
    error = errors.converted(status(10_001, "timeout"), deadline())
    assert isinstance(error, DeadlineExceeded)


def test_an_unknown_error_that_repeats_is_logged_once_and_keeps_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = [errors.converted(status(1, "never seen"), deadline()) for _ in range(20)]
    assert len({error.metadata["error_id"] for error in found}) == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info
    other = errors.converted(status(1, "never seen either"), deadline())
    assert other.metadata["error_id"] != found[0].metadata["error_id"]


async def test_a_full_disk_under_lite_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    info = CollectionInfo("c", ModelRef("m", "r", "f"), 4, {})
    filler = small_disk / "filler"
    stored = []

    async def upsert(store: SearchStore, number: int) -> None:
        ids = [f"i{number}-{part}" for part in range(50)]
        rows = [Row(one, "d" * 64, "", "x" * 4_000, {}, np.ones(4, np.float32)) for one in ids]
        await store.upsert(info, rows, deadline())
        stored.extend(ids)

    async with open_store(str(small_disk / "milvus.db")) as store:
        await store.create_collection(info, deadline())
        await upsert(store, 0)
        filler.write_bytes(os.urandom(shutil.disk_usage(small_disk).free - 500_000))
        with pytest.raises(Unavailable, match="Milvus is full"):
            for number in range(1, 100):
                await upsert(store, number)
        filler.unlink()
        await upsert(store, 100)
        assert len(await store.get(info, stored, deadline())) == len(stored)
    async with open_store(str(small_disk / "milvus.db")) as store:
        assert len(await store.get(info, stored, deadline())) == len(stored)


def reading(seconds: float) -> Coroutine[Any, Any, Any]:
    """A query of a server."""
    return read_server(AsyncMilvusClient(), "query", "c", {}, Deadline.within(seconds))


async def test_a_connection_that_is_closed_under_a_read_cancels_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def closed(self: AsyncMilvusClient, collection: str, **options: None) -> None:
        raise asyncio.CancelledError  # what grpc.aio makes of it

    monkeypatch.setattr(AsyncMilvusClient, "query", closed)
    with pytest.raises(Unavailable) as caught:
        await reading(5)
    assert caught.value.reason == "STORE_UNAVAILABLE"


async def test_a_caller_that_leaves_a_read_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(self: AsyncMilvusClient, collection: str, **options: None) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AsyncMilvusClient, "query", forever)
    task = asyncio.create_task(reading(5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_read_that_takes_too_long_is_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def slow(self: AsyncMilvusClient, collection: str, **options: None) -> None:
        assert options == {
            "timeout": None
        }  # pymilvus's own would end it with an error that says less
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("read")  # which cancels the call in Milvus

    monkeypatch.setattr(AsyncMilvusClient, "query", slow)
    with pytest.raises(DeadlineExceeded) as caught:
        await reading(0.1)
    assert caught.value.reason == "OUT_OF_TIME"
    assert ended == ["read"]


async def test_a_load_that_takes_too_long_is_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_loaded(self: AsyncMilvusClient, collection: str, **options: None) -> None:
        raise MilvusException(code=101, message="collection not loaded")

    async def load(self: AsyncMilvusClient, collection: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AsyncMilvusClient, "query", not_loaded)
    monkeypatch.setattr(AsyncMilvusClient, "load_collection", load)
    with pytest.raises(DeadlineExceeded) as caught:
        await reading(0.1)
    assert caught.value.reason == "OUT_OF_TIME"
