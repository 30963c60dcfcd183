"""A row, item or query that cannot be stored is named, and the rest continues."""

from __future__ import annotations

import io
import json
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sentinel_client import (
    AsyncSentinelClient,
    FieldType,
    ImageUri,
    InvalidArgument,
    Item,
    Q,
    SentinelError,
    importers,
)
from sentinel_client.cli import main
from sentinel_client.importers import BrokenEntry, Columns, LayoutError
from sentinel_client.importers.columns import typed_value
from sentinel_client.importers.csv_rows import read_csv
from sentinel_client.importers.rows import MAX_LINE, RowError, TableRow, read_json_lines
from tests.client import datasets
from tests.client.fake_gateway import FakeGateway

LONG = "x" * 131_073
HALF = "\ud83d"


def run_import(gateway: FakeGateway, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--address", gateway.address, "import", *map(str, arguments)])


def csv_rows(text: str | bytes, delimiter: str = ",") -> list[tuple[int, Any]]:
    data = text if isinstance(text, bytes) else text.encode()
    rows = read_csv(io.BytesIO(data), delimiter, allow_short=True)
    return [(row.number, getattr(row, "cells", None) or row.message) for row in rows]  # type: ignore[union-attr]


def test_half_a_character_in_json_lines_breaks_its_row_only(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    table = tmp_path / "t.jsonl"
    rows = ['{"t": "one"}', r'{"t": "bad \ud83d"}', r'{"t": "two", "n": ["\uD83D"]}', '{"t": "3"}']
    table.write_text("\n".join(rows))
    for _ in range(2):
        result = run_import(gateway, "jsonl", table, "--text", "t", "-c", "c")
        assert result.exit_code == 1
        assert "2 failed" in result.stdout
        assert r"t.jsonl#2: not Unicode: an escape such as \ud83d is half of a character" in (
            result.stderr
        )
    assert {item.content.text for item in gateway.items.values()} == {"one", "3"}


@pytest.mark.parametrize("ids", ["content", "name"])
def test_what_no_message_can_hold_breaks_its_sample_only(
    gateway: FakeGateway, tmp_path: Path, ids: str
) -> None:
    chelsea, coffee, rocket = (datasets.photos.photo(name).read_bytes() for name in datasets.NAMES)
    shard = {
        "good.jpg": chelsea,
        "good.json": b'{"n": 1, "s": "x"}',
        "half.jpg": coffee,
        "half.json": rb'{"n": 2, "s": "\ud83d"}',
        "large.jpg": rocket,
        "large.json": b'{"n": 9223372036854775808, "s": "y"}',
        "bom.png": chelsea + b"1",
        "bom.json": b'\xef\xbb\xbf{"n": 4, "s": "z"}',
        "\udcff.jpg": b"another name that is not Unicode",
    }
    file = datasets.shard(tmp_path / "0.tar", shard)
    result = run_import(gateway, "webdataset", file, "--ids", ids, "-c", "c")
    assert "half: " in result.stderr
    assert "half of a character" in result.stderr
    assert "9223372036854775808 is not a whole number of at most 64 bits (int64)" in result.stderr
    assert f"{3 if ids == 'name' else 2} failed" in result.stdout, result.output
    assert len(gateway.items) == (2 if ids == "name" else 3)


def test_coco_with_half_characters_nul_and_large_numbers(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    names = datasets.pictures(tmp_path / "val")
    images = [
        {"id": 1, "file_name": names[0]},
        {"id": 2**63, "file_name": names[1]},
        {"id": 3, "file_name": names[2]},
        {"id": 4, "file_name": "a\0b.jpg"},
        {"id": 5, "file_name": f"{HALF}.jpg"},
    ]
    captions = [{"image_id": 1, "caption": "fine"}, {"image_id": 3, "caption": f"bad {HALF}"}]
    file = tmp_path / "captions_val.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    result = run_import(gateway, "coco", file, tmp_path / "val")
    assert result.exit_code == 1, result.output
    assert "1 stored, 0 unchanged, 4 failed" in result.stdout
    assert "fields[coco_id]: a whole number has at most 64 bits [FIELD_TYPE]" in result.stderr
    assert result.stderr.count("✗") == 4


BAD_ITEMS = {
    "id": Item(id=f"a{HALF}", text="x"),
    "content": Item(text=f"x{HALF}"),
    "uri": Item(image=ImageUri(f"https://e.org/{HALF}.jpg")),
    "fields[n]": Item(text="x", fields={"n": 2**63}),
    "fields[s]": Item(text="x", fields={"s": HALF}),
    "fields[tags]": Item(text="x", fields={"tags": ["a", HALF]}),
    "fields[\\ud83d]": Item(text="x", fields={HALF: 1}),
    "fields[when]": Item(text="x", fields={"when": datetime(2026, 1, 2)}),  # type: ignore[dict-item]
    "fields[none]": Item(text="x", fields={"none": None}),  # type: ignore[dict-item]
    "vector": Item(id="a", vector=[[1.0]]),  # type: ignore[arg-type]
    "NUL": Item(image="a\0.jpg"),
    "path": Item(image=f"{HALF}.jpg"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
async def test_an_item_that_cannot_be_sent_fails_alone(gateway: FakeGateway, name: str) -> None:
    items = [Item(text="before"), BAD_ITEMS[name], Item(text="after")]
    async with AsyncSentinelClient(gateway.address) as client:
        results = await client.upsert(items, collection="c")
        assert [result.error is None for result in results] == [True, False, True]
        error = results[1].error
        acks = [ack async for ack in client.ingest(items, collection="c")]
    assert isinstance(error, InvalidArgument)
    assert error.field in (name, "content", None)
    [(item, again)] = [failed for ack in acks for failed in ack.failed_items]
    assert item is items[1]
    assert str(again) == str(error)
    str(error).encode()  # can be printed


async def test_a_query_that_cannot_be_sent_fails_alone(gateway: FakeGateway) -> None:
    queries = ["one", HALF, Q(image="no such file"), "two"]
    async with AsyncSentinelClient(gateway.address) as client:
        results = await client.batch_search(queries, collection="c")
        reasons = [one.reason if isinstance(one, SentinelError) else "" for one in results]
        assert reasons == ["", "NOT_UNICODE", "FILE_UNREADABLE", ""]
        [request] = gateway.calls["BatchSearch"]
        assert len(request.searches) == 2


def test_tsv_has_no_quoting(gateway: FakeGateway, tmp_path: Path) -> None:
    names = datasets.pictures(tmp_path)
    lines = [f"{names[0]}\tx", f'{names[1]}\t"Open quote', f'{names[2]}\t"all" of it']
    (tmp_path / "t.tsv").write_text("file\ttitle\n" + "\n".join(lines))
    result = run_import(gateway, "csv", tmp_path / "t.tsv", "--image", "file", "-c", "c")
    assert "3 stored, 0 unchanged, 0 failed" in result.stdout
    titles = {item.fields["title"].string_value for item in gateway.items.values()}
    assert titles == {"x", '"Open quote', '"all" of it'}


@pytest.mark.parametrize("rest", ["c,ok", 'c,"ok"', 'c,"ok', 'c,"o\nk"', 'c,ok\n"d",x\ne,"y""z"'])
def test_an_open_quote_is_named_and_takes_no_other_row_along(rest: str) -> None:
    good = csv_rows(f"file,title\n{rest}\n")
    rows = csv_rows(f'file,title\na,x\nb,"Open quote\n{rest}\n')
    assert rows[0] == (2, {"file": "a", "title": "x"})
    assert rows[1][0] == 3
    assert "a quote is not closed" in rows[1][1]
    assert [cells for _, cells in rows[2:]] == [cells for _, cells in good]


def test_a_quote_that_swallows_thousands_of_rows_gives_them_back() -> None:
    many = "".join(f"{number},a title of some length\n" for number in range(10_000))
    rows = csv_rows(f'n,title\nx,"open\n{many}')
    assert len(rows) == 10_001
    assert rows[0] == (2, "a cell has more than 131,072 characters, perhaps because of a quote "
                       "that is not closed")  # fmt: skip
    assert rows[-1][1]["n"] == "9999"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (",file,title\n0,a,x\n", [(2, {"file": "a", "title": "x"})]),  # as pandas writes it
        ("file,title,\na,x,\n", [(2, {"file": "a", "title": "x"})]),
        ("file,n\na,1,\nb,2,,\n", [(2, {"file": "a", "n": "1"}), (3, {"file": "b", "n": "2"})]),
        ("file,title\na,x,z\n", [(2, "the row has 3 columns, the header 2")]),
        ('f,n\n"a\nb",1\nc,2\n', [(2, {"f": "a\nb", "n": "1"}), (4, {"f": "c", "n": "2"})]),
        ("file\r\na\r\n\r\nb", [(2, {"file": "a"}), (4, {"file": "b"})]),
        ("\ufefffile\na\n", [(2, {"file": "a"})]),
        (b"file\na\0b\n\xff\nc\n", [(2, {"file": "a\0b"}), (3, "not UTF-8"), (4, {"file": "c"})]),
        (f"f\n{LONG}\nb\n", [(2, "a cell has more than 131,072 characters"), (3, {"f": "b"})]),
    ],
)  # fmt: skip
def test_tables_as_other_programs_write_them(text: str | bytes, expected: list[Any]) -> None:
    assert csv_rows(text) == expected


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("file,n\na.jpg,1\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
        (b"file,n,n\na.jpg,1,2\n", "the header has two columns n: rename one"),
        (b'"file,n\na.jpg,1\n', "the header is not CSV: a quote is not closed"),
    ],
)
def test_a_header_that_cannot_be_used_is_said(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(LayoutError, match=complaint):
        importers.csv_table(tmp_path / "t.csv", Columns(image="file"))


def test_a_string_in_parquet_that_is_not_utf_8_breaks_its_row_only(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3)))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])
    pq.write_table(pa.table({"t": texts}), tmp_path / "t.parquet")
    entries = list(importers.parquet_table([tmp_path / "t.parquet"], Columns(text="t")).entries())
    assert [one.text for one in entries if not isinstance(one, BrokenEntry)] == ["a", "b"]
    [broken] = [one for one in entries if isinstance(one, BrokenEntry)]
    assert (broken.key.rsplit("#")[1], broken.message) == ("1", "not UTF-8")


def test_two_columns_of_a_name_in_parquet_are_said(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a.jpg"]), pa.array([1]), pa.array([2])], names=["file", "n", "n"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(LayoutError, match="has two columns n: rename one"):
        importers.parquet_table([tmp_path / "t.parquet"], Columns(image="file"))


def test_a_row_number_is_that_of_the_editor(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"text,n\n{'x' * 140_000},1\nb,2\nc,three\n")
    columns = Columns(text="text", fields=[importers.Column("n", "n", FieldType.INT64)])
    broken = [
        one
        for one in importers.csv_table(tmp_path / "t.csv", columns).entries()
        if isinstance(one, BrokenEntry)
    ]
    assert [(one.key.rsplit("#")[1], one.message) for one in broken] == [
        ("2", "a cell has more than 131,072 characters"),
        ("4", "n: 'three' is not a whole number of at most 64 bits (int64)"),
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**63, FieldType.INT64),
        (10**400, FieldType.DOUBLE),
        (float("inf"), FieldType.DOUBLE),
        (float("inf"), FieldType.INT64),
        ("9" * 5_000, FieldType.INT64),
        (True, FieldType.INT64),
        ("maybe", FieldType.BOOL),
        ("[" * 100_000, FieldType.STRING_LIST),
        ({"a": HALF}, FieldType.STRING),
    ],
)
def test_a_value_of_another_type_is_told_in_plain_words(value: object, kind: FieldType) -> None:
    with pytest.raises(
        ValueError, match=r" is not (a|true) .* \((int64|double|bool|string)"
    ) as told:
        typed_value(value, kind)
    assert len(str(told.value)) < 160
    str(told.value).encode()


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_without_end_costs_no_memory(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "t.jsonl"
    with file.open("wb") as data:
        data.write(b'{"t": "a"}\n')
        data.truncate(40 * MAX_LINE)  # a hole, read as zeros
        data.seek(40 * MAX_LINE)
        data.write(end + b'{"t": "b"}\n')
    for read in (read_json_lines, lambda data: read_csv(data, allow_short=True)):
        tracemalloc.start()
        with file.open("rb") as data:
            rows: list[TableRow | RowError] = list(read(data))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * MAX_LINE
        assert any(
            isinstance(row, RowError) and "longer than 4,194,304" in row.message for row in rows
        )
        assert len(rows) >= (2 if end else 1)


def test_deep_json_and_other_things_break_their_line_only() -> None:
    lines = [
        "[" * 100_000,
        "[1]",
        "{",
        "null",
        '{"a": NaN}',
        '{"a": 1e999}',
        "9" * 5_000,
        '{"a": 1}',
    ]
    rows = list(read_json_lines(io.BytesIO("\n".join(lines).encode())))
    assert [row.number for row in rows if isinstance(row, TableRow)] == [5, 6, 8]
    utf_16 = list(read_json_lines(io.BytesIO('{"a": 1}\n'.encode("utf-16"))))
    assert isinstance(utf_16[0], RowError)
    assert "UTF-16" in utf_16[0].message
