"""A gateway whose pictures lie in S3 or on a full disk: what it says, and what it acknowledges."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from sentinel.search.v1 import item_service_pb2 as pb
from tests import processes
from tests.processes import metric
from tests.s3_server import S3Server
from tests.search_server.conftest import connect, error_info, text
from tests.search_server.embedders.test_faults import caption
from tests.search_server.items.ingesting import Stream, picture, picture_item
from tests.waiting import until

FAKE = "tests.fakes.worker"
UNAVAILABLE = ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")


@pytest.fixture
def fake_worker(tmp_path: Path) -> Iterator[processes.Server]:
    with processes.running(tmp_path / "w", FAKE) as server:
        yield server


def gateway_at(
    folder: Path, worker: str, objects: str, environment: dict[str, str] | None = None
) -> AbstractContextManager[processes.Server]:
    flags = ["--milvus-uri", str(folder / "milvus.db"), "--workers", worker]
    flags += ["--object-store-uri", objects]
    return processes.running(folder, "search_server", *flags, environment=environment)


@pytest.mark.s3
def test_pictures_in_s3(tmp_path: Path, fake_worker: processes.Server, s3: S3Server) -> None:
    bucket = s3.bucket()
    place = f"s3://{bucket}/pictures"
    with gateway_at(tmp_path, fake_worker.address, place, s3.environment()) as server:
        gateway = connect(server.address)
        name = gateway.create()
        with Stream(gateway, name) as stream:
            for number in range(4):
                stream.send(number, *(picture_item(number * 5 + n) for n in range(5)))
            assert stream.rest()[-1].summary == pb.IngestSummary(stored_count=20)
        item_id = hashlib.sha256(picture(7)).hexdigest()
        [item] = gateway.get(name, item_id, include_thumbnails=True).items
        assert item.thumbnail[8:12] == b"WEBP"
        with urllib.request.urlopen(item.image_uri, timeout=10) as answer:
            assert answer.read() == picture(7)
        request = pb.DownloadImageRequest(collection=name, id=item_id)
        chunks = list(gateway.items.DownloadImage(request, timeout=20))
        assert b"".join(chunk.data for chunk in chunks) == picture(7)
        # It vanishes behind the gateway's back.
        s3.file_system().rm_file(f"{bucket}/pictures/images/{item_id[:2]}/{item_id}")
        with pytest.raises(grpc.RpcError) as caught:
            list(gateway.items.DownloadImage(request, timeout=20))
        assert error_info(caught.value) == ("NOT_FOUND", "IMAGE_NOT_FOUND")


@pytest.mark.s3
@pytest.mark.parametrize(
    "fault",
    [
        "no bucket",
        "a wrong key",
        # The S3 client tries to connect for seconds, and each call does.
        pytest.param("nobody there", marks=pytest.mark.slow),
    ],
)
def test_an_s3_store_that_refuses_acknowledges_nothing(
    tmp_path: Path, fake_worker: processes.Server, s3: S3Server, fault: str
) -> None:
    bucket = "gone" if fault == "no bucket" else s3.bucket()
    environment = s3.environment("wrong" if fault == "a wrong key" else None)
    if fault == "nobody there":
        environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{processes.free_port()}"
    with gateway_at(tmp_path, fake_worker.address, f"s3://{bucket}/x", environment) as server:
        gateway = connect(server.address)
        name = gateway.create()
        with pytest.raises(grpc.RpcError) as caught:
            gateway.upsert(name, picture_item(1))
        assert error_info(caught.value) == UNAVAILABLE
        with Stream(gateway, name) as stream, pytest.raises(grpc.RpcError) as caught:
            stream.send(1, picture_item(1))
            stream.ack()
        assert error_info(caught.value) == UNAVAILABLE
        assert gateway.count(name) == 0


def test_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path, fake_worker: processes.Server, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    with gateway_at(tmp_path, fake_worker.address, str(small_disk / "objects")) as server:
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, picture_item(0))
        filler.write_bytes(os.urandom(5_800_000))
        done = 0
        with Stream(gateway, name) as stream:
            for number in range(100):
                stream.send(number, picture_item(1 + number * 2), picture_item(2 + number * 2))
            with pytest.raises(grpc.RpcError) as caught:
                while True:
                    assert stream.ack().stored_count == 2
                    done += 1
        assert error_info(caught.value) == UNAVAILABLE
        assert "full" in caught.value.details()
        assert done < 100
        # What was acknowledged is there with its bytes; searches and reads go on.
        seeds = range(1 + 2 * done)
        ids = [hashlib.sha256(picture(seed)).hexdigest() for seed in seeds]
        assert not gateway.get(name, *ids).missing_ids
        for seed, item_id in zip(seeds, ids, strict=True):
            request = pb.DownloadImageRequest(collection=name, id=item_id)
            [chunk] = gateway.items.DownloadImage(request, timeout=20)
            assert chunk.data == picture(seed)
        filler.unlink()
        with Stream(gateway, name) as stream:
            for number in range(done, 100):
                stream.send(number, picture_item(1 + number * 2), picture_item(2 + number * 2))
            summary = stream.rest()[-1].summary
        assert summary.stored_count + summary.unchanged_count == 2 * (100 - done)
        assert gateway.count(name) == 201


def problem(server: processes.Server) -> float:
    return metric(
        server.metrics_address, "sentinel_gateway_problem", reason="OBJECT_STORE_UNAVAILABLE"
    )


@pytest.mark.slow
def test_a_store_that_cannot_be_written_to_degrades_and_recovers_without_a_restart(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    objects = tmp_path / "objects"
    with gateway_at(tmp_path, fake_worker.address, str(objects)) as server:
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, picture_item(0))
        drafts = objects / "drafts"
        for number, (break_it, mend) in enumerate(
            [
                (lambda: objects.rename(tmp_path / "away"), objects.mkdir),
                (lambda: (drafts.rmdir(), drafts.touch()), drafts.unlink),
            ],
            start=1,
        ):
            break_it()
            until(lambda: problem(server) == 1)
            # Texts are stored and searched; only images need the object store.
            gateway.upsert(name, caption(f"text {number}"))
            assert gateway.hits(name, text(f"text {number}"))
            with pytest.raises(grpc.RpcError) as caught:
                gateway.upsert(name, picture_item(number))
            assert error_info(caught.value) == UNAVAILABLE
            assert processes.is_serving(server.address)
            mend()
            until(lambda: problem(server) == 0)
            gateway.upsert(name, picture_item(number))
        lines = [line for line in server.log.read_text().splitlines() if '"degraded"' in line]
        assert len(lines) == 2


@pytest.mark.s3
def test_a_missing_bucket_is_told_at_the_start(
    tmp_path: Path, fake_worker: processes.Server, s3: S3Server
) -> None:
    with gateway_at(tmp_path, fake_worker.address, "s3://gone/x", s3.environment()) as server:
        until(lambda: problem(server) == 1)
        assert '"degraded"' in server.log.read_text()


@pytest.mark.s3
def test_the_trial_of_a_bucket_leaves_nothing(
    tmp_path: Path, fake_worker: processes.Server, s3: S3Server
) -> None:
    bucket = s3.bucket()
    with gateway_at(tmp_path, fake_worker.address, f"s3://{bucket}/x", s3.environment()) as server:
        gateway = connect(server.address)
        gateway.upsert(gateway.create(), picture_item(1))
        assert problem(server) == 0
        names = s3.file_system().find(f"{bucket}/x")
        assert names
        assert not any("drafts" in name for name in names)


# --- orphans


def collect(
    folder: Path, objects: str, *flags: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does; the gateway of a Lite file must not be running."""
    command = [
        sys.executable, "-m", "search_server", "collect-orphans",
        "--milvus-uri", str(folder / "milvus.db"), "--object-store-uri", objects,
        "--write-timeout-seconds", "0.5", *flags,
    ]  # fmt: skip
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the counts in the command's line: looked at, set aside, removed, waiting, back."""
    assert done.returncode == 0, done.stderr
    words = done.stdout.replace("would be ", "").replace("(", "").split()
    numbers = [int(word) for word in words if word.isdigit()]
    names = ["files", "aside", "aside_bytes", "removed", "removed_bytes", "waiting", "back"]
    return dict(zip(names, numbers, strict=True))


def test_a_picture_aside_is_still_shown(tmp_path: Path, fake_worker: processes.Server) -> None:
    """The moment between a run and the next, for a row that came just in between."""
    objects = tmp_path / "objects"
    with gateway_at(tmp_path, fake_worker.address, str(objects)) as server:
        gateway = connect(server.address)
        gateway.create("one")
        gateway.upsert("one", picture_item(1, "x"))
        item_id = hashlib.sha256(picture(1)).hexdigest()
        for file in [path for path in objects.rglob("*") if path.is_file()]:
            aside = objects / "aside" / file.relative_to(objects)
            aside.parent.mkdir(parents=True, exist_ok=True)
            file.rename(aside)
        assert gateway.get("one", "x", include_thumbnails=True).items[0].thumbnail
        [chunk] = gateway.items.DownloadImage(
            pb.DownloadImageRequest(collection="one", id="x"), timeout=20
        )
        assert hashlib.sha256(chunk.data).hexdigest() == item_id
    done = counts(collect(tmp_path, str(objects), "--older-than", "1h"))
    assert (done["back"], done["removed"]) == (2, 0)
    assert sum(path.is_file() for path in (objects / "images").rglob("*")) == 1


def test_leftovers_of_crashed_writers_are_removed_and_foreign_files_stay(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    objects = tmp_path / "objects"
    with gateway_at(tmp_path, fake_worker.address, str(objects)) as server:
        connect(server.address).create("one")
    draft, foreign = objects / "drafts" / "half", objects / "images" / "ab" / "notes.txt"
    for path in (draft, foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"some bytes")
        os.utime(path, (1_700_000_000, 1_700_000_000))
    done = counts(collect(tmp_path, str(objects), "--older-than", "1h"))
    assert (done["removed"], done["aside"]) == (1, 0)
    assert not draft.exists()
    assert foreign.exists()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--older-than", "0s"], 2, "--older-than must be above"),
        (["--older-than", "1h", "--write-timeout-seconds", "3600"], 2, "must be above"),
        (["--older-than", "soon"], 2, "older_than"),
        ([], 1, "no collection of Sentinel"),
        (["--milvus-uri", "http://127.0.0.1:1"], 1, "Milvus"),
    ],
)
def test_a_run_that_would_be_a_mistake_is_refused(
    tmp_path: Path, flags: list[str], code: int, says: str
) -> None:
    picture_file = tmp_path / "objects" / "images" / "ab" / ("ab" * 32)
    picture_file.parent.mkdir(parents=True)
    picture_file.write_bytes(b"x")
    os.utime(picture_file, (1_700_000_000, 1_700_000_000))
    done = collect(tmp_path, str(tmp_path / "objects"), *flags)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done
    assert "Traceback" not in done.stderr
    assert picture_file.exists()
