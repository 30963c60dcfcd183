"""A library moves to another Milvus while it is searched and written, and nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_server.milvus.move import Move, Progress
from search_server.milvus.move_requests import MoveRequests, _while_alive
from search_server.milvus.search_store import SearchStore
from search_server.settings import GatewaySettings
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, FailedPrecondition
from sentinel_store.collections import CollectionInfo, Origin, OriginState
from sentinel_store.items import Row
from sentinel_store.milvus import schema
from sentinel_store.milvus.movable import Written
from sentinel_store.values import FieldType, ModelRef

DIMENSIONS = 8
RNG = np.random.default_rng(3)


def deadline() -> Deadline:
    return Deadline.within(60)


def row(number: int, text: str = "") -> Row:
    vector = RNG.normal(size=DIMENSIONS).astype(np.float32)
    vector /= np.linalg.norm(vector)
    fields = {"year": 2**60 + number, "tags": ["é", str(number)]}
    name = f"{number:05}é" if number % 2 else f"{number:05}"
    return Row(name, f"{number:064x}", "", text or f"text {number}", fields, vector)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[SearchStore, SearchStore]]:
    """The Milvus in use, and an empty one."""
    both = SearchStore(str(tmp_path / "a.db"), "", 8), SearchStore(str(tmp_path / "b.db"), "", 8)
    yield both
    for one in both:
        await one.close()


async def collection(store: SearchStore, name: str, rows: int = 0) -> CollectionInfo:
    info = CollectionInfo(
        name=name,
        model=ModelRef("m", "1", "f" * 64),
        dimensions=DIMENSIONS,
        fields={"year": FieldType.INT64, "tags": FieldType.STRING_LIST},
        indexed=("year",),
    )
    await store.create_collection(info, deadline())
    found = await store.describe_collection(name, deadline())
    assert found is not None
    for start in range(0, rows, 250):
        part = [row(number) for number in range(start, min(start + 250, rows))]
        await store.upsert(found, part, deadline())
    return found


async def everything(store: SearchStore, info: CollectionInfo) -> dict[str, tuple[object, bytes]]:
    found, last = dict[str, tuple[object, bytes]](), ""
    while page := await store.page(info, "", last, 1000, deadline(), include_vectors=True):
        for one in page:
            assert one.vector is not None
            assert one.id not in found
            found[one.id] = (replace(one, vector=None), one.vector.tobytes())
        last = page[-1].id
    return found


def at(step: str, act: Callable[[], None]) -> Callable[[Progress], None]:
    """Do something once, when the move comes to a step."""
    done = False

    def tell(progress: Progress) -> None:
        nonlocal done
        if progress.doing == step and progress.done and not done:
            done = True
            act()

    return tell


async def test_rows_names_and_descriptions_are_the_same(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, target = stores
    photos = await collection(source, "photos", 700)
    empty = await collection(source, "photos__new")
    await source.set_origin("photos__new", Origin("photos", OriginState.COMPLETE), deadline())
    await source.aliases.point("live", "photos", deadline())
    await source.aliases.point("photos", "photos__new", deadline(), may_move=True)
    before = await everything(source, photos)
    ids = (photos.id, empty.id)
    properties = await source.properties("photos__new", deadline())
    recorded: list[bool] = []
    counts, old = await Move(source, target, lambda _: None).run(lambda: recorded.append(True))
    assert (counts, recorded) == ({"photos": 700, "photos__new": 0}, [True])
    assert await everything(source, photos) == before
    await old.close()
    # What was a connection of the target is now that of the source.
    names = await source.aliases.of("photos__new", deadline())
    assert (names.aliases, names.moved) == (["live"], ["photos"])
    assert await source.aliases.own("photos", deadline()) == ["live"]
    now = await source.properties("photos__new", deadline())
    assert {key: now.get(key) for key in properties} == properties
    moved = [
        await source.describe_collection(name, deadline(), follow=False)
        for name in ("photos", "photos__new")
    ]
    assert tuple(one.id for one in moved if one is not None) == ids


async def test_what_is_written_meanwhile_is_on_the_other_side(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    """Writers and searchers go on through the whole move; every acknowledged write is there."""
    source, target = stores
    info = await collection(source, "photos", 900)
    expected = {one.id for one in [row(number) for number in range(900)]}
    rows: dict[str, Row] = {}
    stop = asyncio.Event()
    turns = asyncio.Semaphore(0)

    async def write(worker: int) -> None:
        number = 0
        while not stop.is_set():
            new = row(1_000 + worker * 1_000 + number % 400, f"turn {number}")
            await source.upsert(info, [new], deadline())
            rows[new.id] = new
            if number % 5 == 4:
                gone = row(worker * 300 + number // 5 % 300).id
                await source.delete(info, schema.with_ids([gone]), deadline())
                expected.discard(gone)
            number += 1
            turns.release()

    async def search() -> None:
        while not stop.is_set():
            assert await source.count(info, "", deadline()) > 0
            assert await source.get(info, [row(0).id, "00899é"], deadline()) is not None

    async with asyncio.TaskGroup() as tasks:
        for work in (write(0), write(1), search(), search()):
            tasks.create_task(work)
        for _ in range(20):
            await turns.acquire()
        _, old = await Move(source, target, lambda _: None).run(lambda: None)
        while not turns.locked():
            await turns.acquire()
        for _ in range(20):  # on the new one
            await turns.acquire()
        stop.set()
    await old.close()
    found = await everything(source, info)
    assert set(found) == expected | set(rows)
    for item_id, one in rows.items():
        assert one.vector is not None
        assert found[item_id] == (replace(one, vector=None), one.vector.tobytes())


async def test_a_write_of_the_last_moment_waits_and_goes_to_the_new_one(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, target = stores
    info = await collection(source, "photos", 10)
    writing: list[asyncio.Task[None]] = []

    def record() -> None:
        async def write() -> None:
            await source.upsert(info, [row(77)], deadline())

        writing.append(asyncio.create_task(write()))

    _, old = await Move(source, target, lambda _: None).run(record)
    await asyncio.gather(*writing)
    assert "00077é" in await everything(source, info)
    await old.close()


@pytest.mark.parametrize("begins_before", [True, False])
async def test_a_slow_write_is_on_the_other_side(
    stores: tuple[SearchStore, SearchStore], monkeypatch: pytest.MonkeyPatch, begins_before: bool
) -> None:
    """It begins before the move or while rows are followed, and reaches Milvus only at the end."""
    source, target = stores
    info = await collection(source, "photos", 30)
    connection = source.connection.current
    write, begun, may_write = connection.write, asyncio.Event(), asyncio.Event()
    changed = row(7, "changed")

    async def slow_write(*arguments: Any, **request: Any) -> None:
        begun.set()
        await may_write.wait()
        await write(*arguments, **request)

    async def begin() -> asyncio.Task[None]:
        monkeypatch.setattr(connection, "write", slow_write)
        writing = asyncio.create_task(source.upsert(info, [changed], deadline()))
        await begun.wait()
        return writing

    move = Move(source, target, lambda _: None)
    rows_of, writing = move._rows_of, list[asyncio.Task[None]]()

    async def follow(written: Written) -> None:
        await rows_of(written)
        may_write.set()

    async def begin_late(doing: str) -> None:
        await all_rows(doing)
        if doing == "comparing" and not begins_before:
            writing.append(await begin())

    all_rows = move._all_rows
    monkeypatch.setattr(move, "_rows_of", follow)
    monkeypatch.setattr(move, "_all_rows", begin_late)
    if begins_before:
        writing.append(await begin())
    _, old = await move.run(lambda: None)
    await asyncio.gather(*writing)
    await old.close()
    found, _ = (await everything(source, info))[changed.id]
    assert isinstance(found, Row)
    assert found.text == "changed"


async def test_writes_that_are_held_too_long_fail_by_their_deadline(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, _ = stores
    info = await collection(source, "photos", 1)
    async with source.connection.writes_held():
        with pytest.raises(DeadlineExceeded):
            await source.upsert(info, [row(1)], Deadline.within(0.05))
        assert await source.count(info, "", deadline()) == 1, "reads go on"


async def test_an_interrupted_move_changes_nothing_and_continues(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, target = stores
    info = await collection(source, "photos", 900)
    before = await everything(source, info)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    for tell, record in ((at("copying", fail), lambda: None), (lambda _: None, fail)):
        with pytest.raises(OSError, match="No space"):
            await Move(source, target, tell).run(record)
        assert source.connection.current.is_lite
        assert await everything(source, info) == before
        await source.upsert(info, [row(5, "changed meanwhile")], deadline())
        await source.delete(info, schema.with_ids([row(6).id]), deadline())
        before = await everything(source, info)
    counts, old = await Move(source, target, lambda _: None).run(lambda: None)
    assert counts == {"photos": 899}
    assert await everything(source, info) == before
    await old.close()


async def test_collections_made_and_dropped_meanwhile(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, target = stores
    await collection(source, "gone", 30)
    await collection(source, "again", 30)
    await collection(source, "photos", 300)
    work: list[asyncio.Task[None]] = []
    new: list[CollectionInfo] = []

    async def change() -> None:
        await source.drop_collection("gone", deadline())
        await source.drop_collection("again", deadline())
        new.append(await collection(source, "again", 7))
        new.append(await collection(source, "late", 5))

    def begin() -> None:
        work.append(asyncio.create_task(change()))

    move = Move(source, target, at("copying", begin))
    real = move._all_rows

    async def after_the_change(doing: str) -> None:
        await real(doing)
        await asyncio.gather(*work)

    move._all_rows = after_the_change  # type: ignore[method-assign]
    counts, old = await move.run(lambda: None)
    assert counts == {"again": 7, "late": 5, "photos": 300}
    await old.close()


async def test_a_milvus_with_collections_of_others_is_left_alone(
    stores: tuple[SearchStore, SearchStore],
) -> None:
    source, target = stores
    await collection(source, "photos", 3)
    theirs = await collection(target, "photos", 5)
    with pytest.raises(FailedPrecondition, match="of another library"):
        await Move(source, target, lambda _: None).run(lambda: None)
    assert len(await everything(target, theirs)) == 5


async def test_a_library_does_not_move_to_where_it_is(
    stores: tuple[SearchStore, SearchStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another URI of the same Milvus."""
    source, _ = stores
    info = await collection(source, "photos", 5)
    before = await source.properties("photos", deadline())
    same = SearchStore(str(tmp_path / "c.db"), "", 1)
    monkeypatch.setattr(same.connection, "_milvus", source.connection.current)
    with pytest.raises(FailedPrecondition, match="already"):
        await Move(source, same, lambda _: None).run(lambda: None)
    assert len(await everything(source, info)) == 5
    now = await source.properties("photos", deadline())
    assert now == before | {schema.MOVE: ""}


@pytest.mark.parametrize("call", ["write", "sync the folder"])
@pytest.mark.parametrize("place", [None, {"uri": "http://before", "request": "r0"}])
def test_a_place_that_cannot_be_recorded_stays_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: dict[str, str] | None,
    call: str,
) -> None:
    """Or the next start would serve another Milvus than what was written to until then."""
    recorded = tmp_path / "milvus.json"
    if place is not None:
        recorded.write_text(json.dumps(place))
    (tmp_path / "run").mkdir()
    folder, real, failures = tmp_path.stat(), os.fsync, list[int]()

    def fsync(descriptor: int) -> None:
        is_folder = os.path.samestat(os.fstat(descriptor), folder)
        if is_folder == (call == "sync the folder") and not failures:
            failures.append(descriptor)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    store = SearchStore(str(tmp_path / "milvus.db"), "", 1)
    requests = MoveRequests(GatewaySettings(), store, tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        requests._record({"uri": "x", "to": "http://after", "request": "r1", "pid": os.getpid()})
    assert (json.loads(recorded.read_text()) if recorded.exists() else None) == place
    assert not list(tmp_path.glob(".milvus.json*")), "no half files"


async def test_the_work_ends_with_the_command_that_asked_for_it() -> None:
    command = await asyncio.create_subprocess_exec("sleep", "600")
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    working = asyncio.create_task(_while_alive(command.pid, work()))
    command.kill()
    await command.wait()
    with pytest.raises(ConnectionAbortedError):
        await working
    assert cancelled.is_set()
