"""`sentinel bulk-index` as people run it: a process of its own, Ray, a real collection."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests import photos, processes
from tests.bulk_indexer.conftest import deadline, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
_PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty real pictures: the sample photos, their halves, and two files that are broken."""
    folder = tmp_path_factory.mktemp("album")
    for path in photos.all_photos():
        picture = Image.open(path).convert("RGB")
        picture.save(folder / f"{path.stem}.jpg", quality=90)
        half = picture.crop((0, 0, picture.width // 2, picture.height))
        half.save(folder / f"{path.stem}_half.webp")
    (folder / "cut.jpg").write_bytes((folder / "rocket.jpg").read_bytes()[:4000])
    (folder / "words.png").write_text("no picture")
    return folder


def command(album: Path, base: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "sentinel_client.cli", "bulk-index", str(album)),
        *("--run", str(base / "run"), "--milvus-uri", str(base / "milvus.db")),
        *("--object-store-uri", str(base / "objects"), "--log-style", "text"),
        *more,
    ]


def bulk_index(album: Path, base: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(album, base, *more), capture_output=True, text=True, check=False, timeout=300
    )


def good_files(album: Path) -> list[Path]:
    return [path for path in sorted(album.iterdir()) if path.name not in ("cut.jpg", "words.png")]


def stored_paths(base: Path) -> list[str]:
    """Return the field `path` of every item, read while no process has the file open."""
    return asyncio.run(_stored_paths(base))


async def _stored_paths(base: Path) -> list[str]:
    async with open_store(str(base / "milvus.db")) as store:
        info = await store.describe_collection("photos", deadline())
        assert info is not None
        rows = await store.page(info, "", "", 1000, deadline())
    return sorted(str(row.fields["path"]) for row in rows)


def children_of(pid: int) -> dict[int, str]:
    """Return all processes below `pid`, and their titles."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = status.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        parents[int(status.parent.name)] = int(after_name[1])
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for child in [child for child, above in parents.items() if above == parent]:
            waiting.append(child)
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
    return found


def wait_for(what: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not what():
        assert running.poll() is None, f"it ended before, with {running.returncode}"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_bulk_and_online_path_are_one(album: Path, tmp_path: Path) -> None:
    done = bulk_index(album, tmp_path, "--shard-items", "16")
    assert done.returncode == 1, done.stderr  # two files failed
    good = good_files(album)
    assert f"{len(good)} rows, 0 duplicates, 2 failed" in done.stdout
    assert f"{len(good)} stored, 0 unchanged" in done.stdout
    failures = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert {
        (Path(failure["place"]).name, failure["error_reason"])
        for failure in map(json.loads, failures)
    } == {("cut.jpg", "IMAGE_DECODE_FAILED"), ("words.png", "IMAGE_FORMAT_UNSUPPORTED")}

    with processes.running(tmp_path, "embedder_server") as worker:
        flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
        with processes.running(tmp_path, "search_server", *flags) as gateway:

            def sentinel(*words: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [
                        *(sys.executable, "-m", "sentinel_client.cli"),
                        *("--address", gateway.address, *words),
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=120,
                )

            again = sentinel("index", str(album), "-c", "photos")
            assert f"0 stored, {len(good)} unchanged, 2 failed" in again.stdout, again.stdout
            found = sentinel("search", "-c", "photos", "a cat", "--json", "-n", "2")
            hits = [json.loads(line) for line in found.stdout.splitlines()]
            assert {hit["fields"]["file_name"] for hit in hits} <= {
                "chelsea.jpg",
                "chelsea_half.webp",
            }, found.stdout + found.stderr

    # The other way round: what the gateway knows, another run leaves as it is.
    done = bulk_index(album, tmp_path, "--run", str(tmp_path / "other"))
    assert f"0 stored, {len(good)} unchanged" in done.stdout, done.stderr


@pytest.mark.long
def test_a_run_goes_on_after_sigkill_of_anything(album: Path, tmp_path: Path) -> None:
    marks = tmp_path / "run" / "done"

    def finished() -> dict[str, int]:
        found = marks.glob("*.json") if marks.exists() else []
        return {path.name: path.stat().st_mtime_ns for path in found}

    arguments = command(album, tmp_path, "--shard-items", "1", "--deliver", "upsert")
    with subprocess.Popen(arguments, text=True) as first:
        wait_for(lambda: len(finished()) >= 3, first)
        below = children_of(first.pid)
        first.kill()
        first.wait()
    before = finished()
    assert len(before) < 40
    # Ray's own processes notice that the one that started them is gone.
    end = time.monotonic() + _PATIENCE_S
    while left := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, [below[pid] for pid in left]
        time.sleep(0.1)
    # A half-written shard is no shard.
    (tmp_path / "run" / "rows" / "000039.parquet").write_bytes(b"PAR1 half")

    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as second:
        wait_for(lambda: len(finished()) >= len(before) + 3, second)
        actors = [pid for pid, title in children_of(second.pid).items() if "MapWorker" in title]
        assert actors
        for pid in actors:
            os.kill(pid, signal.SIGKILL)
        told, _ = second.communicate(timeout=300)
    assert second.returncode == 1, told  # the two broken files
    assert "38 rows, 0 duplicates, 2 failed" in told
    after = finished()
    assert len(after) == 40
    assert {name: after[name] for name in before} == before  # none was done again
    assert stored_paths(tmp_path) == [str(path) for path in good_files(album)]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--deliver", "import"], "--import-uri"),
        (["--deliver", "import", "--import-uri", "s3://x/y"], "Milvus Lite imports no files"),
        (["--fields", "year:date"], "types are string, int64"),
        (["--fields", "no-name:string"], "letters, digits"),
        (["--model", "nope"], "unknown model 'nope'"),
        (["--shard-items", "0"], "--shard-items"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    album: Path, tmp_path: Path, flags: list[str], says: str
) -> None:
    done = bulk_index(album, tmp_path, *flags)
    assert done.returncode == 2
    [told] = [
        line for line in done.stderr.splitlines() if line.startswith(("sentinel: ", "Error: "))
    ]
    assert says in told
    assert not (tmp_path / "run").exists()
