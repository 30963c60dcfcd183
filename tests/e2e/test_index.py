"""`sentinel index` with a real gateway and model: what happens when folders change between runs."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import time
import unicodedata
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sentinel_client import FieldSchema, FieldType, Item, SentinelClient
from sentinel_client.cli import _importer, _journal, main
from sentinel_client.cli._importer import Importer
from sentinel_client.cli._journal import Journal, Reading, read_item
from sentinel_client.importers import ImportItem
from tests import processes
from tests.e2e.laptop import SENTINEL
from tests.embedder_server import raw_files

pytestmark = pytest.mark.timeout(120)


def picture(number: int) -> bytes:
    """Return a small JPEG that nothing else has."""
    data = BytesIO()
    color = tuple(number * step % 256 for step in (37, 101, 211))
    Image.new("RGB", (24, 16), color).save(data, "JPEG", quality=100)
    return data.getvalue() + number.to_bytes(4, "big")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Album:
    """A folder of twenty photos, and the collection that should equal it."""

    def __init__(self, address: str, client: SentinelClient, root: Path) -> None:
        self.address, self.client, self.root = address, client, root
        self.collection = f"c_{uuid.uuid4().hex}"
        (root / "sea").mkdir(parents=True)
        for number in range(20):
            (root / ("sea" if number % 2 else "") / f"{number:02d}.jpg").write_bytes(
                picture(number)
            )

    def index(self, *words: object, roots: tuple[Path, ...] = ()) -> Result:
        command = ["index", *(roots or (self.root,)), "-c", self.collection, *words]
        return CliRunner().invoke(main, ["--address", self.address, *map(str, command)])

    def items(self) -> dict[str, Item]:
        return {item.id: item for item in self.client.list_items(collection=self.collection)}

    def paths(self) -> set[str]:
        """Return the stored paths, below the root."""
        return {
            os.path.relpath(str(one.fields["path"]), self.root) for one in self.items().values()
        }


@pytest.fixture
def album(lite_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Album]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_journal, "_SETTLED_S", 0.02)
    with SentinelClient(lite_address) as client:
        made = Album(lite_address, client, tmp_path / "photos")
        assert "20 stored, 0 unchanged, 0 failed" in made.index().stdout
        yield made


def test_a_changed_file_replaces_its_item(album: Album) -> None:
    (album.root / "00.jpg").write_bytes(picture(100))
    result = album.index()
    assert "1 stored, 19 unchanged, 1 replaced, 0 failed" in result.stdout
    assert sha(picture(0)) not in album.items()
    assert sha(picture(100)) in album.items()
    assert "file any more" not in result.stderr


def test_a_changed_file_that_is_broken_takes_its_old_item_away(album: Album) -> None:
    (album.root / "00.jpg").write_bytes(b"no picture")
    result = album.index()
    assert result.exit_code == 1
    assert "19 unchanged, 1 replaced, 1 failed" in result.stdout
    assert "00.jpg" not in album.paths()


def test_swapped_files_swap_their_paths_without_a_new_embedding(
    album: Album, default_worker: processes.Server
) -> None:
    def embedded() -> float:
        name = "sentinel_embedder_items_total"
        return processes.metric(default_worker.metrics_address, name)

    before = embedded()
    one, other, aside = album.root / "00.jpg", album.root / "sea/01.jpg", album.root / "x.jpg"
    for source, target in ((one, aside), (other, one), (aside, other)):
        source.rename(target)
    assert "0 stored, 18 unchanged, 2 moved, 0 failed" in album.index("--prune").stdout
    assert album.items()[sha(picture(0))].fields["path"] == str(other)
    assert album.items()[sha(picture(1))].fields["path"] == str(one)
    assert embedded() == before > 0


def test_deleted_files_are_counted_and_with_prune_removed(album: Album) -> None:
    (album.root / "00.jpg").unlink()
    result = album.index()
    assert result.exit_code == 0
    assert "1 stored items have no file any more. --prune removes them." in result.stderr
    assert len(album.items()) == 20
    result = album.index("--prune")
    assert "19 unchanged, 1 removed, 0 failed" in result.stdout
    assert "00.jpg" not in album.paths()


def test_more_than_a_tenth_needs_a_yes(album: Album) -> None:
    for number in (0, 2, 4):
        (album.root / f"{number:02d}.jpg").unlink()
    result = album.index("--prune")
    assert result.exit_code == 2
    assert "Not removed: 3 of 20 stored items have no file any more" in result.stderr
    assert "add --yes" in result.stderr
    assert len(album.items()) == 20
    assert "3 removed" in album.index("--prune", "--yes").stdout
    assert len(album.items()) == 17


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 17), (b"n\n", 20)])
def test_on_a_terminal_it_asks(album: Album, answer: bytes, left: int) -> None:
    for number in (0, 2, 4):
        (album.root / f"{number:02d}.jpg").unlink()
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command: list[str | Path] = [SENTINEL, "--address", album.address, "index", album.root]
    result = subprocess.run(
        [*command, "-c", album.collection, "--prune"],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert "3 of 20 stored items have no file any more. Remove them?" in result.stderr
    assert result.returncode == (0 if left == 17 else 2), result.stderr
    assert len(album.items()) == left


def test_ctrl_c_ends_a_question_that_stays_on_the_terminal(album: Album) -> None:
    for number in (0, 2, 4):
        (album.root / f"{number:02d}.jpg").unlink()
    ours, theirs = pty.openpty()
    command: list[str | Path] = [SENTINEL, "--address", album.address, "index", album.root]
    process = subprocess.Popen(
        [*command, "-c", album.collection, "--prune"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    shown = b""
    question = b"3 of 20 stored items have no file any more. Remove them? [y/N]: "
    while not shown.endswith(question):  # nothing is drawn over it
        shown += os.read(ours, 4096)
    time.sleep(1)  # Python takes note of a signal just before its read only once the read ends
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped; run it again to continue" in said
    os.close(ours)
    os.close(theirs)
    assert len(album.items()) == 20


def test_an_empty_root_is_not_pruned(album: Album) -> None:
    album.root.rename(album.root.with_name("elsewhere"))
    album.root.mkdir()
    result = album.index("--prune", "--yes")
    assert result.exit_code == 2
    assert "Kept 20 stored items" in result.stderr
    assert "is it mounted?" in result.stderr
    assert len(album.items()) == 20


def test_one_empty_root_does_not_stop_the_other(album: Album, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "a.jpg").write_bytes(picture(50))
    roots = (album.root, second)
    album.index(roots=roots)
    (second / "a.jpg").unlink()
    (album.root / "00.jpg").unlink()
    result = album.index("--prune", roots=roots)
    assert "1 removed" in result.stdout
    assert "Kept 1 stored items" in result.stderr
    assert len(album.items()) == 20


def test_a_root_that_is_missing_is_a_usage_error(album: Album) -> None:
    album.root.rename(album.root.with_name("elsewhere"))
    assert album.index("--prune", "--yes").exit_code == 2
    assert len(album.items()) == 20


def test_a_drive_below_the_root_that_is_not_mounted_keeps_its_items(album: Album) -> None:
    journal = Journal()
    journal.remember_mounts([str(album.root / "sea")])  # as a run did when it was mounted
    journal.close()
    for path in (album.root / "sea").iterdir():
        path.unlink()
    result = album.index("--prune", "--yes")
    assert result.exit_code == 2
    assert "Kept 10 stored items" in result.stderr
    assert "is not mounted now" in result.stderr
    assert len(album.items()) == 20


@pytest.mark.parametrize("target", ["away", "link"], ids=["gone", "itself"])
def test_a_link_that_leads_nowhere_keeps_its_items(
    album: Album, tmp_path: Path, target: str
) -> None:
    other, link = tmp_path / "other", album.root / "link"
    other.mkdir()
    (other / "x.jpg").write_bytes(picture(300))
    link.symlink_to(other)
    assert "1 stored" in album.index().stdout
    link.unlink()
    link.symlink_to(target)
    result = album.index("--prune", "--yes")
    assert result.exit_code == 2
    assert f"Kept 1 stored items of {link}, which cannot be read" in result.stderr
    assert "link/x.jpg" in album.paths()


def test_a_folder_that_cannot_be_read_keeps_its_items(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("sea"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (album.root / "00.jpg").unlink()
    result = album.index("--prune")
    assert "1 removed" in result.stdout
    assert "Kept 10 stored items" in result.stderr
    assert len(album.items()) == 19


def test_a_file_that_cannot_be_read_keeps_its_item(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(item: ImportItem) -> Reading:
        raise PermissionError(13, "Permission denied", item.key)

    monkeypatch.setattr(_importer, "read_item", refuse)
    os.utime(album.root / "00.jpg")
    result = album.index("--prune", "--yes")
    assert result.exit_code == 1
    assert len(album.items()) == 20


def test_a_file_that_changes_while_it_is_read(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_change(item: ImportItem) -> Reading:
        reading = read_item(item)
        if item.key.endswith("new.jpg"):
            Path(item.key).write_bytes(picture(201))
        return reading

    (album.root / "new.jpg").write_bytes(picture(200))
    monkeypatch.setattr(_importer, "read_item", read_and_change)
    assert "1 stored, 20 unchanged, 0 failed" in album.index("--prune").stdout
    monkeypatch.setattr(_importer, "read_item", read_item)
    assert len(album.items()) == 21
    assert sha(picture(201)) in album.items()
    album.index("--prune")  # its size is now another one, too
    assert "0 stored, 21 unchanged, 0 failed" in album.index("--prune").stdout
    assert album.items()[sha(picture(201))].fields["size_bytes"] == len(picture(201))


def test_a_folder_that_vanishes_during_the_walk_is_no_failure_and_is_not_pruned_yet(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def vanish(path: Any) -> Any:
        if str(path).endswith("sea"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert "10 unchanged, 0 failed" in album.index("--prune", "--yes").stdout
    assert len(album.items()) == 20


def test_what_another_run_stores_meanwhile_is_not_pruned(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk_and_send = Importer.run
    new, edited = album.root / "new.jpg", album.root / "00.jpg"

    async def another_run_follows(self: Importer) -> None:
        await walk_and_send(self)
        for number, path in ((200, new), (201, edited)):
            path.write_bytes(picture(number))
            item = Item(image=path, fields={"path": str(path)})
            await self.client.upsert([item], collection=album.collection)

    monkeypatch.setattr(Importer, "run", another_run_follows)
    album.index("--prune", "--yes")
    assert {sha(picture(200)), sha(picture(201))} <= set(album.items())
    monkeypatch.undo()
    assert "1 replaced" in album.index("--prune").stdout
    assert album.paths() >= {"new.jpg", "00.jpg"}
    assert len(album.items()) == 21


def test_of_equal_files_the_one_that_is_left_gives_the_path(album: Album) -> None:
    (album.root / "sea/copy.jpg").write_bytes(picture(0))
    assert "20 unchanged, 1 duplicates of another" in album.index("--prune").stdout
    (album.root / "00.jpg").unlink()
    assert "0 stored, 19 unchanged, 1 moved, 0 failed" in album.index("--prune").stdout
    assert album.items()[sha(picture(0))].fields["path"] == str(album.root / "sea/copy.jpg")


def test_a_copy_elsewhere_does_not_take_the_path_away(album: Album, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "copy.jpg").write_bytes(picture(0))
    assert "1 unchanged, 0 failed" in album.index("--prune", roots=(other,)).stdout
    assert album.items()[sha(picture(0))].fields["path"] == str(album.root / "00.jpg")
    (album.root / "00.jpg").write_bytes(picture(100))
    assert "0 stored, 0 unchanged, 1 moved" in album.index("--prune", roots=(other,)).stdout
    assert album.items()[sha(picture(0))].fields["path"] == str(other / "copy.jpg")


def test_names_of_every_kind(album: Album) -> None:
    nfc, nfd = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    names = [nfc, nfd, "a.b.c.JPG", "é.tar.jpg", " .jpg", "%2f*?.jpg", "\n.jpg", "\x1b[31m.jpg"]
    names += [os.fsdecode(b"\xff\xfe.jpg"), "x" * 251 + ".jpg"]
    for number, name in enumerate(names):
        (album.root / name).write_bytes(picture(300 + number))
    deep = album.root
    for _ in range(14):
        deep = deep / ("d" * 200)
    os.makedirs(deep)
    (deep / "deep.jpg").write_bytes(picture(399))
    added = len(names) + 1
    assert f"{added} stored, 20 unchanged, 0 failed" in album.index("--prune").stdout
    assert f"0 stored, {20 + added} unchanged" in album.index("--prune").stdout
    (album.root / nfd).rename(album.root / "É.jpg")
    result = album.index("--prune")
    assert f"0 stored, {19 + added} unchanged, 1 moved, 0 failed" in result.stdout
    assert {nfc, "É.jpg"} <= album.paths()
    assert "\x1b" not in result.output


def test_what_is_left_out_is_counted_by_its_ending_and_reason(album: Album) -> None:
    for name in ("a.mov", "b.MOV", "c.psd", "readme", ".hidden.jpg", "Thumbs.db", "d.jpg.part"):
        (album.root / name).write_bytes(b"x")
    (album.root / "empty.jpg").touch()
    for name in ("@eaDir", "#recycle", ".thumbnails", "LR Previews.lrdata", "private"):
        (album.root / name).mkdir()
        (album.root / name / "a.jpg").write_bytes(picture(400))
    (album.root / "05.cr2").write_bytes(b"RAW")
    (album.root / "05.jpg").write_bytes(picture(405))
    result = album.index("--exclude", "private/", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["stored"], summary["unchanged"], summary["failed"]) == (1, 20, 0)
    assert {(one["what"], one["count"], one["why"]) for one in summary["skipped"]} == {
        (".mov", 2, "not pictures"), (".psd", 1, "not pictures"),
        ("files without an ending", 1, "not pictures"), ("files", 1, "hidden"),
        (".thumbnails/", 1, "hidden"), ("@eaDir/", 1, "of programs, not yours"),
        ("#recycle/", 1, "of programs, not yours"), ("Thumbs.db", 1, "of programs, not yours"),
        ("LR Previews.lrdata/", 1, "of programs, not yours"), ("private/", 1, "excluded"),
        (".part", 1, "unfinished downloads"), (".jpg", 1, "empty"),
        (".cr2", 1, "RAW beside a picture of the same name"),
    }  # fmt: skip
    shown = album.index("--exclude", "private/").stderr
    assert "Skipped: 2 .mov, 1 .psd, 1 file without an ending (not pictures)" in shown


def test_what_becomes_excluded_is_pruned(album: Album) -> None:
    assert "10 removed" in album.index("--prune", "--yes", "--exclude", "/sea").stdout
    assert not any(path.startswith("sea") for path in album.paths())


def test_a_pattern_that_is_none_is_an_error(album: Album) -> None:
    result = album.index("--exclude", "!")
    assert (result.exit_code, "--exclude" in result.stderr) == (2, True)


def test_a_collection_without_the_fields_of_photos_gets_them_by_one_command(
    album: Album, default_worker: processes.Server
) -> None:
    album.collection = f"c_{uuid.uuid4().hex}"
    fields = [FieldSchema("path", FieldType.STRING), FieldSchema("modified_at", FieldType.INT64)]
    album.client.create_collection(album.collection, fields)
    result = album.index()
    assert "20 stored" in result.stdout
    command = f"sentinel collections add-fields {album.collection} --photo"
    assert f"`{command}` adds them." in result.stderr
    assert "20 unchanged" in album.index().stdout
    before = processes.metric(default_worker.metrics_address, "sentinel_embedder_items_total")
    added = CliRunner().invoke(main, ["--address", album.address, *command.split()[1:]])
    assert added.exit_code == 0, added.output
    assert "20 stored" in album.index("--prune").stdout
    assert {one.fields["width"] for one in album.items().values()} == {24}
    assert "20 unchanged" in album.index("--prune").stdout
    after = processes.metric(default_worker.metrics_address, "sentinel_embedder_items_total")
    assert before == after > 0


def test_a_collection_without_paths_cannot_be_pruned(album: Album) -> None:
    album.collection = f"c_{uuid.uuid4().hex}"
    album.client.create_collection(album.collection, [FieldSchema("title", FieldType.STRING)])
    assert album.index().exit_code == 0
    result = album.index("--prune")
    assert (result.exit_code, "has no field path" in result.stderr) == (2, True)


def test_metadata_alone_changes_the_row_and_embeds_nothing(
    album: Album, default_worker: processes.Server
) -> None:
    before = processes.metric(default_worker.metrics_address, "sentinel_embedder_items_total")
    (album.root / "00.xmp").write_text(
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description"
        " xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='5'/></rdf:RDF>"
    )
    assert "1 stored, 19 unchanged, 0 failed" in album.index().stdout
    assert album.items()[sha(picture(0))].fields["rating"] == 5
    (album.root / "00.xmp").unlink()
    assert "1 stored, 19 unchanged, 0 failed" in album.index().stdout
    assert "rating" not in album.items()[sha(picture(0))].fields
    after = processes.metric(default_worker.metrics_address, "sentinel_embedder_items_total")
    assert before == after > 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_formats_of_phones_and_cameras(album: Album) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.effect_mandelbrot((320, 200), (-2, -1.2, 1, 1.2), 50).convert("RGB")
    for name, kind in (
        ("a.HEIC", "HEIF"),
        ("b.avif", "AVIF"),
        ("c.jfif", "JPEG"),
        ("d.jpe", "JPEG"),
    ):
        exif = Image.Exif()
        exif[0x0110] = f"Phone {name}"
        image.save(album.root / name, kind, exif=exif.tobytes())
    jpeg = BytesIO()
    image.save(jpeg, "JPEG")
    raw = raw_files.nef(jpeg.getvalue(), orientation=6)
    (album.root / "e.NEF").write_bytes(raw)
    (album.root / "f.cr2").write_bytes(b"II*\0 damaged")
    result = album.index()
    assert "5 stored, 20 unchanged, 1 failed" in result.stdout, result.output
    assert "f.cr2: cannot be read: no preview could be read from this RAW file" in result.stderr
    items = {Path(str(one.fields["path"])).name: one for one in album.items().values()}
    assert items["a.HEIC"].fields["camera"] == "Phone a.HEIC"
    assert (items["a.HEIC"].fields["width"], items["a.HEIC"].fields["height"]) == (320, 200)
    assert items["e.NEF"].id == sha(raw)
    assert str(items["e.NEF"].fields["camera"]).startswith("NIKON ")
    stored = album.client.get_items(
        [sha(raw)], collection=album.collection, include_thumbnails=True
    )
    with Image.open(BytesIO(stored.items[0].thumbnail), formats=["WEBP"]) as thumbnail:
        assert thumbnail.height > thumbnail.width
    assert "0 stored, 25 unchanged, 1 failed" in album.index().stdout


def test_a_file_without_an_ending_is_a_picture_if_it_is_named(album: Album) -> None:
    (album.root / "noending").write_bytes(picture(500))
    assert "20 unchanged, 0 failed" in album.index().stdout
    assert "1 stored, 0 unchanged" in album.index(roots=(album.root / "noending",)).stdout
