"""Files of Milvus Lite that are torn, damaged or missing: nothing is dropped without a word."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from sentinel_core.errors import Unavailable
from sentinel_store.milvus import lite_files
from sentinel_store.milvus.lite_log import LogState, read_log, rewrite
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at
from tests.search_server.milvus.test_lite_faults import INFO, deadline, healed, ids, opened, rows
from tests.waiting import until

COLUMNS = pa.schema([("_seq", pa.uint64()), ("id", pa.string()), ("v", pa.list_(pa.float32(), 8))])


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, list[int]]:
    """A log of five records, and where each ends."""
    path, ends = tmp_path / "wal_data_000001.arrow", []
    with path.open("wb") as file:
        stream = pa.ipc.new_stream(file, COLUMNS)
        ends.append(file.tell())
        for n in range(5):
            row = {"_seq": [n], "id": [f"i{n}"], "v": [[0.5] * 8]}
            stream.write_batch(pa.RecordBatch.from_pydict(row, schema=COLUMNS))
            file.flush()
            ends.append(file.tell())
    return path, ends


def test_a_log_cut_anywhere_is_torn_and_has_all_records_before(log: tuple[Path, list[int]]) -> None:
    path, ends = log
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        found = read_log(path)
        whole_at = (*ends, COLUMNS.serialize().size)
        expected = LogState.WHOLE if size in whole_at else LogState.TORN
        count = sum(end <= size for end in ends[1:])
        assert (found.state, len(found.records)) == (expected, count), size


def test_zeros_that_a_power_cut_left_are_a_torn_end(log: tuple[Path, list[int]]) -> None:
    path, ends = log
    whole = path.read_bytes()
    path.write_bytes(whole[: ends[4] + 40] + bytes(4_096))
    assert (read_log(path).state, len(read_log(path).records)) == (LogState.TORN, 4)


def test_a_changed_byte_never_hides_records_without_a_word(log: tuple[Path, list[int]]) -> None:
    path, ends = log
    whole = path.read_bytes()
    for at in range(ends[4]):  # not in the last record, whose length may then say that it is torn
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = read_log(path)
        assert found.state is LogState.DAMAGED or len(found.records) == 5, at


def test_a_rewritten_log_has_the_records_behind_the_damage(log: tuple[Path, list[int]]) -> None:
    path, ends = log
    whole = bytearray(path.read_bytes())
    whole[ends[1] + 4 : ends[1] + 8] = b"\xff\x00\xff\x00"
    path.write_bytes(whole)
    found = read_log(path)
    assert (found.state, found.readable, len(found.records)) == (LogState.DAMAGED, ends[1], 4)
    rewrite(found)
    again = read_log(path)
    assert (again.state, [row for row, _ in again.rows("id")]) == (
        LogState.WHOLE,
        ["i0", "i2", "i3", "i4"],
    )


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A folder after a kill: twenty rows in two segments, ten in a log of ten records."""
    folder = tmp_path / "live.db"
    async with opened(folder) as store:
        await store.create_collection(INFO, deadline())
        for first in (0, 10):
            await store.upsert(INFO, rows(first, first + 10), deadline())
            await store.flush("c")
        for n in range(20, 30):
            await store.upsert(INFO, rows(n, n + 1), deadline())
        await store.aliases.point("live", "c", deadline())
        shutil.copytree(folder, tmp_path / "milvus.db")
    return tmp_path / "milvus.db"


ALL = {f"i{n}" for n in range(30)}


def one(database: Path, pattern: str) -> Path:
    return sorted(database.glob(f"collections/c/{pattern}"))[0]


def files_in(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def cut(path: Path, by: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-by])


async def test_a_torn_end_is_kept_and_told(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = one(database, "wal/*.arrow")
    cut(log)
    before = log.read_bytes()
    for _ in range(2):
        async with opened(database) as store:
            assert await ids(store) == ALL - {"i29"}
    [kept] = (database / lite_files.DAMAGED).iterdir()
    assert kept.read_bytes() == before
    assert sum("half a record" in record.message for record in caplog.records) == 1


def damaged_log(database: Path) -> Path:
    log = one(database, "wal/*.arrow")
    middle = len(log.read_bytes()) // 2
    whole = bytearray(log.read_bytes())
    at = whole.find(b"\xff\xff\xff\xff", middle)
    whole[at : at + 16] = b"\x01" * 16
    log.write_bytes(whole)
    return log


def cut_segment(database: Path) -> Path:
    segment = one(database, "partitions/*/data/*.parquet")
    cut(segment)
    return segment


def missing_segment(database: Path) -> Path:
    segment = one(database, "partitions/*/data/*.parquet")
    segment.unlink()
    return segment


def unreadable(name: str) -> Callable[[Path], Path]:
    def break_it(database: Path) -> Path:
        path = database / name
        path.write_bytes(path.read_bytes()[:10])
        return path

    return break_it


def missing(name: str) -> Callable[[Path], Path]:
    def break_it(database: Path) -> Path:
        (database / name).unlink()
        return database / name

    return break_it


DAMAGES: dict[str, Callable[[Path], Path]] = {
    "a log, in the middle": damaged_log,
    "a segment, cut": cut_segment,
    "a segment, gone": missing_segment,
    # Lite would take the one before, and delete the newer segments.
    "the manifest, cut": unreadable("collections/c/manifest.json"),
    "the manifest, gone": missing("collections/c/manifest.json"),
    "the schema, cut": unreadable("collections/c/schema.json"),
    "the schema, gone": missing("collections/c/schema.json"),
    "the aliases, cut": unreadable("aliases.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_stops_everything_changes_nothing_and_is_over_once_it_is_mended(
    tmp_path: Path, database: Path, damage: str
) -> None:
    backup = tmp_path / "backup.db"
    shutil.copytree(database, backup)
    path = DAMAGES[damage](database)
    before = files_in(database)
    async with opened(database) as store:
        for call in (store.list_collections, store.check):
            with pytest.raises(Unavailable) as caught:
                await call(deadline())
            assert caught.value.reason == "STORE_DAMAGED"
            assert str(path.relative_to(database)) in caught.value.message
            assert "sentinel-gateway check" in caught.value.message
        assert before <= files_in(database)
        shutil.copy2(backup / path.relative_to(database), path)
        await healed(lambda: store.list_collections(deadline()))
        assert await ids(store) == ALL


async def test_a_file_in_place_of_the_folder_is_damage(tmp_path: Path) -> None:
    """As Milvus Lite 2 had it."""
    (tmp_path / "milvus.db").write_bytes(b"SQLite format 3\0")
    async with opened(tmp_path / "milvus.db") as store:
        with pytest.raises(Unavailable, match="is a file") as caught:
            await store.list_collections(deadline())
    assert caught.value.reason == "STORE_DAMAGED"


async def test_half_of_an_index_file_is_built_again(database: Path) -> None:
    async with opened(database):
        pass
    async with opened(database) as store:
        assert await ids(store) == ALL
    index = one(database, "partitions/*/indexes/*")
    cut(index, index.stat().st_size // 2)
    async with opened(database) as store:
        assert await ids(store) == ALL


def half_dropped(database: Path) -> None:
    lite_files.begin_drop(database, "c")
    (database / "collections" / "c" / "schema.json").unlink()
    shutil.rmtree(database / "collections" / "c" / "partitions")


def dropped_but_its_aliases(database: Path) -> None:
    lite_files.begin_drop(database, "c")
    shutil.rmtree(database / "collections" / "c")


def half_made(database: Path) -> None:
    shutil.rmtree(database / "collections" / "c")
    (database / "aliases.json").unlink()
    (database / "collections" / "c").mkdir()
    (database / "collections" / "c" / "schema.json.tmp").write_text("{")


@pytest.mark.parametrize("leave", [half_dropped, dropped_but_its_aliases, half_made])
async def test_what_a_crash_left_of_a_collection_blocks_neither_the_store_nor_the_name(
    database: Path, leave: Callable[[Path], None]
) -> None:
    leave(database)
    for _ in range(2):
        async with opened(database) as store:
            assert await store.aliases.resolve("live", deadline()) is None
            if await store.describe_collection("c", deadline()) is None:
                await store.create_collection(INFO, deadline())
            await store.upsert(INFO, rows(0, 1), deadline())
            assert await ids(store) == {"i0"}


async def test_a_drop_leaves_no_mark(database: Path) -> None:
    async with opened(database) as store:
        await store.aliases.remove("live", deadline())
        await store.drop_collection("c", deadline())
        await store.create_collection(INFO, deadline())
        await store.upsert(INFO, rows(0, 1), deadline())
    async with opened(database) as store:
        assert await ids(store) == {"i0"}


def test_a_gateway_on_damaged_files_says_so_and_recovers_without_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "milvus.db"
    with processes.running(tmp_path / "w", FAKE) as worker:
        with gateway_at(tmp_path, worker.address) as server:
            gateway = connect(server.address)
            gateway.create("photos")
            gateway.upsert("photos", caption("red"))
        manifest = database / "collections" / "photos" / "manifest.json"
        whole = manifest.read_bytes()
        manifest.write_bytes(whole[:50])
        with gateway_at(tmp_path, worker.address, serving=False) as server:
            metrics, name = server.metrics_address, "sentinel_gateway_problem"
            until(lambda: metric(metrics, name, reason="STORE_DAMAGED") == 1)
            assert not processes.is_serving(server.address)
            assert "sentinel-gateway check" in server.log.read_text()
            manifest.write_bytes(whole)
            assert processes.wait_for_health(server.address, True, 20)
            assert metric(metrics, name, reason="STORE_DAMAGED") == 0
            assert connect(server.address).count("photos") == 1
