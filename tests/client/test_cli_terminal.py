"""What the command line prints is safe and complete on any terminal, pipe, encoding and disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client._text import printable
from sentinel_client.cli import main
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway, hit

TYPES = collection_pb.FieldSchema.Type
# Clears the screen, names the window; in eight bits; writes backwards; rings.
NASTY = "a\x1b[2J\x1b]0;x\x07\x9b2J\u202egpj\rb\x7f"


def sentinel(gateway: FakeGateway, *arguments: object, data: bytes | None = None) -> Result:
    command = ["--address", gateway.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, input=data)


def run(
    gateway: FakeGateway, arguments: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run it in a shell, for pipes and redirections."""
    command = f"{sys.executable} -m sentinel_client.cli --address {gateway.address} {arguments}"
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


def commands_of(text: str) -> set[str]:
    """Return the characters of a text that command a terminal."""
    return {character for character in text if printable(character) != character}


def test_names_and_texts_command_no_terminal(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.hits = [
        hit(1, 0.5, f"/p/{NASTY}/{NASTY}.jpg", id=NASTY),
        hit(2, 0.4, text=f"words {NASTY}"),
    ]
    gateway.items[NASTY] = item_pb.Item(id=NASTY)
    gateway.items[NASTY].fields["path"].string_value = f"/p/{NASTY}.jpg"
    gateway.add_collection("c", path=TYPES.TYPE_STRING)
    gateway.failures["GetCollection"].append(None)
    monkeypatch.setenv("COLUMNS", "400")
    for arguments in (
        ["search", NASTY],
        ["search", NASTY, "--json"],
        ["items", "list", "-c", "c"],
        ["items", "list", "-c", "c", "--json"],
        ["items", "get", NASTY, "-c", "c"],
        ["items", "delete", NASTY, "-c", "c", "--dry-run"],
        ["items", "download", "x", "-c", "c", "-o", f"/nowhere/{NASTY}"],
        ["search", "x", "-c", "c", "--where", f"path=={NASTY}"],
    ):
        result = sentinel(gateway, *arguments)
        assert not commands_of(result.output), arguments
    gateway.failures["Search"].append(core.InvalidArgument("TEXT_TOO_LONG", f"cut {NASTY}"))
    result = sentinel(gateway, "search", "x")
    assert r"cut a\x1b[2J\x1b]0;x\x07\x9b2J\u202egpj" in result.stderr
    assert not commands_of(result.output)


def test_json_of_odd_names_reads_back_as_they_are(gateway: FakeGateway) -> None:
    gateway.hits = [hit(1, 0.5, f"/p/{NASTY}.jpg")]
    line = sentinel(gateway, "search", "x", "--json").stdout
    assert json.loads(line)["path"] == f"/p/{NASTY}.jpg"


def test_a_broken_file_with_an_odd_name_is_named_in_one_line(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "x\x1b[2J\n3 stored.jpg").write_bytes(b"BAD")
    (tmp_path / os.fsdecode(b"\xff\xe9.jpg")).write_bytes(b"BAD too")
    result = sentinel(gateway, "index", tmp_path)
    assert result.exit_code == 1
    assert r"x\x1b[2J\n3 stored.jpg: truncated" in result.stderr
    assert "\ufffd\ufffd.jpg: truncated" in result.stderr
    assert not commands_of(result.output)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("kind", ["", "--json"])
def test_any_encoding_of_the_output_shows_everything(
    gateway: FakeGateway, encoding: str, kind: str
) -> None:
    path = "/p/Zürich ✓ 東京.jpg"
    gateway.hits = [hit(1, 0.5, path)]
    done = run(gateway, f"search x {kind}", PYTHONIOENCODING=encoding, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    if kind:
        assert json.loads(shown)["path"] == path
    else:
        name = "Zürich ✓ 東京.jpg".encode(encoding, "backslashreplace").decode(encoding)
        assert name in shown


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_any_locale_indexes_any_name(gateway: FakeGateway, tmp_path: Path, locale: str) -> None:
    for number, name in enumerate((b"Z\xc3\xbcrich.jpg", b"Z\xfcrich.jpg", b"\xe6\x9d\xb1.jpg")):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"%d" % number)
    done = run(gateway, f"index {tmp_path}", LC_ALL=locale, LANG=locale)
    assert b"3 stored, 0 unchanged, 0 failed" in done.stdout, done.stderr
    names = {item.fields["file_name"].string_value for item in gateway.items.values()}
    assert names == {"Zürich.jpg", "Z\ufffdrich.jpg", "東.jpg"}


def test_a_closed_pipe_ends_it_quietly(gateway: FakeGateway) -> None:
    for number in range(3_000):
        gateway.items[f"{number:064}"] = item_pb.Item(id=f"{number:064}")
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 1_000)]
    for command in ("items list --json", "items list -n 3000", "search x -n 1000 --json"):
        done = run(gateway, f"{command} | head -n 1")
        assert len(done.stdout.splitlines()) == 1
        assert not done.stderr, command


def test_a_full_disk_is_one_line(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.hits = [hit(1, 0.5)]
    for command in ("search x --json", "search x --html /dev/full"):
        done = run(gateway, f"{command} > /dev/full")
        assert done.returncode, command
        assert b"the disk is full" in done.stderr, done.stderr
        assert b"Traceback" not in done.stderr
    (tmp_path / "bad.jpg").write_bytes(b"BAD")
    (tmp_path / "good.jpg").write_bytes(b"good")
    result = sentinel(gateway, "index", tmp_path, "--report", "/dev/full")
    assert "1 stored, 0 unchanged, 1 failed" in result.stdout
    assert "cannot write /dev/full" in result.stderr


def test_a_journal_on_a_full_disk_costs_nothing_but_time(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "sentinel"
    cache.mkdir(parents=True)
    (cache / "imports.sqlite3").symlink_to("/dev/full")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(b"a")
    assert "1 stored" in sentinel(gateway, "index", pictures).stdout
    assert "1 unchanged" in sentinel(gateway, "index", pictures).stdout


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Zürich\n\n東京\n".encode(), ["Zürich", "東京"]),
        ("\ufeffZürich\r\n東京".encode(), ["Zürich", "東京"]),
        ("Zürich\r\n東京\n".encode("utf-16"), ["Zürich", "東京"]),
        (b"a\rb", ["a", "b"]),
    ],
)
def test_a_file_of_queries_is_read(gateway: FakeGateway, data: bytes, expected: list[str]) -> None:
    result = sentinel(gateway, "search", "-f", "-", data=data)
    assert result.exit_code == 0, result.output
    sent = {request.params.query.content.text for request in gateway.calls["Search"]}
    assert sent == set(expected)


def test_a_file_of_queries_in_another_encoding_is_named(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "q.txt").write_bytes("a\nZürich\n".encode("cp1252"))
    result = sentinel(gateway, "search", "-f", tmp_path / "q.txt")
    assert result.exit_code == 2
    assert f"line 2 of {tmp_path}/q.txt is not UTF-8: save the file as UTF-8" in result.stderr
    assert not gateway.calls["Search"]


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("name==x", "write name=x, with one ="),
        ("name == x", "write name=x, with one ="),
        ("name='x y'", "write name=x y, without quotes around the value"),
        ('name="x"', "write name=x, without quotes around the value"),
        ("n>=9223372036854775808", "n: '9223372036854775808' is not int64"),
        ("n>=1e3", "n: '1e3' is not int64"),
    ],
)
def test_a_condition_of_another_language_says_what_to_write(
    gateway: FakeGateway, condition: str, complaint: str
) -> None:
    gateway.add_collection("photos", name=TYPES.TYPE_STRING, n=TYPES.TYPE_INT64)
    result = sentinel(gateway, "search", "x", "--where", condition)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not gateway.calls["Search"]


def test_a_sheet_that_cannot_be_written_is_said_before_the_search(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    for place in ("/nonexistent/x.html", "/proc/x.html"):
        result = sentinel(gateway, "search", "x", "--html", place)
        assert result.exit_code == 2
        assert f"cannot write {place}: No such file or directory" in result.stderr
        assert not isinstance(result.exception, OSError)
    assert not gateway.calls["Search"]
    gateway.failures["Search"] += [core.NotFound("COLLECTION_NOT_FOUND", "none")] * 2
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text("the last one")
    for sheet in (old, new):
        sentinel(gateway, "search", "x", "--html", sheet)
    assert old.read_text() == "the last one"
    assert not new.exists()
    gateway.hits = [hit(1, 0.5)]
    assert sentinel(gateway, "search", "x", "--html", old).exit_code == 0
    assert old.read_text().startswith("<!doctype html>")
