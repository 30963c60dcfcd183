"""The parts of the page's server: deletions, caches, decoders, queries, tiles."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sentinel_app.bounded_folder import BoundedFolder
from sentinel_app.decoders import Decoders
from sentinel_app.previews import ImageRefused, preview
from sentinel_app.queries import filter_of
from sentinel_app.thumbnails import Thumbnails
from sentinel_app.tiles import stacked, tile, webp_size
from sentinel_app.trash import Trash
from sentinel_app.web import Refused, Slots
from sentinel_client import (
    Collection,
    F,
    FieldSchema,
    FieldType,
    Hit,
    Item,
    ModelVersion,
    PermissionDenied,
    Unavailable,
)
from tests import photos
from tests.app.conftest import run_apart


class Gateway:
    """Deletes and finds items, or fails."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.failures: list[Exception] = []
        self.asked: list[list[str]] = []
        self.called = asyncio.Event()

    async def delete_items(self, ids: list[str], *, collection: str) -> int:
        self.called.set()
        if self.failures:
            raise self.failures.pop(0)
        self.deleted += ids
        return len(ids)

    async def get_items(self, ids: list[str], **_: Any) -> list[Item]:
        self.asked.append(ids)
        return [Item(id=one, thumbnail=one.encode()) for one in ids if one != "none"]


def test_a_deletion_waits_for_its_time_and_the_end_does_not() -> None:
    async def run() -> None:
        gateway: Any = Gateway()
        async with Trash(gateway, undo_seconds=0) as trash:
            trash.hide("c", ["a"])
            await asyncio.wait_for(gateway.called.wait(), 30)
            assert gateway.deleted == ["a"]
        later: Any = Gateway()
        async with Trash(later, undo_seconds=3600) as trash:
            kept, gone = trash.hide("c", ["a", "b"]), trash.hide("c", ["d"])
            assert trash.hidden("c") == {"a", "b", "d"}
            assert trash.hidden("other") == set()
            assert trash.undo(kept)
            assert not trash.undo(kept)
            assert trash.hidden("c") == {"d"}
            assert later.deleted == []
        assert later.deleted == ["d"]
        assert not trash.undo(gone)

    run_apart(run())


def test_what_cannot_be_deleted_is_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr("sentinel_app.trash._RETRY_SECONDS", 0)
        gateway: Any = Gateway()
        gateway.failures = [Unavailable("DRAINING", "soon"), PermissionDenied("FORBIDDEN", "no")]
        async with Trash(gateway, undo_seconds=0) as trash:
            trash.hide("c", ["a"])
            # The first failure is temporary, the second is not.
            while trash.hidden("c"):
                gateway.called.clear()
                await asyncio.wait_for(gateway.called.wait(), 30)
                await asyncio.sleep(0)
        assert gateway.deleted == []
        assert gateway.failures == []

    run_apart(run())


def test_what_is_added_again_is_not_deleted_meanwhile() -> None:
    async def run() -> None:
        gateway: Any = Gateway()
        async with Trash(gateway, undo_seconds=0) as trash:
            async with trash.adding():
                trash.hide("c", ["a", "b"])
                for _ in range(20):  # it is due, but the gateway may store "a" right now
                    await asyncio.sleep(0)
                trash.keep("c", "a")
            await asyncio.wait_for(gateway.called.wait(), 30)
        assert gateway.deleted == ["b"]

    run_apart(run())


def test_a_deletion_that_no_message_can_hold_stops_no_other() -> None:
    async def run() -> None:
        gateway: Any = Gateway()
        gateway.failures = [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")]
        async with Trash(gateway, undo_seconds=0) as trash:
            trash.hide("c", ["\ud800"])
            await asyncio.wait_for(gateway.called.wait(), 30)
            gateway.called.clear()
            trash.hide("c", ["a"])
            await asyncio.wait_for(gateway.called.wait(), 30)
        ending: Any = Gateway()
        ending.failures = [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")]
        async with Trash(ending, undo_seconds=3600) as trash:
            trash.hide("c", ["\ud800"])
            trash.hide("c", ["b"])
        assert (gateway.deleted, ending.deleted) == (["a"], ["b"])

    run_apart(run())


def test_hidden_items_are_bounded() -> None:
    async def run() -> None:
        gateway: Any = Gateway()
        trash = Trash(gateway)
        trash.hide("c", [str(n) for n in range(10_000)])
        with pytest.raises(OverflowError):
            trash.hide("c", ["one more"])

    run_apart(run())


def test_a_folder_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 250)
    names = [f"{n:016x}" for n in range(3)]
    for name in names[:2]:
        folder.write(name, bytes(100))
    assert folder.read(names[0])
    folder.write(names[2], bytes(100))
    assert [folder.read(name) is not None for name in names] == [True, False, True]
    for at, name in enumerate((names[2], names[0])):
        os.utime(tmp_path / name, (at, at))
    again = BoundedFolder(tmp_path, 150)  # after a restart
    assert again.read(names[2]) is None
    assert again.read(names[0])
    assert again.read("../../etc/passwd") is None
    again.write("../x" * 4, b"x")
    again.write(names[1], bytes(151))
    assert sorted(os.listdir(tmp_path)) == [names[0]]


def test_decoders_stay_and_a_broken_image_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photos.photo("chelsea").read_bytes()

    async def run() -> None:
        async with Decoders() as decoders:
            views = await asyncio.gather(*(decoders.preview(picture, 64) for _ in range(6)))
            assert {(view.width, view.height) for view in views} == {(451, 300)}
            pids = {one._process.pid for one in decoders._idle}
            assert 1 <= len(pids) <= 2
            with pytest.raises(ImageRefused, match="not a readable"):
                await decoders.preview(b"%!PS-Adobe-3.0 EPSF", 64)
            assert {one._process.pid for one in decoders._idle} == pids
            monkeypatch.setattr("sentinel_app.decoders._MAX_SECONDS", 0)
            with pytest.raises(ImageRefused, match="too long"):
                await decoders.preview(picture, 64)
            monkeypatch.undo()
            assert (await decoders.preview(picture, 64)).format == "PNG"

    run_apart(run())


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_formats_of_phones_are_shown(kind: str) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pytest.importorskip("pillow_jxl")
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    Image.new("RGB", (120, 80), "red").save(out, kind)

    async def run() -> None:
        async with Decoders() as decoders:
            view = await decoders.preview(out.getvalue(), 64)
        assert (view.width, view.height) == (120, 80)
        with Image.open(io.BytesIO(view.shown), formats=["JPEG"]) as shown:
            assert shown.size == (64, 43)

    run_apart(run())


def test_thumbnails_of_a_page_are_one_call() -> None:
    async def run() -> None:
        gateway: Any = Gateway()
        thumbnails = Thumbnails(gateway)
        asked = ("a", "b", "none", "x" * 257, "")
        found = await asyncio.gather(*(thumbnails.get("c", one) for one in asked))
        assert found == [b"a", b"b", b"", b"", b""]
        assert gateway.asked == [["a", "b", "none"]]
        assert await thumbnails.get("c", "a") == b"a"
        assert len(gateway.asked) == 1

    run_apart(run())


def test_decoders_import_nothing_from_the_folder_they_start_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL.py").write_text("raise SystemExit('foreign code')")
    monkeypatch.chdir(tmp_path)
    picture = photos.photo("chelsea").read_bytes()

    async def run() -> None:
        async with Decoders() as decoders:
            assert (await decoders.preview(picture, 64)).format == "PNG"

    run_apart(run())
    assert preview(picture, 64).format == "PNG"


def test_waiting_work_is_bounded() -> None:
    async def run() -> None:
        slots, leave = Slots(1, 1), asyncio.Event()

        async def work() -> None:
            async with slots.slot():
                await leave.wait()

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="busy"):
            await work()
        leave.set()
        await asyncio.gather(*tasks)
        await work()

    run_apart(run())


FIELDS = (
    FieldSchema("taken_at", FieldType.TIMESTAMP),
    FieldSchema("modified_at", FieldType.INT64),
    FieldSchema("path", FieldType.STRING),
    FieldSchema("rating", FieldType.INT64),
    FieldSchema("flag", FieldType.BOOL),
    FieldSchema("place", FieldType.GEO),
)
COLLECTION = Collection("c", ModelVersion(), 2, 0, FIELDS)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["taken_at", "ge", "2021-06-05"], F("taken_at") >= datetime(2021, 6, 5, tzinfo=UTC)),
        (["modified_at", "lt", "1970-01-02"], F("modified_at") < 86_400),
        (["path", "contains", "a:b,c"], F("path").contains("a:b,c")),
        (["path", "starts", "/x"], F("path").startswith("/x")),
        (["rating", "is", "3"], F("rating") == 3),
        (["flag", "is", "no"], F("flag") == False),  # noqa: E712
        (["place", "near", "1,2,3000"], F("place").near(1, 2, 3000)),
        (["place", "within", "1,2,3,4"], F("place").within(1, 2, 3, 4)),
        (["place", "known", ""], F("place").exists()),
    ],
)
def test_filters_become_those_of_the_client(asked: list[str], found: Any) -> None:
    assert filter_of(COLLECTION, [asked]) == found


def test_hits_are_stacked_by_their_vectors() -> None:
    vectors = [(1, 0), (0, 1), (0.999, 0.01), (5, 0), (0.7, 0.7)]
    hits = [
        Hit(id=str(n), rank=n + 1, score=0.5, vector=np.array(vector, np.float32))
        for n, vector in enumerate(vectors)
    ]
    hits.append(Hit(id="5", rank=6, score=0.1))  # without a vector
    shown = stacked([{"id": hit.id} for hit in hits], hits)
    assert [one["id"] for one in shown] == ["0", "1", "4", "5"]
    assert [one["id"] for one in shown[0]["stack"]] == ["2", "3"]


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
def test_the_size_of_a_thumbnail_is_in_its_header(options: dict[str, Any]) -> None:
    out = io.BytesIO()
    Image.new("RGB", (231, 87)).save(out, "WEBP", **options)
    assert webp_size(out.getvalue()) == (231, 87)
    assert webp_size(out.getvalue()[:20]) is None
    assert webp_size(b"x" * 40) is None


def test_a_tile_shows_the_time_of_the_clock() -> None:
    gateway: Any = Gateway()
    item = Item(
        id="a",
        fields={"taken_at": datetime(2021, 6, 30, 23, tzinfo=UTC), "taken_offset": 120},
    )
    shown = tile(item, COLLECTION, Thumbnails(gateway), FIELDS[0])
    assert shown["time"] == "2021-07-01T01:00:00Z"
    assert (shown["w"], shown["h"], shown["v"]) == (4, 3, "")
