"""Entries of folders, globs and manifests."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk_indexer.dataset import ManifestColumns, entries_of
from bulk_indexer.entries import (
    FILE_FIELDS,
    DatasetEntry,
    from_parquet,
    to_parquet,
    typed_fields,
)
from bulk_indexer.run_folder import BulkError
from sentinel_client.importers import folders
from sentinel_core.errors import InvalidArgument
from sentinel_store.values import FieldType, GeoPoint

COLUMNS = ManifestColumns("", "id", "text", frozenset({*FILE_FIELDS, "year", "tags"}))


def read(*inputs: object, columns: ManifestColumns = COLUMNS) -> list[DatasetEntry]:
    return list(entries_of([str(one) for one in inputs], columns))


def test_a_files_fields_are_those_of_sentinel_index() -> None:
    ours = [(name, field_type.name) for name, field_type in FILE_FIELDS.items()]
    assert [(field.name, field.type.name) for field in folders([]).fields] == ours


def test_a_folder_gives_its_pictures_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "deeper/c.webp", ".hidden/d.jpg", ".e.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = read(tmp_path)
    assert [entry.uri for entry in found] == [
        str(tmp_path / name) for name in ("a.PNG", "b.jpg", "deeper/c.webp")
    ]
    assert found[2].fields == {
        "path": str(tmp_path / "deeper/c.webp"),
        "file_name": "c.webp",
        "folder": str(tmp_path / "deeper"),
        "size_bytes": 5,
        "modified_at": int((tmp_path / "deeper/c.webp").stat().st_mtime),
    }


def test_a_glob_and_a_file_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("one.bin", "two.bin", "three.jpg"):
        (tmp_path / name).write_bytes(b"x")
    names = [Path(entry.uri).name for entry in read(tmp_path / "*.bin", tmp_path / "three.jpg")]
    assert names == ["one.bin", "two.bin", "three.jpg"]


def test_objects_in_a_store_are_named_by_their_uri() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/x/a.jpg": b"1", "/bucket/x/y/b.jpg": b"2"})
    found = read("memory://bucket/x")
    assert [entry.uri for entry in found] == [
        "memory:///bucket/x/a.jpg",
        "memory:///bucket/x/y/b.jpg",
    ]
    assert found[0].fields["folder"] == "memory:///bucket/x"


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on Linux only")
def test_a_name_that_is_no_text_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    (tmp_path / "fine.jpg").write_bytes(b"x")
    bad, good = read(tmp_path)
    assert "not UTF-8" in bad.error
    assert good.uri.endswith("fine.jpg")


def test_csv_rows_have_ids_fields_and_paths_from_their_folder(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,path,year,ignored\ncat,pics/a.jpg,1999,x\n,s3://b/k.jpg,,y\n")
    first, second = read(manifest)
    assert (first.place, first.id, first.uri) == (
        f"{manifest}:2",
        "cat",
        str(tmp_path / "pics/a.jpg"),
    )
    assert first.fields == {
        "path": str(tmp_path / "pics/a.jpg"),
        "file_name": "a.jpg",
        "folder": str(tmp_path / "pics"),
        "year": "1999",
    }
    assert (second.id, second.uri, "year" in second.fields) == ("", "s3://b/k.jpg", False)


def test_broken_rows_are_entries_with_an_error_and_the_rest_is_read(tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_bytes(b"path,year\na.jpg,1\nb.jpg\n,2\nc\xff.jpg,3\nd.jpg,4\n")
    errors = [entry.error for entry in read(table)]
    assert [bool(error) for error in errors] == [False, True, True, True, False]
    assert "1 columns" in errors[1]
    assert "names no file" in errors[2]
    assert "UTF-8" in errors[3]

    lines = tmp_path / "m.jsonl"
    lines.write_bytes(b'{"uri": "a.jpg"}\n{"uri": \n\n[1]\n\xff\n{"text": "a dog"}\n')
    found = read(lines)
    assert [bool(entry.error) for entry in found] == [False, True, True, True, False]
    assert [entry.place.rsplit(":", 1)[1] for entry in found] == ["1", "2", "4", "5", "6"]
    assert (found[4].text, found[4].uri) == ("a dog", "")


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    manifest = tmp_path / "m.parquet"
    rows = [
        {"url": "https://h/a.jpg", "year": 7, "tags": ["x", "y"], "other": 1},
        {"url": "https://h/b.jpg", "year": None, "tags": None, "other": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    first, second = read(manifest)
    assert (first.fields["year"], first.fields["tags"]) == (7, ["x", "y"])
    assert not {"year", "tags", "other"} & set(second.fields)


def test_a_list_and_chosen_columns(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("a.jpg\n\n/x/b.jpg\n")
    assert [e.uri for e in read(tmp_path / "m.txt")] == [str(tmp_path / "a.jpg"), "/x/b.jpg"]
    (tmp_path / "m.jsonl").write_text(json.dumps({"key": "/k.jpg", "uri": "/u.jpg", "name": "n"}))
    columns = ManifestColumns("key", "name", "text", frozenset())
    assert [(e.uri, e.id) for e in read(tmp_path / "m.jsonl", columns=columns)] == [("/k.jpg", "n")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", "no such file"),
        ("nope://x/y", "nope"),
        ("broken.parquet", "cannot read the manifest"),
    ],
)
def test_an_input_that_cannot_be_read_ends_the_plan(tmp_path: Path, given: str, says: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(BulkError, match=says):
        read(given if "://" in given else tmp_path / given)


def test_times_and_places_of_manifests_are_typed(tmp_path: Path) -> None:
    declared = {"taken_at": FieldType.TIMESTAMP, "place": FieldType.GEO}
    columns = ManifestColumns("", "id", "text", frozenset(declared))
    place = pa.struct([("lat", pa.float64()), ("lon", pa.float64())])
    moment = datetime(2021, 7, 4, 16, 30, 0, 5, UTC)
    table = pa.table(
        {
            "text": ["a"],
            "taken_at": pa.array([moment], pa.timestamp("us", "UTC")),
            "place": pa.array([{"lat": 1.5, "lon": 2.5}], place),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text('text,taken_at,place\nb,2021-07-04T16:30:00.000005,"1.5,2.5"\n')
    for name in ("m.parquet", "m.csv"):
        # As the run folder keeps them.
        [entry] = from_parquet(to_parquet(read(tmp_path / name, columns=columns)))
        assert typed_fields(entry.fields, declared) == {
            "taken_at": moment,
            "place": GeoPoint(1.5, 2.5),
        }
    wrongs: list[dict[str, Any]] = [
        {"taken_at": "soon"},
        {"place": "1.5"},
        {"place": {"lat": "x", "lon": 1}},
        {"place": {"lat": 10**400, "lon": 1}},
        {"tags": "[" * 100_000},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidArgument) as refused:
            typed_fields(wrong, declared | {"tags": FieldType.STRING_LIST})
        assert refused.value.reason == "FIELD_TYPE"
