"""The forms in which commands give results: paths, JSON, quiet, and tables of any width."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client.cli import main
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway, hit

TYPES = collection_pb.FieldSchema.Type


def sentinel(gateway: FakeGateway, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--address", gateway.address, *map(str, arguments)])


@pytest.fixture
def found(gateway: FakeGateway) -> FakeGateway:
    """Three hits: of a file, of a text, and of a stored image without a path."""
    gateway.add_collection("photos", path=TYPES.TYPE_STRING)
    gateway.hits = [
        hit(1, 0.34, "/pics/a b\n.jpg"),
        hit(2, 0.2, text="words"),
        hit(3, 0.1, image_uri="file:///objects/ab%20c"),
    ]
    for number in range(2):
        item = item_pb.Item(id=f"{number}" * 64)
        item.fields["path"].string_value = f"/p/{number}.jpg"
        gateway.items[item.id] = item
    return gateway


def test_paths_go_to_other_programs(found: FakeGateway) -> None:
    result = sentinel(found, "search", "x", "--paths")
    assert result.stdout == "/pics/a b\n.jpg\n/objects/ab c\n"
    assert result.stderr == "1 result has no file\n"
    assert sentinel(found, "search", "x", "-0").stdout == "/pics/a b\n.jpg\0/objects/ab c\0"
    assert sentinel(found, "items", "list", "--paths").stdout == "/p/0.jpg\n/p/1.jpg\n"
    assert sentinel(found, "items", "get", "1" * 64, "-0").stdout == "/p/1.jpg\0"
    assert sentinel(found, "search", "x", "--paths", "--json").exit_code == 2


def test_xargs_takes_every_name(found: FakeGateway, tmp_path: Path) -> None:
    odd = tmp_path / "Zürich 'x' \n.jpg"
    odd.write_bytes(b"jpeg")
    found.hits = [hit(1, 0.3, str(odd))]
    command = f"{sys.executable} -m sentinel_client.cli --address {found.address} search x -0"
    done = subprocess.run(
        ["bash", "-c", f"{command} | xargs -0 cat"], capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"jpeg", done.stderr


def test_quiet_leaves_only_the_hits(found: FakeGateway) -> None:
    shown = sentinel(found, "search", "x", "-q").stdout
    assert "0.340" in shown
    assert "total" not in shown
    assert not re.search(r"^x$", shown, re.MULTILINE)
    assert sentinel(found, "items", "delete", "0" * 64, "--yes", "-q").output == ""


@pytest.mark.parametrize("width", [30, 40, 56, 72, 100])
def test_rank_and_file_are_there_at_every_width(
    found: FakeGateway, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found.hits = [hit(rank, 0.3, f"/p/holiday-{rank}.jpg") for rank in range(1, 11)]
    lines = sentinel(found, "search", "x").stdout.splitlines()
    rows = [line for line in lines if "0.300" in line]
    assert len(rows) == 10
    for rank, row in enumerate(rows, 1):
        assert len(row) <= width
        assert re.match(rf" *{rank} +0\.300 +([━─]+ +)?holi", row), row
    listed = sentinel(found, "items", "list").stdout
    assert all(len(line) <= width for line in listed.splitlines())
    assert "000000000000"[: width // 3] in listed


def test_words_and_an_image_are_one_search(found: FakeGateway, tmp_path: Path) -> None:
    picture = tmp_path / "x.webp"
    picture.write_bytes(b"webp")
    result = sentinel(found, "search", "a", "cat", "--image", picture, "--json")
    [call] = found.calls["Search"]
    terms = call.params.query.composite.terms
    assert [(term.weight, term.content.text) for term in terms] == [(1, "a cat"), (1, "")]
    assert terms[1].content.image.data == b"webp"
    first = json.loads(result.stdout.splitlines()[0])
    assert (first["query"], first["query_kind"]) == (f"a cat + {picture}", "mixed")
    assert "a cat + like x.webp" in sentinel(found, "search", "a cat", "--image", picture).stdout


def test_errors_are_json_where_results_are(gateway: FakeGateway) -> None:
    gateway.failures["Search"].append(core.NotFound("COLLECTION_NOT_FOUND", "no such collection"))
    failed = sentinel(gateway, "search", "x", "--json")
    assert failed.exit_code == 2
    error = json.loads(failed.stderr)["error"]
    assert (error["code"], error["reason"]) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")
    assert error["message"] == "no such collection"
    assert "sentinel index" in error["hint"]
    wrong = sentinel(gateway, "search", "--json", "--limt", "3")
    assert wrong.exit_code == 2
    assert "--limt" in json.loads(wrong.stderr)["error"]["message"]
    unreachable = CliRunner().invoke(main, ["--address", "127.0.0.1:1", "health", "--json"])
    assert unreachable.exit_code == 1
    assert json.loads(unreachable.stderr)["error"]["reason"] == "UNREACHABLE"


def test_what_was_done_is_said_as_json(gateway: FakeGateway) -> None:
    def done(*arguments: object) -> dict[str, object]:
        result = sentinel(gateway, *arguments, "--json")
        assert result.exit_code == 0, result.output
        answer: dict[str, object] = json.loads(result.stdout)
        return answer

    assert done("collections", "create", "c", "--field", "year:int64")["fields"] == {
        "year": "int64"
    }
    assert done("collections", "alias", "live", "c") == {"alias": "live", "collection": "c"}
    assert done("collections", "delete", "c", "--yes") == {"collection": "c", "deleted": 0}
    assert done("health")["serving"] is True


def test_collections_are_listed_by_name_of_the_command_and_shown_one_by_one(
    gateway: FakeGateway,
) -> None:
    gateway.add_collection("photos", path=TYPES.TYPE_STRING, taken_at=TYPES.TYPE_TIMESTAMP)
    levels = collection_pb.MatchLevels(fair=0.21, strong=0.28)
    gateway.collections["photos"].match_levels.CopyFrom(levels)
    bare, listed = sentinel(gateway, "collections"), sentinel(gateway, "collections", "list")
    assert bare.stdout == listed.stdout
    assert "photos" in listed.stdout
    assert "Commands:" in sentinel(gateway, "collections", "--help").stdout
    shown = sentinel(gateway, "collections", "show", "photos").stdout
    for expected in (r"path +string", r"taken_at +timestamp", r"fair from 0\.210", "fake-clip"):
        assert re.search(expected, shown), shown
    answer = json.loads(sentinel(gateway, "collections", "show", "photos", "--json").stdout)
    assert answer["match_levels"]["strong"] == pytest.approx(0.28)
    assert sentinel(gateway, "collections", "show", "nothing").exit_code == 2


def test_the_help_begins_with_what_a_newcomer_needs() -> None:
    for flag in ("-h", "--help"):
        shown = CliRunner().invoke(main, [flag]).stdout
        places = [shown.index(f"\n  {name} ") for name in ("up", "index", "search", "status")]
        assert places == sorted(places)
        assert places[-1] < shown.index("\n  collections ")
        listed = re.findall(r"^  ([a-z][\w-]*) {2,}\S", shown, re.MULTILINE)
        assert set(main.commands) <= set(listed)
    for name in set(main.commands) - {"bulk-index"}:  # it becomes another program
        assert CliRunner().invoke(main, [name, "-h"]).exit_code == 0, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_names_of_collections(
    gateway: FakeGateway, shell: str
) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert "_SENTINEL_COMPLETE" in script
    gateway.add_collection("photos")
    gateway.add_collection("papers")
    words = f"sentinel --address {gateway.address} search -c ph"
    asked = {
        "_SENTINEL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words if shell != "fish" else words.removesuffix(" ph"),
        "COMP_CWORD": "5" if shell != "fish" else "ph",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from sentinel_client.cli import main; main(prog_name='sentinel')"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "photos" in done.stdout, done.stderr
    assert "papers" not in done.stdout


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened."""
    files: list[str] = []
    monkeypatch.setattr("click.launch", lambda path: files.append(path) or 0)
    return files


def store(gateway: FakeGateway, item_id: str, path: Path | None) -> None:
    item = item_pb.Item(id=item_id, image_uri="file:///elsewhere/object")
    if path is not None:
        item.fields["path"].CopyFrom(filter_pb2.FieldValue(string_value=str(path)))
    gateway.items[item_id] = item
    gateway.images[item_id] = b"stored"


def test_a_hit_is_opened_by_its_rank(
    gateway: FakeGateway, tmp_path: Path, opened: list[str]
) -> None:
    here = tmp_path / "here.jpg"
    here.write_bytes(b"original")
    gateway.hits = [hit(1, 0.5), hit(2, 0.4), hit(3, 0.3)]
    places = [here, None, tmp_path / "gone.jpg"]
    for one, place in zip(gateway.hits, places, strict=True):
        store(gateway, one.id, place)
    assert "no last search" in sentinel(gateway, "open", 1).stderr
    sentinel(gateway, "search", "x", "-c", "mine")
    done = sentinel(gateway, "open", 1, 3)
    assert done.exit_code == 0, done.output
    assert opened[0] == str(here)
    assert gateway.calls["GetItems"][-1].collection == "mine"
    copy = Path(opened[1])
    assert (copy.read_bytes(), copy.suffix) == (b"stored", ".jpg")
    assert "has 3 hits, not 4" in sentinel(gateway, "open", 4).stderr
    printed = sentinel(gateway, "open", gateway.hits[1].id[:12], "--print-path").stdout
    assert Path(printed.strip()).read_bytes() == b"stored"
    assert len(opened) == 2


def test_open_takes_ids_and_starts_no_program(
    gateway: FakeGateway, tmp_path: Path, opened: list[str]
) -> None:
    program = tmp_path / "evil.desktop"
    program.write_text("[Desktop Entry]\nExec=evil\n")
    store(gateway, "42", program)
    assert sentinel(gateway, "open", "id:42").exit_code == 0
    assert Path(opened[0]).read_bytes() == b"stored"
    gateway.items["text"] = item_pb.Item(id="text")
    assert "has no picture" in sentinel(gateway, "open", "text").stderr
    assert "no item 'none'" in sentinel(gateway, "open", "none").stderr


def test_a_pipe_gets_no_empty_line_of_a_progress_bar(found: FakeGateway, tmp_path: Path) -> None:
    result = sentinel(found, "backup", tmp_path / "b.zip")
    assert "" not in result.stderr.splitlines()


def test_a_search_without_hits_has_no_empty_table(found: FakeGateway) -> None:
    found.hits = []
    assert sentinel(found, "search", "x", "--quiet").stdout == "nothing found\n"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lists_are_one_line_an_item_unless_there_is_room_for_fields(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = [f"field_number_{number}" for number in range(9)]
    gateway.add_collection("photos", place=TYPES.TYPE_GEO, **dict.fromkeys(names, TYPES.TYPE_INT64))
    item = item_pb.Item(id="a" * 64)
    item.fields["path"].string_value = "/p/a  b.jpg"
    item.fields["folder"].string_value = "/p"
    item.fields["place"].geo_value.latitude = 52.519999999999996
    item.fields["place"].geo_value.longitude = 13.4
    for name in names:
        item.fields[name].int_value = 7
    gateway.items[item.id] = item
    monkeypatch.setenv("COLUMNS", str(width))
    collections, items = (
        sentinel(gateway, *command).stdout for command in (["collections"], ["items", "list"])
    )
    assert "/p/a  b.jpg" in items  # spaces are part of a name
    assert ("field_number_8" in collections) == (width >= 80)
    assert ("place=52.52000,13.40000" in items) == (width == 200)
    assert "folder=" not in items
    if width == 40:
        assert len(collections.strip().splitlines()) == 3
    if width <= 80:
        assert len(items.strip().splitlines()) == 3
