from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel_client import ImageUri
from sentinel_client.cli import _importer, _journal, main
from sentinel_client.cli._journal import Journal, Reading, read_item
from sentinel_client.cli._references import References
from sentinel_client.importers import ImportItem
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway


def index(gateway: FakeGateway, *arguments: object, how: tuple[str, ...] = ("--copy",)) -> Result:
    command = ["--address", gateway.address, "index", *how, *map(str, arguments)]
    return CliRunner().invoke(main, command)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sea").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / "a.jpg").write_bytes(b"one")
    (folder / "sea" / "b.PNG").write_bytes(b"two")
    (folder / ".cache" / "c.jpg").write_bytes(b"three")
    (folder / "._a.jpg").write_bytes(b"four")
    (folder / "notes.txt").write_bytes(b"five")
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def sent(gateway: FakeGateway) -> int:
    return sum(len(batch.items) for batch in gateway.calls["IngestBatch"])


def test_it_makes_the_collection_and_stores_every_picture(
    gateway: FakeGateway, pictures: Path
) -> None:
    result = index(gateway, pictures)
    assert result.exit_code == 0, result.output
    assert "2 stored, 0 unchanged, 0 failed" in result.stdout
    assert set(gateway.items) == {hashlib.sha256(data).hexdigest() for data in (b"one", b"two")}
    fields = gateway.items[hashlib.sha256(b"two").hexdigest()].fields
    assert fields["path"].string_value == str(pictures / "sea" / "b.PNG")
    assert fields["file_name"].string_value == "b.PNG"
    assert fields["folder"].string_value == str(pictures / "sea")
    assert fields["size_bytes"].int_value == 3
    assert fields["modified_at"].int_value == 1_700_000_000
    declared = {field.name for field in gateway.collections["photos"].fields}
    assert declared >= {"path", "modified_at", "taken_at", "place", "keywords", "rating"}


def test_a_second_run_sends_and_even_reads_nothing(
    gateway: FakeGateway, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "_SETTLED_S", -60.0)  # as if the files were not new
    index(gateway, pictures)
    monkeypatch.setattr(_importer, "read_item", lambda item: pytest.fail(f"{item.key} was read"))
    result = index(gateway, pictures)
    assert "0 stored, 2 unchanged, 0 failed" in result.stdout
    assert sent(gateway) == 2


def test_without_a_journal_it_still_sends_nothing_again(
    gateway: FakeGateway, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(gateway, pictures)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    assert "2 unchanged" in index(gateway, pictures).stdout
    assert sent(gateway) == 2


def test_refresh_sends_again(gateway: FakeGateway, pictures: Path) -> None:
    index(gateway, pictures)
    assert "2 unchanged" in index(gateway, pictures, "--refresh").stdout
    assert sent(gateway) == 4


def test_a_changed_file_is_a_new_item(gateway: FakeGateway, pictures: Path) -> None:
    index(gateway, pictures)
    (pictures / "a.jpg").write_bytes(b"other")
    assert "1 stored, 1 unchanged" in index(gateway, pictures).stdout


def test_a_moved_file_is_sent_again_for_its_new_path(gateway: FakeGateway, pictures: Path) -> None:
    index(gateway, pictures)
    (pictures / "a.jpg").rename(pictures / "moved.jpg")
    assert "0 stored, 1 unchanged, 1 moved, 0 failed" in index(gateway, pictures).stdout
    item = gateway.items[hashlib.sha256(b"one").hexdigest()]
    assert item.fields["path"].string_value == str(pictures / "moved.jpg")
    (pictures / "sea").rename(pictures / "ocean")
    facts = json.loads(index(gateway, pictures, "--json").stdout)
    assert (facts["stored"], facts["moved"], facts["unchanged"]) == (0, 1, 1)


def test_a_moved_file_that_was_edited_or_cannot_be_stored_has_not_moved(
    gateway: FakeGateway, pictures: Path
) -> None:
    index(gateway, pictures)
    (pictures / "a.jpg").unlink()
    (pictures / "edited.jpg").write_bytes(b"other")
    assert "1 stored, 1 unchanged, 0 failed" in index(gateway, pictures).stdout
    (pictures / "sea").rename(pictures / "ocean")
    gateway.failures["item"].append(core.InvalidArgument("FIELD_INVALID", "a path of that kind"))
    assert "0 stored, 1 unchanged, 1 failed" in index(gateway, pictures).stdout


def test_equal_files_are_one_item(gateway: FakeGateway, pictures: Path) -> None:
    (pictures / "copy.jpg").write_bytes(b"one")
    result = index(gateway, pictures)
    assert "2 stored, 0 unchanged, 1 duplicate" in result.stdout
    assert "0 stored, 2 unchanged, 1 duplicate" in index(gateway, pictures).stdout
    assert sent(gateway) == 2


def test_bad_and_unreadable_files_are_named_and_the_rest_goes_on(
    gateway: FakeGateway, pictures: Path
) -> None:
    (pictures / "bad.jpg").write_bytes(b"BAD")
    (pictures / "bad copy.jpg").write_bytes(b"BAD")
    (pictures / "gone.jpg").symlink_to(pictures / "nowhere.jpg")
    result = index(gateway, pictures)
    assert result.exit_code == 1
    assert "2 stored, 0 unchanged, 3 failed" in result.stdout
    assert "bad.jpg: truncated or damaged image [IMAGE_DECODE_FAILED]" in result.stderr
    assert "bad copy.jpg: truncated" in result.stderr
    assert "gone.jpg: cannot be read: No such file" in result.stderr


def test_a_file_that_vanishes_between_hashing_and_sending_fails_alone(
    gateway: FakeGateway, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_delete(item: ImportItem) -> Reading:
        reading = read_item(item)
        if item.key.endswith("a.jpg"):
            Path(item.key).unlink()
        return reading

    monkeypatch.setattr(_importer, "read_item", read_and_delete)
    result = index(gateway, pictures)
    assert "1 stored, 0 unchanged, 1 failed" in result.stdout
    assert "FILE_UNREADABLE" in result.stderr


def test_items_that_fail_for_a_passing_reason_are_sent_again(
    gateway: FakeGateway, pictures: Path
) -> None:
    gateway.failures["item"].append(core.Unavailable("WORKER_LOST", "lost"))
    assert "2 stored, 0 unchanged, 0 failed" in index(gateway, pictures).stdout


def test_a_restarting_gateway_does_not_end_it(gateway: FakeGateway, pictures: Path) -> None:
    gateway.failures["IngestItems"].extend([core.Unavailable("DRAINING", "bye")] * 2)
    assert index(gateway, pictures).exit_code == 0


def test_a_failing_store_ends_it_with_one_line(gateway: FakeGateway, pictures: Path) -> None:
    gateway.failures["IngestItems"].append(core.FailedPrecondition("MODEL_MISMATCH", "other model"))
    result = index(gateway, pictures)
    assert result.exit_code == 2
    assert "other model [MODEL_MISMATCH]" in result.stderr
    assert "Traceback" not in result.output


def test_batches_are_bounded_in_count_and_bytes(gateway: FakeGateway, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.jpg").write_bytes(f"{number}".encode())
    for number in range(3):
        (tmp_path / f"large{number}.jpg").write_bytes(bytes([number]) * 6_000_000)
    assert "103 stored" in index(gateway, tmp_path).stdout
    batches = gateway.calls["IngestBatch"]
    assert max(len(batch.items) for batch in batches[1:]) <= 32
    assert max(batch.ByteSize() for batch in batches) < 16 << 20


def test_undeclared_fields_are_left_out(gateway: FakeGateway, pictures: Path) -> None:
    gateway.add_collection("mine", file_name=1)
    assert index(gateway, pictures, "-c", "mine").exit_code == 0
    assert {name for item in gateway.items.values() for name in item.fields} == {"file_name"}
    assert "2 unchanged" in index(gateway, pictures, "-c", "mine").stdout


def test_link_loops_end_and_linked_folders_count_once(gateway: FakeGateway, pictures: Path) -> None:
    (pictures / "sea" / "loop").symlink_to(pictures)
    (pictures / "again").symlink_to(pictures / "sea")
    assert "2 stored, 0 unchanged, 0 failed" in index(gateway, pictures, pictures / "sea").stdout


def test_what_is_no_plain_file_is_named_and_costs_nobody_else_anything(
    gateway: FakeGateway, pictures: Path
) -> None:
    os.mkfifo(pictures / "pipe.jpg")  # opening it would wait for ever
    (pictures / "loop").symlink_to("loop")
    result = index(gateway, pictures)
    assert result.exit_code == 1
    assert "2 stored, 0 unchanged, 1 failed" in result.stdout
    assert "pipe.jpg: cannot be read: not a regular file" in result.stderr


def test_an_empty_folder_is_no_error(gateway: FakeGateway, tmp_path: Path) -> None:
    result = index(gateway, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "No pictures found.\n")


def test_a_folder_that_is_not_there_is_a_usage_error(gateway: FakeGateway) -> None:
    assert index(gateway, "/no/such/folder").exit_code == 2


def test_a_name_that_is_not_unicode_is_stored(gateway: FakeGateway, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"one")
    assert "1 stored" in index(gateway, tmp_path).stdout
    assert "1 unchanged" in index(gateway, tmp_path).stdout


def test_the_journal_forgets_a_file_that_changed_and_skips_one_just_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    old = ImportItem(key="/a.jpg", stamp="3:1", changed_ns=1)
    fresh = ImportItem(key="/b.jpg", stamp="3:2", changed_ns=1 << 62)
    changed = ImportItem(key="/a.jpg", stamp="4:1", changed_ns=1)
    journal.remember([(old, Reading("aa", {"camera": "C"})), (fresh, Reading("bb", {}))])
    assert journal.known([old, changed, fresh]) == [("aa", {"camera": "C"}), None, None]
    journal.close()


def tried(gateway: FakeGateway) -> int:
    """Return how many items came by reference."""
    return sum(one.by_reference for batch in gateway.calls["IngestBatch"] for one in batch.items)


def test_what_the_gateway_may_not_read_is_copied_and_the_rest_is_not_tried(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_bytes(f"{number}".encode())
    result = index(gateway, tmp_path, how=())
    assert (result.exit_code, "300 stored" in result.stdout) == (0, True)
    assert 0 < tried(gateway) < 200  # those that were on their way
    assert "Stored 300 pictures as copies" in " ".join(result.stderr.split())
    assert all(gateway.images.values())
    assert "300 unchanged" in index(gateway, tmp_path, how=()).stdout


def test_files_that_the_gateway_does_not_find_are_copied(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    """Those of the client, where the gateway runs in a container with its own files."""
    gateway.reference_error = core.NotFound("ORIGINAL_GONE", "there is no such file")
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_bytes(f"{number}".encode())
    result = index(gateway, tmp_path, how=())
    assert (result.exit_code, "300 stored" in result.stdout) == (0, True)
    assert 16 <= tried(gateway) < 200
    assert all(gateway.images.values())


def test_who_asks_for_references_gets_no_copies(gateway: FakeGateway, pictures: Path) -> None:
    result = index(gateway, pictures, how=("--by-reference",))
    assert (result.exit_code, "2 failed" in result.stdout) == (1, True)
    assert "send the bytes" in result.stderr
    assert not gateway.items


def test_nothing_is_tried_for_a_gateway_elsewhere() -> None:
    for address in ("gateway.example:50050", "10.0.0.7:50050", "dns://10.0.0.7/localhost:50050"):
        assert not References(None, address).covers(Path("a.jpg"))
        assert References(True, address).covers(Path("a.jpg"))
    for address in ("localhost:50050", "127.0.0.1:50050", "[::1]:50050", "unix:/run/gateway"):
        assert References(None, address).covers(Path("a.jpg"))
        assert not References(None, address).covers(ImageUri("https://a/b.jpg"))


def test_on_a_terminal_it_shows_that_it_is_indexing(gateway: FakeGateway, pictures: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "sentinel_client.cli"]
    command += ["--address", gateway.address, "index"]
    done = subprocess.run(
        [*command, pictures],
        env={**os.environ, "FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "indexing" in done.stderr
    assert "importing" not in done.stderr
    assert "2 stored" in done.stdout
