"""Pictures in a real S3 store: listed, then read, and what happened to one in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from bulk_indexer import row_files
from bulk_indexer.bulk_run import write_report
from bulk_indexer.dataset import ManifestColumns, entries_of
from bulk_indexer.run_folder import Plan, Run, shard_file
from embedder_server.settings import EmbedderSettings
from tests import photos, s3_server
from tests.bulk_indexer.conftest import make_actor

pytestmark = pytest.mark.s3
PHOTOS = photos.all_photos()[:4]
COLUMNS = ManifestColumns(uri="", id="id", text="text", fields=frozenset())


@pytest.fixture
def bucket(s3: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of four pictures that this process finds."""
    name = s3.bucket()
    for path in PHOTOS:
        s3.file_system().pipe_file(f"{name}/in/{path.name}", path.read_bytes())
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    fsspec.filesystem("s3").clear_instance_cache()
    yield name
    fsspec.filesystem("s3").clear_instance_cache()


def test_an_object_that_vanishes_after_the_listing_is_named_and_the_rest_is_indexed(
    s3: s3_server.S3Server, bucket: str, tmp_path: Path, run: Run, embedder: EmbedderSettings
) -> None:
    entries = list(entries_of([f"s3://{bucket}/in"], COLUMNS))
    assert [entry.uri for entry in entries] == sorted(
        f"s3://{bucket}/in/{path.name}" for path in PHOTOS
    )
    actor, folder = make_actor(tmp_path, run, embedder, entries)
    gone, *there = entries
    s3.file_system().rm_file(gone.uri.removeprefix("s3://"))
    report = actor.embed(0, pause=lambda _: None)
    assert (report.error, report.rows, report.failures) == ("", 3, 1)
    rows = row_files.decode(folder.read(shard_file("rows", 0)), run.info)
    contents = {path.name: path.read_bytes() for path in PHOTOS}
    assert [row.id for row in rows] == [
        hashlib.sha256(contents[Path(entry.uri).name]).hexdigest() for entry in there
    ]
    summary = write_report(folder, Plan(entries=4, shards=1))
    assert summary.failures == {"URI_NOT_FOUND": 1}
    [failure] = folder.read("failures.jsonl").decode().splitlines()
    assert json.loads(failure)["place"] == gone.uri
