"""Milvus Lite whose disk fails: nothing acknowledged is lost, whatever step fails or is killed.

A copy of the folder while it is open is what SIGKILL would leave.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from milvus_lite.db import MilvusLite
from milvus_lite.engine import compaction, flush
from milvus_lite.schema import persistence
from milvus_lite.storage import manifest, wal

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError, Unavailable
from sentinel_store.collections import CollectionInfo, ReindexMark
from sentinel_store.items import Row
from sentinel_store.milvus import connection, lite_files, schema
from sentinel_store.milvus.lite_database import LiteDatabase
from sentinel_store.values import ModelRef
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect, error_info, text
from tests.search_server.embedders.test_faults import FAKE, Result, caption, gateway_at
from tests.waiting import until

INFO = CollectionInfo("c", ModelRef("m", "r", "f"), 4, {})


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


def rows(first: int, last: int, words: str = "") -> list[Row]:
    numbers = range(first, last)
    return [Row(f"i{n}", "d" * 64, "", words, {}, np.ones(4, np.float32)) for n in numbers]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SearchStore]:
    store = SearchStore(str(folder), "", 4)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SearchStore]:
    async with opened(tmp_path / "milvus.db") as store:
        await store.create_collection(INFO, deadline())
        yield store


async def ids(store: SearchStore) -> set[str]:
    """All ids; each must be counted and listed once."""
    found = [row.id for row in await store.page(INFO, "", "", 1_000, deadline())]
    assert len(found) == len(set(found)) == await store.count(INFO, "", deadline())
    return set(found)


async def after_a_kill(folder: Path) -> set[str]:
    """The ids that a copy of the open folder has."""
    copy = folder.with_name("copy.db")
    shutil.copytree(folder, copy)
    try:
        async with opened(copy) as store:
            return await ids(store)
    finally:
        shutil.rmtree(copy)


async def healed(call: Callable[[], Awaitable[Any]]) -> Any:
    """The result of a call, once Lite can be opened again; it tries once a second."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("it did not come to that")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_rows_of_a_failed_flush_are_read_from_the_log_again(
    tmp_path: Path, store: SearchStore
) -> None:
    obstacle = tmp_path / "milvus.db" / "collections" / "c" / "partitions"
    obstacle.write_bytes(b"")
    await store.upsert(INFO, rows(0, 32), deadline())
    with pytest.raises(SentinelError):
        await store.flush("c")
    # Neither reads nor writes while it is so: Lite has none of the 32 in memory.
    for call in (
        lambda: store.count(INFO, "", deadline()),
        lambda: store.get(INFO, ["i1"], deadline()),
        lambda: store.upsert(INFO, rows(32, 33), deadline()),
        lambda: store.list_collections(deadline()),
    ):
        with pytest.raises(Unavailable) as caught:
            await call()
        assert "partitions" in caught.value.message
    obstacle.unlink()
    await healed(lambda: store.upsert(INFO, rows(32, 33), deadline()))
    await store.flush("c")
    assert len(await ids(store)) == 33
    assert len(await after_a_kill(tmp_path / "milvus.db")) == 33


FLUSH_STEPS: dict[str, tuple[Any, str]] = {
    "the rows": (flush, "write_data_file"),
    "the deletions": (flush, "write_delta_file"),
    "the manifest": (manifest.json, "dump"),
    "the new manifest's name": (manifest.os, "replace"),
    "the old log's end": (wal.WAL, "close_and_delete"),
}


@pytest.mark.parametrize("step", FLUSH_STEPS)
async def test_a_flush_that_fails_at_any_step_loses_nothing(
    tmp_path: Path, store: SearchStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await store.upsert(INFO, rows(0, 10), deadline())
    await store.flush("c")
    await store.upsert(INFO, rows(10, 20), deadline())
    await store.delete(INFO, schema.with_ids(["i3", "i13"]), deadline())
    expected = {f"i{n}" for n in range(20)} - {"i3", "i13"}
    with monkeypatch.context() as patch:
        patch.setattr(*FLUSH_STEPS[step], full)
        with pytest.raises(SentinelError):
            await store.flush("c")
        assert await after_a_kill(tmp_path / "milvus.db") == expected
    assert await healed(lambda: ids(store)) == expected
    await store.upsert(INFO, rows(20, 21), deadline())
    await store.flush("c")
    expected.add("i20")
    assert await ids(store) == expected
    assert await after_a_kill(tmp_path / "milvus.db") == expected


async def test_a_failed_append_hides_no_later_record(tmp_path: Path, store: SearchStore) -> None:
    """Half a record stays in the log. Lite reads nothing behind it, so a new log must begin."""
    await store.upsert(INFO, rows(0, 10), deadline())
    stored = {f"i{n}" for n in range(10)}
    with small_files(100_000), pytest.raises(Unavailable, match="full"):
        await store.upsert(INFO, rows(10, 60, "x" * 4_000), deadline())
    for n in range(60, 70):
        await healed(lambda n=n: store.upsert(INFO, rows(n, n + 1), deadline()))
        stored.add(f"i{n}")
    assert stored <= await ids(store)
    assert stored <= await after_a_kill(tmp_path / "milvus.db")
    await store.flush("c")
    assert stored <= await after_a_kill(tmp_path / "milvus.db")


async def test_a_disk_with_no_room_refuses_writes_and_answers_reads(
    tmp_path: Path, store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.upsert(INFO, rows(0, 10), deadline())
    opens: list[int] = []
    inner = LiteDatabase.open
    monkeypatch.setattr(LiteDatabase, "open", lambda self: opens.append(1) or inner(self))
    with small_files(100_000):
        with pytest.raises(Unavailable, match="full"):
            await store.upsert(INFO, rows(10, 60, "x" * 4_000), deadline())
        for _ in range(5):
            with pytest.raises(Unavailable, match="make room"):
                await store.upsert(INFO, rows(60, 61), deadline())
            assert len(await ids(store)) >= 10
        assert len(opens) == 1  # not for every refused write
        assert await store.check(deadline()) is not None
    await store.upsert(INFO, rows(60, 61), deadline())
    assert await store.check(deadline()) is None


async def test_opening_again_and_again_keeps_no_files_or_threads(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LITE_RETRY_S", 0.0)

    async def fail_and_heal() -> tuple[int, int]:
        with monkeypatch.context() as patch:
            patch.setattr(wal.WAL, "write_insert", full)
            with pytest.raises(Unavailable):
                await store.upsert(INFO, rows(0, 1), deadline())
        await store.upsert(INFO, rows(0, 1), deadline())
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = max([await fail_and_heal() for _ in range(3)])
    after = [await fail_and_heal() for _ in range(10)][-1]
    assert after[0] <= before[0] + 5
    assert after[1] <= before[1] + 5


async def test_an_alias_that_was_not_saved_is_not_believed(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create_collection(CollectionInfo("d", INFO.model, 4, {}), deadline())
    await store.aliases.point("live", "c", deadline())
    with monkeypatch.context() as patch:
        patch.setattr("milvus_lite.db.json.dump", full)
        with pytest.raises(SentinelError):
            await store.aliases.point("live", "d", deadline())
    assert await healed(lambda: store.aliases.resolve("live", deadline())) == "c"


async def test_a_property_that_was_not_saved_is_not_believed(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = ReindexMark("target", "run", dual_write=True)
    with monkeypatch.context() as patch:
        patch.setattr(persistence.json, "dump", full)
        with pytest.raises(SentinelError):
            await store.set_reindex("c", mark, deadline())
    info = await healed(lambda: store.describe_collection("c", deadline()))
    assert info.reindex is None


async def test_a_compaction_that_fails_loses_nothing(
    tmp_path: Path, store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "write_data_file", full)
    expected = set()
    for n in range(6):  # four small segments are merged
        await store.upsert(INFO, rows(n, n + 1), deadline())
        await store.flush("c")
        expected.add(f"i{n}")
    assert await ids(store) == expected
    assert await after_a_kill(tmp_path / "milvus.db") == expected


async def test_what_is_written_into_a_removed_folder_is_not_acknowledged(
    tmp_path: Path, store: SearchStore
) -> None:
    await store.upsert(INFO, rows(0, 1), deadline())
    folder = tmp_path / "milvus.db"
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="removed or replaced"):
        await store.upsert(INFO, rows(1, 2), deadline())
    # Nor does an empty database begin in its place: a volume may only be missing.
    with pytest.raises(Unavailable, match="is gone"):
        await store.list_collections(deadline())
    assert not (folder / "LOCK").exists()
    shutil.rmtree(folder, ignore_errors=True)
    (tmp_path / "elsewhere").rename(folder)
    await healed(lambda: store.upsert(INFO, rows(2, 3), deadline()))
    assert {"i0", "i2"} <= await ids(store)


async def test_a_folder_that_cannot_be_looked_at_is_unavailable(tmp_path: Path) -> None:
    volume, elsewhere = tmp_path / "volume", tmp_path / "elsewhere"
    async with opened(volume / "milvus.db") as store:
        await store.create_collection(INFO, deadline())
        await store.upsert(INFO, rows(0, 1), deadline())  # its log is open from here on
        volume.rename(elsewhere)
        volume.touch()  # "not a directory", as a failing volume has errors of its own
        with pytest.raises(Unavailable, match="cannot use"):
            await store.check(deadline())
        with pytest.raises(Unavailable, match="cannot use"):
            await store.upsert(INFO, rows(1, 2), deadline())
        with pytest.raises(Unavailable, match="cannot use"):
            await store.list_collections(deadline())
        volume.unlink()
        elsewhere.rename(volume)
        await healed(lambda: store.upsert(INFO, rows(2, 3), deadline()))
        assert {"i0", "i2"} <= await ids(store)


async def test_a_folder_that_fails_to_open_is_not_locked_by_that(
    tmp_path: Path, store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.close()
    database = LiteDatabase(tmp_path / "milvus.db")

    def fail(_: Any) -> None:
        raise ValueError("unexpected")

    with monkeypatch.context() as patched:
        patched.setattr(lite_files, "remove_flushed_logs", fail)
        with pytest.raises(ValueError, match="unexpected"):
            database.open()
    database.open()
    database.close()


async def test_a_disk_that_fails_while_lite_opens_leaves_no_lock(
    tmp_path: Path, store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.close()
    database = LiteDatabase(tmp_path / "milvus.db")
    with monkeypatch.context() as patched:
        patched.setattr(MilvusLite, "_cleanup_database_staging", full)  # after it has its lock
        with pytest.raises(Unavailable, match="no room"):
            database.open()
    database.open()
    database.close()


async def test_a_folder_that_another_process_has_is_said(
    tmp_path: Path, store: SearchStore
) -> None:
    await store.list_collections(deadline())
    async with opened(tmp_path / "milvus.db") as second:
        with pytest.raises(Unavailable, match="another process has"):
            await second.list_collections(deadline())
    await store.upsert(INFO, rows(0, 1), deadline())


async def test_close_gives_the_folder_free(tmp_path: Path) -> None:
    for n in range(2):
        async with opened(tmp_path / "milvus.db") as store:
            if not n:
                await store.create_collection(INFO, deadline())
            await store.upsert(INFO, rows(n, n + 1), deadline())
    async with opened(tmp_path / "milvus.db") as store:
        assert await ids(store) == {"i0", "i1"}


def test_a_gateway_serves_no_reads_between_a_failed_flush_and_the_log(tmp_path: Path) -> None:
    """The case as it was seen: 32 items are acknowledged, a flush fails, one more comes, a kill."""
    obstacle = tmp_path / "milvus.db" / "collections" / "photos" / "partitions"
    with processes.running(tmp_path / "w", FAKE) as worker:
        with gateway_at(tmp_path, worker.address) as server:
            gateway = connect(server.address)
            gateway.create("photos")
            obstacle.write_bytes(b"")
            results = gateway.upsert("photos", *(caption(f"text {n}") for n in range(32)))
            assert {result.outcome for result in results} == {Result.OUTCOME_STORED}
            assert processes.wait_for_health(server.address, False, 20)
            until(lambda: '"not serving"' in server.log.read_text())
            assert metric(server.metrics_address, "sentinel_gateway_problem") == 1
            for call in (
                lambda: gateway.count("photos"),
                lambda: gateway.hits("photos", text("t")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert error_info(caught.value)[0] == "UNAVAILABLE"
            obstacle.unlink()
            assert processes.wait_for_health(server.address, True, 20)
            assert metric(server.metrics_address, "sentinel_gateway_problem") == 0
            assert gateway.count("photos") == 32
            gateway.upsert("photos", caption("one more"))
            until(
                lambda: list(obstacle.rglob("*.parquet"))
            )  # the next flush, which deletes the log
            server.kill()
        with gateway_at(tmp_path, worker.address) as server:
            assert connect(server.address).count("photos") == 33


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits others' files")
def test_a_gateway_without_room_keeps_all_it_acknowledged_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    long = " and more" * 400
    with processes.running(tmp_path / "w", FAKE) as worker:
        with gateway_at(tmp_path, worker.address) as server:
            gateway = connect(server.address)
            gateway.create("photos")
            gateway.upsert("photos", *(caption(f"text {n}") for n in range(20)))
            unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as caught:
                    gateway.upsert("photos", *(caption(f"long {n}{long}") for n in range(200)))
                assert error_info(caught.value) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
                assert "make room" in caught.value.details() or "full" in caught.value.details()
            until(lambda: '"degraded"' in server.log.read_text())
            assert processes.is_serving(server.address)
            assert gateway.hits("photos", text("text 1"))
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
            gateway.upsert("photos", caption("one more"))
            until(lambda: metric(server.metrics_address, "sentinel_gateway_problem") == 0)
            stored = gateway.count("photos")  # of the refused batches some may be there
            assert stored >= 21
            server.kill()
        with gateway_at(tmp_path, worker.address) as server:
            assert connect(server.address).count("photos") == stored


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="no POSIX file system")
async def test_nothing_is_left_of_the_probe(tmp_path: Path) -> None:
    database = LiteDatabase(tmp_path / "milvus.db")
    database.open()
    database.check_room()
    database.close()
    assert not (tmp_path / "milvus.db" / "sentinel-probe").exists()
