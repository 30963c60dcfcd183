from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel_client.cli import main
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway, as_dict, hit

TYPES = collection_pb.FieldSchema.Type


@pytest.fixture
def gateway_with_hits(gateway: FakeGateway) -> FakeGateway:
    gateway.hits = [
        hit(1, 0.34, "/pics/sea/<b>dog.jpg", thumbnail=b"webp", image_uri="file:///o/1"),
        hit(2, 0.2, text="words & <i>more</i>"),
    ]
    return gateway


def sentinel(gateway: FakeGateway, *arguments: object, text: str | None = None) -> Result:
    command = ["--address", gateway.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, input=text)


def test_the_table_shows_rank_score_file_and_short_id(gateway_with_hits: FakeGateway) -> None:
    result = sentinel(gateway_with_hits, "search", "a", "dog")
    assert result.exit_code == 0, result.output
    first = gateway_with_hits.hits[0].id
    assert re.search(rf"1 +0\.340 .*<b>dog\.jpg +/pics/sea +{first[:12]}\b", result.stdout)
    assert "18 ms total · embed 12 ms (queue 1.0 ms, inference 9.0 ms) · Milvus" in result.stdout
    assert gateway_with_hits.calls["Search"][0].params.query.content.text == "a dog"


def test_a_long_folder_takes_no_room_from_the_scores(
    gateway_with_hits: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gateway_with_hits.hits = [hit(1, 0.34, f"/{'a-long-folder/' * 9}dog.jpg")]
    result = sentinel(gateway_with_hits, "search", "dog")
    [row] = [line for line in result.stdout.splitlines() if "0.340" in line]
    assert re.match(r" ?1 +0\.340 +dog\.jpg", row), row
    assert len(row) <= 80


def test_json_is_one_object_per_hit(gateway_with_hits: FakeGateway) -> None:
    result = sentinel(gateway_with_hits, "search", "dog", "--json", "--limit", 2)
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["query"] == "dog"
    assert first["rank"] == 1
    assert first["score"] == pytest.approx(0.34)
    assert first["path"] == "/pics/sea/<b>dog.jpg" == first["fields"]["path"]
    assert first["image_uri"] == "file:///o/1"
    assert (second["path"], second["text"]) == (None, "words & <i>more</i>")


def test_the_contact_sheet_is_self_contained_and_escaped(
    gateway_with_hits: FakeGateway, tmp_path: Path
) -> None:
    sheet = tmp_path / "out.html"
    result = sentinel(gateway_with_hits, "search", "<script>x", "--html", sheet)
    assert result.exit_code == 0, result.output
    page = sheet.read_text()
    assert "data:image/webp;base64,d2VicA==" in page
    assert "&lt;script&gt;x" in page
    assert "&lt;b&gt;dog.jpg" in page
    assert "words &amp; &lt;i&gt;more" in page
    assert not re.search(r"<script|<b>dog|<i>more", page)
    assert not re.search(r'(src|href)="(?!data:|#|file:)', page)
    assert gateway_with_hits.calls["Search"][0].params.include_thumbnails


def test_queries_from_a_file_keep_their_order_and_one_bad_one_is_named(
    gateway_with_hits: FakeGateway, tmp_path: Path
) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("first\n\n  second  \nthird\n")
    gateway_with_hits.failures["Search"].append(
        core.InvalidArgument("TEXT_TOO_LONG", "the text is too long")
    )
    result = sentinel(gateway_with_hits, "search", "-f", queries, "--json")
    assert result.exit_code == 1
    asked = list(dict.fromkeys(json.loads(line)["query"] for line in result.stdout.splitlines()))
    assert len(asked) == 2
    assert asked == sorted(asked, key=["first", "second", "third"].index)
    error = json.loads(result.stderr)["error"]
    assert error["subject"] not in asked
    assert (error["reason"], error["message"]) == ("TEXT_TOO_LONG", "the text is too long")


def test_many_queries_make_one_sheet(gateway_with_hits: FakeGateway, tmp_path: Path) -> None:
    picture = tmp_path / "me.jpg"
    picture.write_bytes(b"jpeg")
    sheet = tmp_path / "out.html"
    result = sentinel(
        gateway_with_hits,
        *("search", "-f", "-", "--image", picture, "--like", "abc", "--html", sheet),
        text="a dog\n",
    )
    assert result.exit_code == 0, result.output
    page = sheet.read_text()
    assert page.count("<section") == 2
    for heading in ("<h2>like me.jpg + like item abc</h2>", "<h2>a dog</h2>"):
        assert heading in page


def test_a_short_id_of_the_table_works_for_like(gateway_with_hits: FakeGateway) -> None:
    sentinel(gateway_with_hits, "search", "dog")
    full = gateway_with_hits.hits[0].id
    sentinel(gateway_with_hits, "search", "--like", full[:12])
    assert gateway_with_hits.calls["Search"][1].params.query.item_id == full


@pytest.mark.parametrize(
    ("condition", "operator", "value"),
    [
        ("name=a=b", "EQUAL", {"string_value": "a=b"}),
        ("name ^= IMG", "PREFIX", {"string_value": "IMG"}),
        ("year>=2020", "GREATER_OR_EQUAL", {"int_value": "2020"}),
        ("year < 1970-01-02T00:00:00+00:00", "LESS", {"int_value": "86400"}),
        ("ratio!=0.5", "NOT_EQUAL", {"double_value": 0.5}),
        ("raw=yes", "EQUAL", {"bool_value": True}),
        ("tags=sea", "CONTAINS", {"string_value": "sea"}),
    ],
)
def test_where_reads_values_as_the_declared_type(
    gateway: FakeGateway, condition: str, operator: str, value: object
) -> None:
    add_typed_collection(gateway)
    result = sentinel(gateway, "search", "x", "--where", condition)
    assert result.exit_code == 0, result.output
    comparison = as_dict(gateway.calls["Search"][0].params.filter)["comparison"]
    assert comparison["operator"] == f"OPERATOR_{operator}"
    assert comparison["values"] == [value]


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("year", "FIELD OP VALUE"),
        ("colour=red", "has no field 'colour'; it has name, year"),
        ("year=soon", "'soon' is not int64"),
        ("raw=maybe", "'maybe' is not bool"),
        ("tags>sea", "list of strings"),
        ("year^=20", "is for strings"),
    ],
)
def test_where_says_what_is_wrong(gateway: FakeGateway, condition: str, complaint: str) -> None:
    add_typed_collection(gateway)
    result = sentinel(gateway, "search", "x", "--where", condition)
    assert result.exit_code == 2
    assert complaint in result.stderr


def add_typed_collection(gateway: FakeGateway) -> None:
    gateway.add_collection(
        "photos",
        name=TYPES.TYPE_STRING,
        year=TYPES.TYPE_INT64,
        ratio=TYPES.TYPE_DOUBLE,
        raw=TYPES.TYPE_BOOL,
        tags=TYPES.TYPE_STRING_LIST,
    )


def test_searching_for_nothing_is_a_usage_error(gateway: FakeGateway) -> None:
    result = sentinel(gateway, "search")
    assert result.exit_code == 2
    assert "say what to look for" in result.stderr


def test_an_error_is_one_line_with_reason_and_advice(gateway: FakeGateway) -> None:
    gateway.failures["Search"].append(
        core.NotFound("COLLECTION_NOT_FOUND", "no collection 'photos'")
    )
    result = sentinel(gateway, "search", "x")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "no collection 'photos' [COLLECTION_NOT_FOUND]" in result.stderr
    assert "sentinel index" in result.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [(["search", "x"], 2), (["collections"], 2), (["health"], 1), (["index", "."], 2)],
)
def test_a_gateway_that_is_down_points_to_sentinel_up(command: list[str], code: int) -> None:
    result = CliRunner().invoke(main, ["--address", "127.0.0.1:1", *command])
    assert result.exit_code == code
    assert "127.0.0.1:1" in result.stderr
    assert "`sentinel up`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_health_is_zero_only_when_everything_serves(gateway: FakeGateway) -> None:
    assert sentinel(gateway, "health").exit_code == 0
    gateway.set_serving(False, "sentinel.search.v1.SearchService")
    result = sentinel(gateway, "health")
    assert result.exit_code == 1
    assert re.search(r"SearchService +✗ not serving", result.stdout)
    assert sentinel(gateway, "health", "-q").stdout == ""


def test_health_of_one_name_only(gateway: FakeGateway) -> None:
    gateway.set_serving(False, "sentinel.search.v1.SearchService")
    assert sentinel(gateway, "health", "-q", "--service", "").exit_code == 0
    assert sentinel(gateway, "health", "--service", "sentinel.search.v1.SearchService").exit_code
    unknown = sentinel(gateway, "health", "--service", "no.such.Service")
    assert unknown.exit_code == 1
    assert "service unknown" in unknown.stdout
    assert "has no service no.such.Service: check --service" in unknown.stdout


def test_collections_are_listed_as_table_and_as_json(gateway: FakeGateway) -> None:
    assert "No collections yet" in sentinel(gateway, "collections").stdout
    gateway.add_collection("photos", path=TYPES.TYPE_STRING)
    assert re.search(r"photos +0 +fake-clip +4 +path", sentinel(gateway, "collections").stdout)
    listed = json.loads(sentinel(gateway, "collections", "--json").stdout)
    assert (listed["name"], listed["fields"]) == ("photos", {"path": "string"})


def test_deleting_a_collection_asks_first(gateway: FakeGateway) -> None:
    gateway.add_collection("photos")
    refused = sentinel(gateway, "collections", "delete", "photos", text="n\n")
    assert (refused.exit_code, list(gateway.collections)) == (1, ["photos"])
    assert "with its 0 items?" in refused.output
    assert not gateway.calls["DeleteCollection"]
    asked = sentinel(gateway, "collections", "delete", "photos", "--json", text="y\n")
    assert json.loads(asked.stdout) == {"collection": "photos", "deleted": 0}
    assert not gateway.collections
    gateway.add_collection("photos")
    assert sentinel(gateway, "collections", "delete", "photos", "--yes").exit_code == 0
    assert not gateway.collections
    assert gateway.calls["DeleteCollection"][0].confirmation_token == "all of photos"


def test_version() -> None:
    assert re.fullmatch(
        r"sentinel, version \d+\.\d+.*\n", CliRunner().invoke(main, ["--version"]).stdout
    )


def test_examples_in_the_help_keep_their_lines() -> None:
    for command in ([], ["search"]):
        shown = CliRunner().invoke(main, [*command, "--help"]).output
        assert "\\b" not in shown
        assert any(line.startswith("  sentinel search ") for line in shown.splitlines())
