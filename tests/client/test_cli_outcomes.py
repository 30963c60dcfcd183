"""Every command says its result as JSON, and every one that shows progress can be quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client.cli import main
from tests.client import datasets
from tests.client.fake_gateway import FakeGateway

# Commands without --json, and why.
WITHOUT_JSON = {
    "bulk-index": "becomes another program; see tests/bulk_indexer/test_command.py",
    "completion": "prints a program for the shell",
    "embed": "prints JSON lines anyway, or writes a file",
    "open": "opens windows; --print-path is for programs",
    "up": "runs until Ctrl-C; `sentinel status --json` says what runs",
}
# Commands without --quiet: what they print is all that they are for.
ONLY_PRINT = {
    *("collections list", "collections show", "items get", "items list", "keys create"),
    *("keys list", "models", "models show", "rank", "status", "whoami"),
}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Yield each command that does something, with its options."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from leaves(one, (*path, name))
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(path), {option for one in command.params for option in one.opts}


def sentinel(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def only_json(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_every_command_takes_json_or_is_listed_with_the_reason() -> None:
    options = dict(leaves(main))
    assert {name for name, its in options.items() if "--json" not in its} == set(WITHOUT_JSON)
    loud = {name for name, its in options.items() if "--quiet" not in its}
    assert loud == ONLY_PRINT | set(WITHOUT_JSON)
    assert all("-q" in its for its in options.values() if "--quiet" in its)


def test_a_key_is_made_and_revoked_in_json(tmp_path: Path) -> None:
    file = ("--file", tmp_path / "keys.json")
    made = only_json(
        sentinel("keys", "create", *file, "--grant", "reader", "--name", "a", "--json")
    )
    assert str(made["key"]).startswith(f"sen_{made['id']}_")
    assert (made["name"], made["grants"], made["expires"]) == ("a", ["reader"], None)
    assert "hash" not in made
    (listed,) = sentinel("keys", "list", *file, "--json").stdout.splitlines()
    assert {**json.loads(listed), "key": made["key"]} == made
    revoked = sentinel("keys", "revoke", made["id"], *file, "--json")
    assert only_json(revoked) == {"revoked": made["id"]}
    plain = sentinel("keys", "create", *file, "--grant", "reader").stdout.strip()
    assert plain.startswith("sen_")
    assert sentinel("keys", "revoke", plain.split("_")[1], *file, "-q").output == ""
    assert "has no key nobody" in sentinel("keys", "revoke", "nobody", *file, "--json").stderr


def test_certificates_are_named_in_json(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    files = only_json(sentinel("certs", tmp_path, "--json"))
    assert set(files) == {"ca", "server", "server_key", "client", "client_key"}
    assert all(Path(str(path)).is_file() for path in files.values())
    assert sentinel("certs", tmp_path, "--quiet").output == ""


def test_an_import_says_its_result_in_json_or_not_at_all(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    root = datasets.flickr8k(tmp_path)
    command = ("--address", gateway.address, "import", "flickr8k", root)
    done = sentinel(*command, "--json")
    facts = json.loads(done.stdout)
    assert (done.exit_code, facts["collection"], facts["stored"]) == (1, "flickr8k", 3)
    quiet = sentinel(*command, "--quiet")
    assert quiet.stdout == ""
    assert "FILE_MISSING" in quiet.stderr  # failures are no progress
    assert "Left out" not in quiet.stderr


def test_quiet_hides_the_bar_of_a_terminal_and_the_summary(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    monkeypatch.setenv("FORCE_COLOR", "1")
    command = ("--address", gateway.address, "index", "--copy", tmp_path)
    assert "indexing" in sentinel(*command).stderr
    assert sentinel(*command, "--quiet", "--refresh").output == ""
    assert sentinel("--address", gateway.address, "backup", tmp_path / "b.zip", "-q").output == ""


def test_what_was_downloaded_is_said_in_json(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.add_collection("photos")
    gateway.items["7"] = item_pb.Item(id="7", image_uri="file:///elsewhere/object")
    gateway.images["7"] = b"stored"
    command = ("--address", gateway.address, "items", "download", "7")
    facts = only_json(sentinel(*command, "-o", tmp_path / "x.jpg", "--json"))
    assert facts == {"id": "7", "file": str(tmp_path / "x.jpg"), "bytes": 6}
    assert sentinel(*command, "-o", tmp_path / "x.jpg", "--quiet").output == ""
    refused = sentinel(*command, "-o", "-", "--json")
    assert refused.exit_code == 2
    assert "--json" in json.loads(refused.stderr)["error"]["message"]


def test_what_is_missing_on_the_command_line_is_named_in_json() -> None:
    failed = sentinel("import", "csv", "--json")
    assert failed.exit_code == 2
    assert json.loads(failed.stderr)["error"]["message"] == "Missing argument 'FILE'."
