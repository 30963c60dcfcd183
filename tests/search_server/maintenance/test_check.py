"""`sentinel-gateway check` finds what is damaged, repairs it, and deletes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from search_server.maintenance import check
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_store.milvus import lite_files
from sentinel_store.milvus.store import MilvusStore
from tests import processes
from tests.s3_server import S3Server
from tests.search_server.conftest import Gateway, connect
from tests.search_server.embedders.test_faults import FAKE, Result
from tests.search_server.items.ingesting import picture, picture_item
from tests.search_server.milvus.test_lite_damage import ALL, DAMAGES, cut, database, one
from tests.search_server.milvus.test_lite_faults import INFO, deadline, ids, opened, rows

__all__ = ["database"]  # a fixture

# What is left after the repair; a damaged log loses one of ten, a segment its ten rows.
LEFT = {"a log, in the middle": 29, "a segment, cut": 20, "a segment, gone": 20}


def arguments(folder: Path, *flags: str) -> list[str]:
    stores = ["--milvus-uri", str(folder / "milvus.db")]
    return [*stores, "--object-store-uri", str(folder / "objects"), *flags]


async def run(folder: Path, *flags: str) -> int:
    return await asyncio.to_thread(check.run, arguments(folder, *flags))


async def test_nothing_is_wrong_after_a_kill(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(tmp_path) == 0
    assert capsys.readouterr().out == "0 problems, 0 repaired\n"


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_found_and_then_repaired(
    database: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = DAMAGES[damage](database)
    before = path.read_bytes() if path.exists() else None
    assert await run(tmp_path) == 1
    told = capsys.readouterr().out
    assert f"problem: {path.relative_to(database)}: " in told
    assert "--repair" in told
    assert (path.read_bytes() if path.exists() else None) == before

    assert await run(tmp_path, "--repair") == 0
    assert "0 problems, " in capsys.readouterr().out
    if before is not None:
        kept = [file for file in (database / "damaged").rglob("*") if file.is_file()]
        assert before in [file.read_bytes() for file in kept]
    async with opened(database) as store:
        if damage.startswith("the schema"):
            # Set aside as a whole: without its schema nobody knows what its columns are.
            assert await store.list_collections(deadline()) == []
            assert list((database / "damaged").rglob("*.parquet"))
        else:
            assert len(await ids(store)) == LEFT.get(damage, len(ALL))
    assert await run(tmp_path) == 0


async def test_half_a_record_is_a_note_and_repair_ends_the_log_before_it(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = one(database, "wal/*.arrow")
    cut(log)
    found, damages = lite_files.inspect(database)
    assert (len(found), damages) == (1, [])
    assert await run(tmp_path, "--repair") == 0
    assert "9 readable writes" in capsys.readouterr().out
    async with opened(database) as store:
        assert await ids(store) == ALL - {"i29"}


async def test_a_row_that_names_no_image_of_ours_is_told(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(database) as store:
        await store.upsert(INFO, [replace(rows(0, 1)[0], image="../elsewhere")], deadline())
    assert await run(tmp_path) == 1
    assert "is missing" in capsys.readouterr().out


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a gateway keeps rows and images, and the images behind its back."""

    milvus: str
    objects: str
    files: AbstractFileSystem

    def flags(self) -> list[str]:
        return ["--milvus-uri", self.milvus, "--object-store-uri", self.objects]

    def path(self, name: str) -> str:
        return f"{self.objects.removeprefix('s3://')}/{name}"


@pytest.fixture(
    params=["laptop", pytest.param("servers", marks=[pytest.mark.milvus, pytest.mark.s3])]
)
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stores:
    if request.param == "laptop":
        uris = str(tmp_path / "milvus.db"), str(tmp_path / "objects")
        return Stores(*uris, fsspec.filesystem("file"))
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    milvus = request.getfixturevalue("milvus_server_uri")
    return Stores(milvus, f"s3://{s3.bucket()}", s3.file_system())


def test_images_that_are_damaged_or_gone_come_back_with_the_next_import(
    tmp_path: Path,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = [picture_item(number, f"item {number}") for number in range(4)]
    digests = [hashlib.sha256(picture(number)).hexdigest() for number in range(4)]
    names = [f"images/{digest[:2]}/{digest}" for digest in digests]
    files = [stores.path(name) for name in names]

    @contextmanager
    def running(worker: processes.Server) -> Iterator[Gateway]:
        flags = [*stores.flags(), "--workers", worker.address]
        with processes.running(tmp_path, "search_server", *flags) as server:
            yield connect(server.address)

    with processes.running(tmp_path / "w", FAKE) as worker:
        with running(worker) as gateway:
            photos = gateway.create()

            async def ours(*_: object) -> list[str]:
                return [photos]

            # The server has collections of other tests, too.
            monkeypatch.setattr(MilvusStore, "list_collections", ours)
            gateway.upsert(photos, *items)
            while_it_runs = check.run(stores.flags())
            if stores.milvus.endswith(".db"):
                assert while_it_runs == 2
                assert "another process has" in capsys.readouterr().err
            else:
                assert while_it_runs == 0
        assert check.run(stores.flags()) == 0
        good = stores.files.cat_file(files[0])
        damaged = bytes([good[0] ^ 1]) + good[1:]
        stores.files.pipe_file(files[0], damaged)
        stores.files.rm_file(files[1])
        capsys.readouterr()
        assert check.run(stores.flags()) == 1
        told = capsys.readouterr().out
        assert f"{names[0]} has other bytes" in told
        assert f"the image of item 'item 1' of {photos!r} is missing" in told
        assert "'item 2'" not in told
        assert check.run([*stores.flags(), "--repair"]) == 0
        assert stores.files.cat_file(stores.path(f"damaged/{names[0]}")) == damaged
        with running(worker) as gateway:
            outcomes = [result.outcome for result in gateway.upsert(photos, *items)]
            stored, unchanged = Result.OUTCOME_STORED, Result.OUTCOME_UNCHANGED
            assert outcomes == [stored, stored, unchanged, unchanged]
            for number in range(4):
                request = pb.DownloadImageRequest(collection=photos, id=f"item {number}")
                [chunk] = gateway.items.DownloadImage(request, timeout=20)
                assert chunk.data == picture(number)
        capsys.readouterr()
        assert check.run(stores.flags()) == 0
        assert "0 problems, 0 repaired\n" in capsys.readouterr().out


async def test_a_repair_undoes_no_write_of_a_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ["a" * 64, "b" * 64]
    async with opened(tmp_path / "milvus.db") as store:
        await store.create_collection(INFO, deadline())
        written = [replace(row, image=gone[0], text="") for row in rows(0, 4)]
        await store.upsert(INFO, written, deadline())
    page = MilvusStore.page

    async def page_before_writes(self: MilvusStore, *args: Any, **named: Any) -> Any:
        """Read a page; then a gateway deletes an item and gives another one another image."""
        found = await page(self, *args, **named)
        await self.delete(INFO, 'id == "i1"', deadline())
        await self.upsert(INFO, [replace(written[2], image=gone[1])], deadline())
        return found

    monkeypatch.setattr(MilvusStore, "page", page_before_writes)
    await run(tmp_path, "--repair")
    async with opened(tmp_path / "milvus.db") as store:
        now = await store.get(INFO, [row.id for row in written], deadline())
    assert {row.id: (row.image, row.digest) for row in now} == {
        "i0": (gone[0], ""),
        "i2": (gone[1], "d" * 64),
        "i3": (gone[0], ""),
    }


def test_a_wrong_path_is_not_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "search_server", "check", *arguments(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "there is no folder" in done.stderr) == (2, True)
    assert not (tmp_path / "milvus.db").exists()
