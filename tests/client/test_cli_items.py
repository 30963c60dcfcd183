from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client.cli import main
from tests.client.fake_gateway import FakeGateway, as_dict, hit


def sentinel(gateway: FakeGateway, *arguments: object, text: str | None = None) -> Result:
    command = ["--address", gateway.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, input=text)


@pytest.fixture
def stored(gateway: FakeGateway) -> FakeGateway:
    gateway.add_collection("photos", path=collection_pb.FieldSchema.TYPE_STRING)
    for number in range(3):
        item_id = f"{number}" * 64
        path = filter_pb2.FieldValue(string_value=f"/p/{number}.jpg")
        gateway.items[item_id] = item_pb.Item(id=item_id, fields={"path": path})
        gateway.images[item_id] = b"jpeg"
    return gateway


def test_items_are_listed_as_table_and_as_json(stored: FakeGateway) -> None:
    table = sentinel(stored, "items", "list")
    assert "000000000000" in table.stdout
    assert "/p/2.jpg" in table.stdout
    lines = sentinel(stored, "items", "list", "--json", "-n", 2).stdout.splitlines()
    assert [json.loads(line)["fields"]["path"] for line in lines] == ["/p/0.jpg", "/p/1.jpg"]
    sentinel(stored, "items", "list", "--where", "path^=/p")
    assert stored.calls["ListItems"][-1].filter.comparison.field == "path"
    stored.items.clear()
    assert sentinel(stored, "items", "list").stdout == "No items.\n"


def test_short_ids_of_the_list_are_taken(stored: FakeGateway) -> None:
    sentinel(stored, "items", "list")
    got = sentinel(stored, "items", "get", "1" * 12, "nobody", "--json")
    assert got.exit_code == 1
    assert json.loads(got.stdout)["id"] == "1" * 64
    assert json.loads(got.stderr)["error"]["subject"] == "nobody"
    assert "nobody: no such item in photos" in sentinel(stored, "items", "get", "nobody").stderr


def test_deleting_asks_and_says_how_many(stored: FakeGateway) -> None:
    first, second = "0" * 64, "1" * 64
    assert "Would delete 1 items" in sentinel(stored, "items", "delete", first, "--dry-run").stdout
    assert sentinel(stored, "items", "delete", first, text="n\n").exit_code == 1
    assert len(stored.items) == 3
    assert "Deleted 2 items" in sentinel(stored, "items", "delete", first, second, "--yes").stdout
    assert len(stored.items) == 1
    assert sentinel(stored, "items", "delete").exit_code == 2


def test_deleting_by_filter_confirms_what_it_has_shown(stored: FakeGateway) -> None:
    command = ["items", "delete", "--where", "path^=/p"]
    assert "Would delete 3 items" in sentinel(stored, *command, "--dry-run").stdout
    refused = sentinel(stored, *command, text="n\n")
    assert (refused.exit_code, "Delete 3 items of photos?" in refused.output) == (1, True)
    assert all(call.dry_run for call in stored.calls["DeleteItems"])
    assert "Deleted 3 items" in sentinel(stored, *command, text="y\n").output
    assert stored.calls["DeleteItems"][-1].confirmation_token == "3 of photos"
    # The question is not part of the answer.
    shown = sentinel(stored, *command, "--json", text="y\n").stdout
    assert json.loads(shown) == {"collection": "photos", "deleted": 0}


def test_a_picture_is_written_where_it_is_wanted(stored: FakeGateway, tmp_path: Path) -> None:
    item_id = "0" * 64
    result = sentinel(stored, "items", "download", item_id, "-o", tmp_path)
    assert (tmp_path / f"{item_id}.jpg").read_bytes() == b"jpeg", result.output
    assert sentinel(stored, "items", "download", item_id, "-o", "-").stdout_bytes == b"jpeg"
    stored.images["../x"] = b"evil"
    sentinel(stored, "items", "download", "../x", "-o", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{item_id}.jpg", "_x.jpg"]
    missing = sentinel(stored, "items", "download", "none", "-o", tmp_path)
    assert (missing.exit_code, "IMAGE_NOT_FOUND" in missing.stderr) == (2, True)


def test_a_collection_is_made_as_asked_for(gateway: FakeGateway) -> None:
    result = sentinel(
        gateway,
        *(
            "collections",
            "create",
            "c",
            "--field",
            "year:int64:indexed",
            "--field",
            "tags:string_list",
        ),
        *("--full-text", "caption", "--index", "hnsw", "--index-param", "M=16", "--expect", 1000),
        *("--consistency", "strong", "--model", "clip"),
        *("--dimensions", 2, "--storage", "int8", "--rescore"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(" dimensions, stored as int8 and rescored.\n")
    assert as_dict(gateway.calls["CreateCollection"][0].collection) == {
        "name": "c",
        "dimensions": 2,
        "storage": {"element_type": "ELEMENT_TYPE_INT8", "rescore": True},
        "model_version": {"model": "fake-clip", "revision": "7", "fingerprint": "f00d"},
        "fields": [
            {"name": "year", "type": "TYPE_INT64", "indexed": True},
            {"name": "tags", "type": "TYPE_STRING_LIST"},
            {"name": "caption", "type": "TYPE_STRING", "full_text": True},
        ],
        "default_consistency": "CONSISTENCY_STRONG",
        "index": {"type": "TYPE_HNSW", "params": {"M": "16"}},
        "expected_item_count": "1000",
    }
    assert sentinel(gateway, "collections", "create", "d", "--field", "x:date").exit_code == 2
    alone = sentinel(gateway, "collections", "create", "d", "--rescore")
    assert (alone.exit_code, "--storage int8" in alone.stderr) == (2, True)


def test_aliases_are_set_removed_and_listed(gateway: FakeGateway) -> None:
    gateway.add_collection("photos_v2")
    assert sentinel(gateway, "collections", "alias", "photos", "photos_v2").exit_code == 0
    assert gateway.aliases == {"photos": "photos_v2"}
    gateway.collections["photos_v2"].aliases.append("photos")
    assert "photos_v2" in sentinel(gateway, "collections").stdout
    assert json.loads(sentinel(gateway, "collections", "--json").stdout)["aliases"] == ["photos"]
    sentinel(gateway, "collections", "unalias", "photos")
    assert not gateway.aliases


def test_reindexing_goes_on_after_a_lost_gateway_and_names_failures(gateway: FakeGateway) -> None:
    report = collection_pb.ReindexCollectionResponse
    gateway.reindex_reports = [
        report(done_count=1, total_count=3),
        report(done_count=2, total_count=3),
        report(
            done_count=2,
            total_count=3,
            failed_count=1,
            failures=[collection_pb.ReindexFailure(id="7", message="cut off")],
            alias_swapped=True,
            done=True,
        ),
    ]
    gateway.break_stream_after = 1
    result = sentinel(gateway, "collections", "reindex", "old", "new", "--alias", "photos")
    assert result.exit_code == 1
    assert result.stdout == "new: 2 items, 1 failed; photos now points to it.\n"
    assert "7: cut off" in result.stderr
    first, again = gateway.calls["ReindexCollection"]
    assert first == again


def test_reindexing_that_stops_early_is_an_error(gateway: FakeGateway) -> None:
    gateway.reindex_reports = [collection_pb.ReindexCollectionResponse(total_count=3)]
    result = sentinel(gateway, "collections", "reindex", "old", "new")
    assert result.exit_code == 2
    assert "RESULT_TRUNCATED" in result.stderr


def test_a_search_is_mixed_and_carries_its_options(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.hits = [hit(1, 0.3)]
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    result = sentinel(
        gateway,
        *("search", "--image", tmp_path / "a.jpg", "--crop", "0,0,0.5,1"),
        *("--plus", "0.5*at night", "--minus", "people", "--minus", f"2*@{tmp_path / 'a.jpg'}"),
        *("--plus", "id:77", "--collapse", 0.95, "--diversity", 0.7),
        *("--group-by", "year", "--group-size", 2),
        *("--consistency", "strong", "--index-param", "ef=64"),
    )
    assert result.exit_code == 0, result.output
    params = gateway.calls["Search"][0].params
    terms = params.query.composite.terms
    assert [term.weight for term in terms] == [1, 0.5, 1, -1, -2]
    assert terms[0].content.image.crop.right == 0.5
    assert terms[1].content.text == "at night"
    assert terms[2].item_id == "77"
    assert terms[4].content.image.data == b"jpeg"
    assert as_dict(params.diversity) == {"duplicate_threshold": 0.95, "mmr_lambda": 0.7}
    assert as_dict(params.group) == {"field": "year", "size": 2}
    assert as_dict(params)["index_params"] == {"ef": "64"}
    assert "like a.jpg + 0.5*at night + id:77 - people" in result.stdout


def test_a_hybrid_search_and_an_image_of_the_web(gateway: FakeGateway) -> None:
    sentinel(gateway, "search", "dog", "--hybrid", "--keywords", "labrador", "--text-weight", 0.5)
    params = gateway.calls["Search"][0].params
    assert as_dict(params.hybrid) == {"text": "labrador", "text_weight": 0.5}
    sentinel(gateway, "search", "--image", "https://example.org/x.jpg")
    assert gateway.calls["Search"][1].params.query.content.image.uri == "https://example.org/x.jpg"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dog", "--crop", "0,0,1,1"],
        ["--image", "/no/such.jpg"],
        ["--image", "https://example.org/x.jpg", "--crop", "1,0,0,1"],
        ["dog", "--keywords", "x"],
        ["dog", "--hybrid", "--collapse", "0.9"],
        ["dog", "--plus", "0*x"],
        ["dog", "--plus", "@/no/such.jpg"],
        ["dog", "--index-param", "ef"],
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    gateway: FakeGateway, arguments: list[str]
) -> None:
    result = sentinel(gateway, "search", *arguments)
    assert result.exit_code == 2
    assert not gateway.calls["Search"]
