from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentinel_client import FieldType, GeoPoint, ImageUri, importers
from sentinel_client.importers import (
    BrokenEntry,
    Column,
    Columns,
    Dataset,
    FileSlice,
    ImportItem,
    LayoutError,
)
from tests import photos
from tests.client import datasets


def items(dataset: Dataset) -> list[ImportItem]:
    return [entry for entry in dataset.entries() if isinstance(entry, ImportItem)]


def broken(dataset: Dataset) -> list[BrokenEntry]:
    return [entry for entry in dataset.entries() if isinstance(entry, BrokenEntry)]


def types(dataset: Dataset) -> dict[str, FieldType]:
    return {schema.name: schema.type for schema in dataset.fields}


@pytest.mark.parametrize(
    ("layout", "read"),
    [
        (datasets.flickr8k, importers.flickr8k),
        (datasets.flickr30k, importers.flickr30k),
    ],
)
def test_flickr_as_published(
    tmp_path: Path, layout: Callable[[Path], Path], read: Callable[[Path], Dataset]
) -> None:
    dataset = read(layout(tmp_path))
    first = items(dataset)[0]
    assert first.image == Path(first.key)
    assert first.image.name == "chelsea.jpg"
    assert first.fields["captions"] == [datasets.caption("chelsea.jpg", n) for n in range(5)]
    assert first.fields["file_name"] == "chelsea.jpg"
    assert first.id == ""
    assert {item.fields["split"] for item in items(dataset)} >= {"train", "test"}
    assert dataset.total == len(list(dataset.entries()))


def test_flickr8k_names_the_picture_that_is_not_there_and_the_broken_row(tmp_path: Path) -> None:
    dataset = importers.flickr8k(datasets.flickr8k(tmp_path))
    assert len(items(dataset)) == 3
    row, missing = broken(dataset)
    assert (row.reason, missing.reason) == ("ROW_INVALID", "FILE_MISSING")
    assert row.key.endswith("Flickr8k.token.txt#21")
    assert missing.key.endswith("2258277193_586949ec62.jpg.1")
    assert [item.fields["split"] for item in items(dataset)] == ["train", "val", "test"]


def test_flickr8k_of_kaggle(tmp_path: Path) -> None:
    dataset = importers.flickr8k(datasets.flickr8k_of_kaggle(tmp_path), by_name=True)
    assert items(dataset)[0].fields["captions"] == ["A chelsea.jpg , with a comma .", "plain"]
    assert [item.id for item in items(dataset)] == ["chelsea.jpg", "coffee.jpg", "rocket.jpg"]
    assert not broken(dataset)


def test_flickr30k_of_kaggle_mends_its_broken_row(tmp_path: Path) -> None:
    dataset = importers.flickr30k(datasets.flickr30k_of_kaggle(tmp_path))
    captions = items(dataset)[0].fields["captions"]
    assert isinstance(captions, list)
    assert captions[4] == "A dog runs across the grass ."
    assert [len(item.fields["captions"]) for item in items(dataset)] == [5, 5, 5]  # type: ignore[arg-type]
    assert [one.reason for one in broken(dataset)] == ["ROW_INVALID"]


def test_karpathys_splits_are_taken_where_there_are_no_lists(tmp_path: Path) -> None:
    datasets.flickr8k_of_kaggle(tmp_path)
    images = [{"filename": "coffee.jpg", "split": "val"}]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    splits = [item.fields.get("split") for item in items(importers.flickr8k(tmp_path))]
    assert splits == [None, "val", None]


def test_captions_are_searchable_only_when_asked_for(tmp_path: Path) -> None:
    datasets.flickr30k(tmp_path)
    assert "caption" not in types(importers.flickr30k(tmp_path))
    dataset = importers.flickr30k(tmp_path, full_text=True)
    assert [schema.name for schema in dataset.fields if schema.full_text] == ["caption"]
    text = items(dataset)[0].fields["caption"]
    assert text == "\n".join(datasets.caption("chelsea.jpg", n) for n in range(5))


@pytest.mark.parametrize("missing", ["flickr30k-images", "results_20130124.token"])
def test_a_layout_that_lacks_a_part_is_named(tmp_path: Path, missing: str) -> None:
    datasets.flickr30k(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(LayoutError, match=missing):
        importers.flickr30k(tmp_path)


def test_coco(tmp_path: Path) -> None:
    dataset = importers.coco(*datasets.coco(tmp_path))
    first = items(dataset)[0]
    assert first.fields["captions"] == ["caption of 0"] * 5
    assert (first.fields["coco_id"], first.fields["split"]) == (0, "val2017")
    reasons = [one.reason for one in broken(dataset)]
    assert reasons == ["ROW_INVALID", "ROW_INVALID", "FILE_MISSING"]
    assert dataset.total == 6
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(LayoutError, match="COCO"):
        importers.coco(tmp_path / "other.json", tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset(tmp_path: Path, mode: str) -> None:
    root = datasets.webdataset(tmp_path, mode)
    dataset = importers.webdataset([str(root / "{00000..00001}.tar")], full_text=True)
    cat, cup, rocket = items(dataset)
    assert isinstance(cat.image, FileSlice if mode == "w" else bytes)
    data = cat.image.read() if isinstance(cat.image, FileSlice) else cat.image
    assert data == photos.photo("chelsea").read_bytes()
    assert cat.fields == {
        "key": "1", "width": 451, "score": 0.5, "tags": ["cat"], "caption": "a cat"
    }  # fmt: skip
    assert cup.fields == {"caption": "a cup"}
    assert rocket.fields == {"cls": 7}
    assert types(dataset)["tags"] is FieldType.STRING_LIST
    assert dataset.left_out == ("exif",)
    assert [schema.name for schema in dataset.fields if schema.full_text] == ["caption"]
    no_picture, bad_json = broken(dataset)
    assert no_picture.key.endswith("00001.tar#003")
    assert "004.json" in bad_json.message
    named = importers.webdataset([str(root / "*.tar")], by_name=True)
    assert [item.id for item in items(named)] == ["00000/000", "00000/001", "002"]


def test_a_shard_that_is_cut_or_missing_costs_its_own_samples_only(tmp_path: Path) -> None:
    root = datasets.webdataset(tmp_path)
    data = (root / "00000.tar").read_bytes()
    (root / "00000.tar").write_bytes(data[: data.index(b"00000/001.jpg") + 2_000])
    dataset = importers.webdataset([str(root / "{00000..00002}.tar")])
    assert [Path(one.key).name for one in broken(dataset)] == [
        "00000.tar", "00001.tar#003", "00001.tar#004", "00002.tar"
    ]  # fmt: skip
    assert [item.fields for item in items(dataset)][1:] == [{"cls": 7}]
    assert items(dataset)[0].fields["caption"] == "a cat"


def test_shards_that_are_none_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no file"):
        importers.webdataset([str(tmp_path / "*.tar")])
    (tmp_path / "x.tar").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(LayoutError, match="no images"):
        importers.webdataset([str(tmp_path / "x.tar")])


CSV = """\ufefffile,year,ratio,raw,title,zip code,id
chelsea.jpg,2020,0.5,true,"A cat, looking",00501,c
coffee.jpg,2021,,false,"Two
lines",1,d
https://example.org/x.jpg,2022,2.25,,,,e
gone.jpg,2023,1.0,true,gone,1,f
rocket.jpg,soon,1.0,true,late,1,g
rocket.jpg,2024,1.0,true,many,1,h,more
,2024,1.0,true,nothing,1,i
"""


def test_a_csv_has_types_and_broken_rows(tmp_path: Path) -> None:
    datasets.pictures(tmp_path)
    file = tmp_path / "table.csv"
    file.write_text(CSV, encoding="utf-8")
    year = Column.parse("year:int64")
    fields = [year, *map(Column.parse, ("ratio", "raw", "title", "zip=zip code"))]
    dataset = importers.csv_table(file, Columns(image="file", id="id", fields=fields))
    assert types(dataset) == {
        "path": FieldType.STRING,
        "year": FieldType.INT64,
        "ratio": FieldType.DOUBLE,
        "raw": FieldType.BOOL,
        "title": FieldType.STRING,
        "zip": FieldType.STRING,
    }
    cat, cup, remote = items(dataset)
    assert cat.fields == {
        "path": str(tmp_path / "chelsea.jpg"),
        "year": 2020,
        "ratio": 0.5,
        "raw": True,
        "title": "A cat, looking",
        "zip": "00501",
    }
    assert cat.id == "c"
    assert "ratio" not in cup.fields
    assert cup.fields["title"] == "Two\nlines"
    assert remote.image == ImageUri("https://example.org/x.jpg")
    assert "path" not in remote.fields
    assert [(one.key.split("#")[1], one.reason) for one in broken(dataset)] == [
        ("6", "FILE_MISSING"),
        ("7", "ROW_INVALID"),
        ("8", "ROW_INVALID"),
        ("9", "ROW_INVALID"),
    ]


def test_all_other_columns_become_fields_unless_some_are_chosen(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    file.write_text("text\t2nd name\tn\nhello\tx\t1\n")
    dataset = importers.csv_table(file, Columns(text="text"))
    assert types(dataset) == {"_2nd_name": FieldType.STRING, "n": FieldType.INT64}
    assert items(dataset)[0].text == "hello"
    chosen = importers.csv_table(file, Columns(text="text", fields=[Column.parse("n:double")]))
    assert items(chosen)[0].fields == {"n": 1.0}


def test_bytes_that_are_not_utf8_cost_their_row(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"text\ngood\nb\xffd\nfine\n")
    dataset = importers.csv_table(file, Columns(text="text"))
    assert [item.text for item in items(dataset)] == ["good", "fine"]
    assert broken(dataset)[0].message == "not UTF-8"


def test_json_lines(tmp_path: Path) -> None:
    datasets.pictures(tmp_path / "p")
    rows = [
        '{"image": "chelsea.jpg", "tags": ["a", "b"], "n": 1, "box": {"x": 1}}',
        '{"image": "coffee.jpg", "n": 2.5, "tags": []}',
        "{broken",
        "[]",
        "",
        '{"image": "rocket.jpg", "n": "many"}',
        '{"n": 3}',
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(rows))
    columns = Columns(
        image="image", base=tmp_path / "p", fields=[Column.parse("tags"), Column.parse("n:double")]
    )
    dataset = importers.json_lines_table(file, columns)
    assert types(dataset)["tags"] is FieldType.STRING_LIST
    assert [item.fields["n"] for item in items(dataset)] == [1.0, 2.5]
    assert [one.key.split("#")[1] for one in broken(dataset)] == ["3", "4", "6", "7"]
    inferred = importers.json_lines_table(file, Columns(image="image", base=tmp_path / "p"))
    assert inferred.left_out == ("box",)
    assert types(inferred)["n"] is FieldType.STRING  # numbers and words


def test_parquet_with_pictures_in_it(tmp_path: Path) -> None:
    cat = photos.photo("chelsea").read_bytes()
    table = pa.table(
        {
            "image": [{"bytes": cat, "path": None}, {"bytes": None, "path": "coffee.jpg"}, None],
            "label": pa.array([1, 2, 3], pa.int32()),
            "score": pa.array([0.5, float("nan"), 1.0], pa.float32()),
            "tags": [["a"], [], ["b"]],
            "vector": [[0.5], [0.5], [0.5]],
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        }
    )
    datasets.pictures(tmp_path)
    file = tmp_path / "t.parquet"
    pq.write_table(table, file, row_group_size=2)
    dataset = importers.parquet_table([file], Columns(image="image"))
    assert dataset.total == 3
    assert dataset.left_out == ("vector",)
    first, second = items(dataset)
    assert first.image == cat
    assert first.fields == {"label": 1, "score": 0.5, "tags": ["a"], "kind": "x"}
    assert second.image == tmp_path / "coffee.jpg"
    assert "score" not in second.fields
    assert [one.key for one in broken(dataset)] == [f"{file}#2"]


def test_a_damaged_group_of_rows_costs_its_own_rows_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 200)) for _ in range(40)]
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": words}), file, row_group_size=10, compression="zstd")
    data = bytearray(file.read_bytes())
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    file.write_bytes(data)
    dataset = importers.parquet_table([file, tmp_path / "gone.parquet"], Columns(text="text"))
    assert [item.text for item in items(dataset)] == words[:10] + words[20:]
    group, gone = broken(dataset)
    assert "rows 10 to 19" in group.message
    assert gone.key.endswith("gone.parquet")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"image": "picture"}, "no column 'picture'; it has file, a, b c, b_c"),
        ({"image": "file", "id": "key"}, "no column 'key'"),
        ({"image": "file"}, "two columns would be the field b_c"),
        ({}, "name one column"),
        ({"image": "file", "text": "a"}, "name one column"),
    ],
)
def test_columns_that_are_wrong_are_named(
    tmp_path: Path, columns: dict[str, str], complaint: str
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("file,a,b c,b_c\nx,1,2,3\n")
    with pytest.raises(LayoutError, match=complaint):
        importers.csv_table(file, Columns(**columns))  # type: ignore[arg-type]


def test_a_type_that_is_none_is_named() -> None:
    with pytest.raises(LayoutError, match="'date' is not a field type"):
        Column.parse("day:date")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("9223372036854775808", FieldType.INT64),
        ("1e999", FieldType.DOUBLE),
        ("maybe", FieldType.BOOL),
    ],
)
def test_values_out_of_their_types_range_are_broken(
    tmp_path: Path, text: str, kind: FieldType
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"text,v\nx,{text}\n")
    dataset = importers.csv_table(file, Columns(text="text", fields=[Column("v", "v", kind)]))
    assert [one.reason for one in broken(dataset)] == ["ROW_INVALID"]


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    datasets.flickr30k(tmp_path)
    before = {item.key: item.stamp for item in items(importers.flickr30k(tmp_path))}
    changed = tmp_path / "flickr30k-images" / "coffee.jpg"
    changed.write_bytes(b"other")
    after = {item.key: item.stamp for item in items(importers.flickr30k(tmp_path))}
    assert {key for key in before if before[key] != after[key]} == {str(changed)}


TIMES = ["2021-07-04T18:30:00+02:00", "2021-07-04T16:30:00", "2021-07-04", "soon", "1625416200"]


def test_times_and_places_are_read_as_declared(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    places = ["48.2, 16.37", "-90,180", "91,0", "", "1;2"]
    rows = [
        f'x{n},{moment},"{place}"'
        for n, (moment, place) in enumerate(zip(TIMES, places, strict=True))
    ]
    file.write_text("\n".join(["name,when,where", *rows]) + "\n")
    columns = [Column.parse(one) for one in ("taken_at=when:timestamp", "place=where:geo")]
    dataset = importers.csv_table(file, Columns(text="name", fields=columns))
    assert types(dataset) == {"taken_at": FieldType.TIMESTAMP, "place": FieldType.GEO}
    first, second = items(dataset)
    moment = datetime(2021, 7, 4, 16, 30, tzinfo=UTC)
    assert first.fields == {"taken_at": moment, "place": GeoPoint(48.2, 16.37)}
    # Without a zone: UTC.
    assert second.fields == {"taken_at": moment, "place": GeoPoint(-90, 180)}
    messages = [one.message for one in broken(dataset)]
    assert "'91,0' is not a place" in messages[0]
    assert "'soon' is not a date or time as ISO 8601 text" in messages[1]
    assert "'1625416200' is not a date or time" in messages[2]


def test_json_has_places_as_objects_and_times_only_where_they_are_declared(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rows: list[dict[str, object]] = [
        {"text": "a", "at": {"lat": 1, "lon": 2.5}, "seen": "2021-07-04", "n": 5},
        {"text": "b", "at": {"latitude": -3.5, "longitude": 4}, "seen": 5},
        {"text": "c", "at": [16.37, 48.2]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    guessed = importers.json_lines_table(file, Columns(text="text"))
    assert types(guessed) == {"seen": FieldType.STRING, "n": FieldType.INT64}
    columns = [Column.parse("at:geo"), Column.parse("seen:timestamp")]
    dataset = importers.json_lines_table(file, Columns(text="text", fields=columns))
    [first] = items(dataset)
    assert first.fields == {"at": GeoPoint(1, 2.5), "seen": datetime(2021, 7, 4, tzinfo=UTC)}
    assert ["5 is not a date or time" in one.message for one in broken(dataset)] == [True, False]
    assert "[16.37, 48.2] is not a place" in broken(dataset)[1].message
    file.write_text("\n".join(map(json.dumps, rows[:2])))
    assert types(importers.json_lines_table(file, Columns(text="text")))["at"] is FieldType.GEO


def test_parquet_knows_times_and_places_by_their_types(tmp_path: Path) -> None:
    place = pa.struct([("latitude", pa.float64()), ("longitude", pa.float32())])
    other = pa.struct([("latitude", pa.float64()), ("height", pa.float64())])
    moment = datetime(2021, 7, 4, 16, 30, 0, 5)
    no_place = {"latitude": None, "longitude": float("nan")}
    table = pa.table(
        {
            "text": ["a", "b", "c"],
            "local": pa.array([1625416200_000_005_999, None, None], pa.timestamp("ns")),
            "zoned": pa.array([moment, None, None], pa.timestamp("us", "Europe/Vienna")),
            "place": pa.array([{"latitude": 1.5, "longitude": 2.5}, None, no_place], place),
            "other": pa.array([{"latitude": 1.5, "height": 2.5}, None, None], other),
        }
    )
    file = tmp_path / "t.parquet"
    pq.write_table(table, file)
    dataset = importers.parquet_table([file], Columns(text="text"))
    assert types(dataset) == {
        "local": FieldType.TIMESTAMP,
        "zoned": FieldType.TIMESTAMP,
        "place": FieldType.GEO,
    }
    assert dataset.left_out == ("other",)
    first, second, third = items(dataset)
    in_utc = moment.replace(tzinfo=UTC)
    assert first.fields == {"local": in_utc, "zoned": in_utc, "place": GeoPoint(1.5, 2.5)}
    assert second.fields == third.fields == {}
