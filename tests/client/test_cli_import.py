from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client.cli import _importer, _journal, main
from sentinel_core import errors as core
from tests.client import datasets
from tests.client.fake_gateway import FakeGateway
from tests.waiting import until


def run_import(gateway: FakeGateway, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--address", gateway.address, "import", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the journal keep files as if they had been written long ago."""
    monkeypatch.setattr(_journal, "_SETTLED_S", -60.0)


def sent(gateway: FakeGateway) -> int:
    return sum(len(batch.items) for batch in gateway.calls["IngestBatch"])


def test_flickr30k_is_stored_with_its_captions(gateway: FakeGateway, tmp_path: Path) -> None:
    result = run_import(gateway, "flickr30k", datasets.flickr30k(tmp_path), "--full-text")
    assert result.exit_code == 0, result.output
    assert "flickr30k: 3 stored, 0 unchanged, 0 failed" in result.stdout
    made = gateway.collections["flickr30k"]
    types = collection_pb.FieldSchema.Type
    assert {(field.name, field.type) for field in made.fields} == {
        ("path", types.TYPE_STRING),
        ("file_name", types.TYPE_STRING),
        ("captions", types.TYPE_STRING_LIST),
        ("split", types.TYPE_STRING),
        ("caption", types.TYPE_STRING),
    }
    assert [field.name for field in made.fields if field.full_text] == ["caption"]
    captions = [list(item.fields["captions"].list_value.values) for item in gateway.items.values()]
    assert [len(one) for one in captions] == [5, 5, 5]


def test_what_is_broken_is_named_and_reported_and_the_rest_is_stored(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    root = datasets.flickr8k(tmp_path / "data")
    (root / "Flicker8k_Dataset" / "cut.jpg").write_bytes(b"BAD")
    report = tmp_path / "report.jsonl"
    result = run_import(gateway, "flickr8k", root, "--report", report)
    assert result.exit_code == 1
    assert "3 stored, 0 unchanged, 3 failed" in result.stdout
    assert "cut.jpg: truncated or damaged image [IMAGE_DECODE_FAILED]" in result.stderr
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {(Path(one["entry"]).name, one["reason"]) for one in lines} == {
        ("cut.jpg", "IMAGE_DECODE_FAILED"),
        ("Flickr8k.token.txt#21", "ROW_INVALID"),
        ("2258277193_586949ec62.jpg.1", "FILE_MISSING"),
    }


def test_many_failures_are_summed_up_by_reason(gateway: FakeGateway, tmp_path: Path) -> None:
    rows = "".join(f"gone{number}.jpg,{number}\n" for number in range(50)) + "x.jpg,1,2\n"
    (tmp_path / "t.csv").write_text(f"file,n\n{rows}")
    result = run_import(gateway, "csv", tmp_path / "t.csv", "--image", "file", "-c", "c")
    assert result.exit_code == 1
    assert result.stderr.count("✗") == 21
    assert "50" in result.stderr
    assert "FILE_MISSING" in result.stderr.split("more; the table")[1]
    assert "ROW_INVALID" in result.stderr.split("more; the table")[1]


@pytest.mark.parametrize("ids", ["content", "name"])
def test_a_second_import_reads_and_sends_nothing(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str
) -> None:
    datasets.flickr30k(tmp_path)
    run_import(gateway, "flickr30k", tmp_path, "--ids", ids)
    assert ("coffee.jpg" in gateway.items) == (ids == "name")
    monkeypatch.setattr(_importer, "read_item", lambda item: pytest.fail(f"{item.key} was read"))
    result = run_import(gateway, "flickr30k", tmp_path, "--ids", ids)
    assert "0 stored, 3 unchanged, 0 failed" in result.stdout
    assert sent(gateway) == 3
    assert len(gateway.calls["IngestItems"]) == 1


@pytest.mark.parametrize("ids", ["content", "name"])
def test_what_changed_is_sent_again_and_nothing_else(
    gateway: FakeGateway, tmp_path: Path, ids: str
) -> None:
    datasets.flickr30k(tmp_path)
    run_import(gateway, "flickr30k", tmp_path, "--ids", ids)
    captions = tmp_path / "results_20130124.token"
    captions.write_text(captions.read_text().replace("A rocket.jpg, number 3", "Another"))
    (tmp_path / "flickr30k-images" / "coffee.jpg").write_bytes(b"another picture")
    result = run_import(gateway, "flickr30k", tmp_path, "--ids", ids)
    assert "2 stored, 1 unchanged, 0 failed" in result.stdout
    assert sent(gateway) == 5
    captions_now = [
        caption
        for item in gateway.items.values()
        for caption in item.fields["captions"].list_value.values
    ]
    assert "Another ." in captions_now


@pytest.mark.parametrize("ids", ["content", "name"])
def test_what_the_server_lost_is_sent_again(gateway: FakeGateway, tmp_path: Path, ids: str) -> None:
    datasets.flickr30k(tmp_path)
    run_import(gateway, "flickr30k", tmp_path, "--ids", ids)
    gateway.items.pop(next(iter(gateway.items)))
    assert (
        "1 stored, 2 unchanged" in run_import(gateway, "flickr30k", tmp_path, "--ids", ids).stdout
    )


def test_refresh_sends_everything_again(gateway: FakeGateway, tmp_path: Path) -> None:
    datasets.flickr30k(tmp_path)
    run_import(gateway, "flickr30k", tmp_path)
    assert "3 unchanged" in run_import(gateway, "flickr30k", tmp_path, "--refresh").stdout
    assert sent(gateway) == 6


def test_urls_are_left_to_the_gateway_and_sent_once(gateway: FakeGateway, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("url,n\nhttps://example.org/1.jpg,1\ns3://photos/2.jpg,2\n")
    arguments = ("csv", table, "--image", "url", "-c", "web")
    assert "2 stored" in run_import(gateway, *arguments).stdout
    batches = gateway.calls["IngestBatch"]
    uris = {item.content.image.uri for batch in batches for item in batch.items}
    assert uris == {"https://example.org/1.jpg", "s3://photos/2.jpg"}
    assert "2 unchanged" in run_import(gateway, *arguments).stdout
    table.write_text("url,n\nhttps://example.org/1.jpg,1\ns3://photos/2.jpg,3\n")
    run_import(gateway, *arguments)
    assert sent(gateway) == 3
    gateway.items.clear()  # the collection was made anew
    assert "2 stored" in run_import(gateway, *arguments).stdout


def test_a_url_that_is_not_stored_any_more_is_sent_again(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("url,n\n" + "".join(f"https://e.org/{n}.jpg,{n}\n" for n in range(3)))
    arguments = ("csv", table, "--image", "url", "-c", "web")
    run_import(gateway, *arguments)
    assert "0 stored, 3 unchanged" in run_import(gateway, *arguments).stdout
    gateway.items.pop(next(iter(gateway.items)))
    assert "1 stored, 2 unchanged" in run_import(gateway, *arguments).stdout
    assert len(gateway.items) == 3
    gateway.items.clear()  # deleted and created again, and already with another item
    gateway.items["other"] = item_pb.Item(id="other")
    assert "3 stored, 0 unchanged" in run_import(gateway, *arguments).stdout


@pytest.mark.parametrize("image", ["coffee.jpg", "https://e.org/coffee.jpg"])
def test_another_content_under_the_same_id_is_replaced(
    gateway: FakeGateway, tmp_path: Path, image: str
) -> None:
    datasets.pictures(tmp_path)
    (tmp_path / "t.csv").write_text(f"file,key\n{image},a\n")
    arguments = ("csv", tmp_path / "t.csv", "--image", "file", "--id", "key", "-c", "c")
    run_import(gateway, *arguments)
    assert "0 stored, 1 unchanged" in run_import(gateway, *arguments).stdout
    stored = gateway.items["a"].digest
    gateway.items["a"].digest = "f" * 64  # by another caller, or in a collection created again
    assert "1 stored, 0 unchanged" in run_import(gateway, *arguments).stdout
    assert gateway.items["a"].digest == stored


def test_an_id_that_breaks_the_rules_fails_alone(gateway: FakeGateway, tmp_path: Path) -> None:
    rows = [{"key": key, "t": f"text {key}"} for key in ("a", "b" * 300, "c\x1b", "d")]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run_import(gateway, "jsonl", tmp_path / "t.jsonl", "--text", "t", "--id", "key", "-c", "c")
    assert set(gateway.calls["GetItems"][0].ids) == {"a", "d"}
    assert sent(gateway) == 4  # the gateway names the two


def test_ids_of_a_column_are_taken_and_must_differ(gateway: FakeGateway, tmp_path: Path) -> None:
    names = datasets.pictures(tmp_path)
    (tmp_path / "t.csv").write_text(f"file,key\n{names[0]},a\n{names[1]},b\n{names[2]},a\n")
    result = run_import(
        gateway, "csv", tmp_path / "t.csv", "--image", "file", "--id", "key", "-c", "c"
    )
    assert result.exit_code == 1
    assert set(gateway.items) == {"a", "b"}
    assert "another entry has the id 'a', too [ID_TWICE]" in result.stderr


def test_equal_pictures_are_one_item(gateway: FakeGateway, tmp_path: Path) -> None:
    names = datasets.pictures(tmp_path)
    rows = "\n".join([*names, names[0]])
    (tmp_path / "t.csv").write_text(f"file\n{rows}\n")
    arguments = ("csv", tmp_path / "t.csv", "--image", "file", "-c", "c")
    assert (
        "3 stored, 0 unchanged, 1 duplicates of another" in run_import(gateway, *arguments).stdout
    )


def test_parquet_json_lines_coco_and_shards_arrive(gateway: FakeGateway, tmp_path: Path) -> None:
    names = datasets.pictures(tmp_path)
    pq.write_table(pa.table({"file": names, "n": [1, 2, 3]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(f'{{"file": "{name}"}}\n' for name in names))
    for format_, *rest in (
        ("parquet", tmp_path / "t.parquet", "--image", "file"),
        ("jsonl", tmp_path / "t.jsonl", "--image", "file", "--refresh"),
        ("coco", *datasets.coco(tmp_path)),
        ("webdataset", datasets.webdataset(tmp_path) / "{00000..00001}.tar"),
    ):
        gateway.items.clear()
        result = run_import(gateway, format_, *rest, "-c", f"c_{format_}")
        assert "3 stored" in result.stdout, result.output
    declared = {field.name for field in gateway.collections["c_webdataset"].fields}
    assert declared == {"key", "width", "score", "tags", "none", "caption", "cls"}


def test_left_out_columns_and_fields_are_said(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.add_collection("mine", text=collection_pb.FieldSchema.TYPE_INT64)
    (tmp_path / "t.jsonl").write_text('{"words": "x", "text": "y", "box": {}}\n')
    result = run_import(gateway, "jsonl", tmp_path / "t.jsonl", "--text", "words", "-c", "mine")
    assert result.exit_code == 0, result.output
    assert "Left out: text, which mine does not declare as such." in result.stderr
    assert "Left out: box, which no field can hold." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["flickr8k", "{}"], "has no folder Flicker8k_Dataset or"),
        (["csv", "{}/t.csv", "-c", "c"], "name one column"),
        (["csv", "{}/t.csv", "-c", "c", "--image", "nothing"], "has no column 'nothing'"),
        (["csv", "{}/t.csv", "--image", "file"], "--collection"),
        (
            ["csv", "{}/t.csv", "-c", "c", "--image", "file", "--field", "x:date"],
            "not a field type",
        ),
        (
            ["csv", "{}/t.csv", "-c", "c", "--image", "file", "--full-text", "n"],
            "no string field n",
        ),
        (["parquet", "{}/t.csv", "-c", "c", "--image", "file"], "is not a Parquet file"),
        (["webdataset", "{}/*.tar", "-c", "c"], "there is no file"),
        (["csv", "{}/t.csv", "-c", "c", "--image", "file", "--report", "/no/x"], "cannot write"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    gateway: FakeGateway, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "t.csv").write_text("file,n\nx.jpg,1\n")
    result = run_import(gateway, *(one.format(tmp_path) for one in arguments))
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.output
    assert not gateway.collections


def test_a_failing_store_ends_it_and_says_how_far_it_came(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.failures["IngestItems"].append(core.FailedPrecondition("MODEL_MISMATCH", "other"))
    (tmp_path / "t.jsonl").write_text('{"file": "gone.jpg"}\n{"file": "https://e.org/x.jpg"}\n')
    result = run_import(gateway, "jsonl", tmp_path / "t.jsonl", "--image", "file", "-c", "c")
    assert result.exit_code == 2
    assert "stopped by the error below" in result.stdout
    assert "other [MODEL_MISMATCH]" in result.stderr


def test_a_collection_made_anew_in_the_middle_is_told(gateway: FakeGateway, tmp_path: Path) -> None:
    rows = "".join(f'{{"t": "text {number}"}}\n' for number in range(600))
    (tmp_path / "t.jsonl").write_text(rows)
    arguments = ("jsonl", tmp_path / "t.jsonl", "--text", "t", "-c", "c")
    enter = gateway.enter

    def enter_and_forget(method: str, request: Any, context: Any) -> None:
        if method == "GetItems" and len(gateway.calls["GetItems"]) == 2:
            gateway.items.clear()
        enter(method, request, context)

    gateway.enter = enter_and_forget  # type: ignore[method-assign]
    result = run_import(gateway, *arguments)
    assert result.exit_code == 2
    assert "was c deleted or created again meanwhile? [ITEMS_GONE]" in result.stderr
    gateway.enter = enter  # type: ignore[method-assign]
    assert "0 failed" in run_import(gateway, *arguments).stdout
    assert len(gateway.items) == 600


@pytest.mark.usefixtures("_children_take_sigint")
@pytest.mark.parametrize("opened", [False, True])
def test_ctrl_c_ends_it_while_a_file_stalls(
    gateway: FakeGateway, tmp_path: Path, opened: bool
) -> None:
    pipe = tmp_path / "t.csv"
    os.mkfifo(pipe)
    command = ["-m", "sentinel_client.cli", "--address", gateway.address, "import", "csv"]
    process = subprocess.Popen(
        [sys.executable, *command, str(pipe), "--text", "t", "-c", "c"], stderr=subprocess.PIPE
    )
    until(lambda: gateway.calls["GetCollection"])
    writer = os.open(pipe, os.O_RDWR) if opened else None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    if writer is not None:
        os.close(writer)
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.usefixtures("_children_take_sigint")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_a_signal_in_the_middle_and_a_second_run_finish_the_job(
    gateway: FakeGateway, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for picture in range(300):
        (data / f"{picture}.jpg").write_bytes(f"picture {picture}".encode())
    gateway.advice.suggested_batch_size = 10
    gateway.ingest.silent_after = 8
    command = ["-m", "sentinel_client.cli", "--address", gateway.address, "index", str(data)]
    command.append("--copy")
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    until(lambda: gateway.items)
    process.send_signal(number)
    assert process.wait(10) == code
    gateway.ingest.silent_after = None
    until(lambda: len(gateway.items) == sent(gateway))  # of its last batch
    stored, before = len(gateway.items), sent(gateway)
    assert 0 < stored < 300
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert f"{300 - stored} stored, {stored} unchanged, 0 failed" in done.stdout, done.stderr
    assert sent(gateway) - before == 300 - stored
    assert len(gateway.items) == 300
