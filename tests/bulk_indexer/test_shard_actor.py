"""One shard through the worker's engine: what the online path makes of the same files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from bulk_indexer import row_files
from bulk_indexer.entries import DatasetEntry, path_fields
from bulk_indexer.run_folder import BulkError, Run, RunFolder, shard_file
from bulk_indexer.shard_actor import Job, ShardActor, ShardReport
from embedder_server.settings import EmbedderSettings
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_store.items import Row
from tests import photos, processes
from tests.bulk_indexer.conftest import make_actor

PHOTOS = photos.all_photos()
MIB = 1024 * 1024


def photo_entry(path: Path, **fields: object) -> DatasetEntry:
    return DatasetEntry(str(path), str(path), fields={**path_fields(str(path)), **fields})


def no_pause(_: float) -> None:
    """Wait for nothing."""


@pytest.fixture(scope="session")
def worker(default_worker: processes.Server) -> processes.Server:
    return default_worker


def online(worker: processes.Server, *contents: content_pb2.Content) -> list[pb.EmbedResult]:
    options = [("grpc.max_send_message_length", 64 * MIB)]
    with grpc.insecure_channel(worker.address, options=options) as channel:
        request = pb.EmbedRequest(
            contents=contents,
            options=pb.EmbedOptions(priority=pb.PRIORITY_BULK, thumbnail_side=64),
        )
        return list(pb_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=50).results)


def embed(
    tmp_path: Path, run: Run, embedder: EmbedderSettings, *entries: DatasetEntry
) -> tuple[ShardReport, list[Row], list[dict[str, str]]]:
    actor, folder = make_actor(tmp_path, run, embedder, entries)
    report = actor.embed(0, pause=no_pause)
    assert json.loads(folder.read(shard_file("done", 0)))["rows"] == report.rows
    rows = row_files.decode(folder.read(shard_file("rows", 0)), run.info)
    failures = folder.read(shard_file("failures", 0)).decode().splitlines()
    return report, rows, [json.loads(line) for line in failures]


def test_vectors_are_as_short_as_the_collection_has_them(
    tmp_path: Path, run: Run, embedder: EmbedderSettings, worker: processes.Server
) -> None:
    short = replace(run, dimensions=100, shortened=True)
    _, [row], _ = embed(tmp_path, short, embedder, DatasetEntry("list:1", text="two dogs"))
    [online_result] = online(worker, content_pb2.Content(text="two dogs"))
    expected = np.frombuffer(online_result.vector.data, "<f4")[:100]
    assert row.vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_vectors_thumbnails_and_ids_are_those_of_the_online_path(
    tmp_path: Path, run: Run, embedder: EmbedderSettings, worker: processes.Server
) -> None:
    entries = [*map(photo_entry, PHOTOS), DatasetEntry("list:1", text="two dogs on a beach")]
    report, rows, failures = embed(tmp_path, run, embedder, *entries)
    assert not failures
    assert report.rows == len(entries) == len(rows)
    contents = [
        content_pb2.Content(image=content_pb2.Image(data=path.read_bytes())) for path in PHOTOS
    ]
    answers = online(worker, *contents, content_pb2.Content(text="two dogs on a beach"))
    for path, row, answer in zip(PHOTOS, rows, answers, strict=False):
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row.id, row.digest, row.image, row.text) == (sha, sha, sha, "")
        thumbnail = tmp_path / "objects" / "thumbnails" / sha[:2] / f"{sha}.webp"
        assert thumbnail.read_bytes() == answer.image.thumbnail
        image = tmp_path / "objects" / "images" / sha[:2] / sha
        assert image.read_bytes() == path.read_bytes()
        stat = path.stat()
        assert row.fields["size_bytes"] == stat.st_size
        assert row.fields["modified_at"] == int(stat.st_mtime)
    assert (rows[-1].text, rows[-1].image) == ("two dogs on a beach", "")
    for row, answer in zip(rows, answers, strict=True):
        theirs = np.frombuffer(answer.vector.data, "<f4")
        assert row.vector is not None
        assert row.vector.tobytes() == theirs.tobytes()


def test_what_is_wrong_with_an_item_is_reported_and_the_others_are_indexed(
    tmp_path: Path, run: Run, embedder: EmbedderSettings
) -> None:
    (tmp_path / "cut.jpg").write_bytes(photos.photo("rocket").read_bytes()[:5000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "words.jpg").write_bytes(b"no picture at all")
    good = photo_entry(PHOTOS[0], year="1999", tags='["a", "b"]', public="true", ratio="0.5")
    wrong = {
        "IMAGE_DECODE_FAILED": photo_entry(tmp_path / "cut.jpg"),
        "IMAGE_EMPTY": photo_entry(tmp_path / "empty.jpg"),
        "IMAGE_FORMAT_UNSUPPORTED": photo_entry(tmp_path / "words.jpg"),
        "URI_NOT_FOUND": photo_entry(tmp_path / "gone.jpg"),
        "FIELD_TYPE": photo_entry(PHOTOS[1], year="soon"),
        "NAME_INVALID": DatasetEntry("m:1", str(PHOTOS[1]), id="x" * 257),
        "CONTENT_MISSING": DatasetEntry("m:2", error="the row names no file"),
        "TEXT_EMPTY": DatasetEntry("m:3", text=" \n"),
    }
    report, rows, failures = embed(tmp_path, run, embedder, good, *wrong.values())
    assert [row.fields["file_name"] for row in rows] == [PHOTOS[0].name]
    assert {name: rows[0].fields[name] for name in ("year", "tags", "public", "ratio")} == {
        "year": 1999,
        "tags": ["a", "b"],
        "public": True,
        "ratio": 0.5,
    }
    assert [failure["error_reason"] for failure in failures] == list(wrong)
    assert [failure["place"] for failure in failures] == [entry.place for entry in wrong.values()]
    assert all(failure["error_message"] for failure in failures)
    assert report.failures == len(wrong)


def test_of_equal_contents_the_first_is_kept(
    tmp_path: Path, run: Run, embedder: EmbedderSettings
) -> None:
    (tmp_path / "copy.png").write_bytes(photos.photo("chelsea").read_bytes())
    entries = [photo_entry(photos.photo("chelsea")), photo_entry(tmp_path / "copy.png")] * 20
    report, rows, _ = embed(tmp_path, run, embedder, *entries)
    assert (report.rows, report.duplicates) == (1, 39)
    assert rows[0].fields["path"] == str(photos.photo("chelsea"))


def test_a_store_that_refuses_fails_the_shard_and_not_its_items(
    tmp_path: Path, run: Run, embedder: EmbedderSettings
) -> None:
    actor, folder = make_actor(tmp_path, run, embedder, [photo_entry(PHOTOS[0])])
    (tmp_path / "objects" / "thumbnails").write_bytes(b"in the way")
    pauses: list[float] = []
    report = actor.embed(0, pause=pauses.append)
    assert "OBJECT_STORE_UNAVAILABLE" in report.error or "object store failed" in report.error
    assert len(pauses) == 3
    assert folder.numbers("done") == set()
    (tmp_path / "objects" / "thumbnails").unlink()
    assert not actor.embed(0, pause=no_pause).error
    assert folder.numbers("done") == {0}


def test_a_machine_with_another_model_is_refused(
    tmp_path: Path, run: Run, embedder: EmbedderSettings
) -> None:
    fields = {name: getattr(run, name) for name in Run.__dataclass_fields__}
    other = Run(**{**fields, "fingerprint": "f" * 64, "object_store_uri": str(tmp_path)})
    with pytest.raises(BulkError, match="use equal versions"):
        ShardActor(Job(RunFolder(str(tmp_path)).uri, other, embedder, MIB))
