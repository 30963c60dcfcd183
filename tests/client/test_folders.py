"""What a walk through a photo library yields and what it leaves out; and what a run has seen."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from sentinel_client import F
from sentinel_client._field_messages import filter_to_proto
from sentinel_client.cli import _sync
from sentinel_client.cli._seen import Seen
from sentinel_client.importers import BrokenEntry, Folders, ImportItem, folders, raw_previews
from sentinel_client.importers.dataset import EmbeddedPreview


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def walked(dataset: Folders, root: Path) -> list[str]:
    entries = list(dataset.entries())
    assert not [one for one in entries if isinstance(one, BrokenEntry)]
    return [os.path.relpath(one.key, root) for one in entries]


def test_endings_decide_inside_folders(tmp_path: Path) -> None:
    endings = "jpg jpeg jpe jfif png webp gif bmp tif tiff heic heif hif avif jxl"
    pictures = [f"a.{ending}" for ending in endings.split()]
    raws = ["r1.dng", "r2.CR2", "r3.cr3", "r4.NEF", "r5.arw"]
    make(tmp_path, *pictures, *raws, "b.mov", "noending", "c.JPG")
    dataset = folders([tmp_path])
    assert sorted(walked(dataset, tmp_path)) == sorted([*pictures, *raws, "c.JPG"])
    assert dataset.count() == len(pictures) + len(raws) + 1
    assert walked(folders([tmp_path / "noending"]), tmp_path) == ["noending"]


def test_of_a_library_of_apple_photos_the_originals_are_taken(tmp_path: Path) -> None:
    library = "My.photoslibrary"
    make(
        tmp_path, f"{library}/originals/0/a.heic", f"{library}/resources/derivatives/a.jpeg",
        f"{library}/database/search/b.png", "Old.photolibrary/Masters/2010/c.jpg",
        "Old.photolibrary/Previews/c.jpg", "resources/d.jpg",
    )  # fmt: skip
    assert sorted(walked(folders([tmp_path]), tmp_path)) == [
        f"{library}/originals/0/a.heic", "Old.photolibrary/Masters/2010/c.jpg", "resources/d.jpg"
    ]  # fmt: skip


def test_patterns_are_relative_to_each_root(tmp_path: Path) -> None:
    make(tmp_path, "one/private/a.jpg", "one/b.gif", "one/keep.gif", "two/x/private/c.jpg")
    make(tmp_path, "two/d.jpg")
    roots = [tmp_path / "one", tmp_path / "two"]
    dataset = folders(roots, exclude=["/private", "*.gif", "!keep.gif"])
    assert walked(dataset, tmp_path) == ["one/keep.gif", "two/d.jpg", "two/x/private/c.jpg"]
    assert dataset.walk.left_out.counts["private/", "excluded"] == 1
    below = folders(roots, only=[str(tmp_path / "two" / "x")], exclude=["x/private"])
    assert walked(below, tmp_path) == []


def test_a_raw_file_beside_a_picture_is_left_out_until_the_picture_is_gone(tmp_path: Path) -> None:
    make(tmp_path, "a.CR2", "a.JPG", "b.NEF", "c.dng", "c.xmp")
    assert walked(folders([tmp_path]), tmp_path) == ["a.JPG", "b.NEF", "c.dng"]
    (tmp_path / "a.JPG").unlink()
    first = next(iter(folders([tmp_path], raw_previews=True).entries()))
    assert isinstance(first, ImportItem)
    assert first.image == EmbeddedPreview(tmp_path / "a.CR2")


def test_the_sidecar_with_the_whole_name_wins_and_changes_the_stamp(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.xmp", "A.JPG.XMP", "b.jpg", "c.jpg")
    make(tmp_path, "b.xmp")
    asked: list[tuple[str, str | None]] = []

    def read(path: str, sidecar: str | None) -> dict[str, str]:
        asked.append((os.path.basename(path), sidecar and os.path.basename(sidecar)))
        return {}

    def stamps() -> list[str]:
        found = list(folders([tmp_path], read_metadata=read).entries())
        for one in found:
            assert isinstance(one, ImportItem)
            assert one.details is not None
            one.details()
        return [one.stamp for one in found if isinstance(one, ImportItem)]

    before = stamps()
    assert asked == [("a.jpg", "A.JPG.XMP"), ("b.jpg", "b.xmp"), ("c.jpg", None)]
    (tmp_path / "b.xmp").write_text("edited")
    after = stamps()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_a_folder_of_another_file_system_is_noted(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    (tmp_path / "drive").symlink_to(other)
    (tmp_path / "plain").mkdir()
    dataset = folders([tmp_path])
    list(dataset.entries())
    assert dataset.walk.mounts == [str(tmp_path / "drive")]


def test_a_root_inside_of_another_root_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "sea/b.jpg", ".hidden/c.jpg")
    dataset = folders([tmp_path, tmp_path / "sea", tmp_path / ".hidden", tmp_path / "a.jpg"])
    assert sorted(walked(dataset, tmp_path)) == [".hidden/c.jpg", "a.jpg", "sea/b.jpg"]
    assert all(dataset.walk.found.values())


def test_a_run_remembers_what_it_has_seen() -> None:
    seen = Seen()
    assert seen.claim(["a", "b", "a"]) == [True, True, False]
    assert seen.claim(["b", "c"]) == [False, True]
    assert (seen.has("c"), seen.has("d")) == (True, False)
    seen.note_paths([("/x", "a"), ("/y", "")])
    assert (seen.at("/x"), seen.at("/y"), seen.at("/z")) == (True, False, None)
    odd = os.fsdecode(b"/\xff.jpg")
    seen.add_duplicates([(odd, "a"), ("/2", "b")])
    assert list(seen.duplicates()) == [(odd, "a"), ("/2", "b")]
    seen.add_gone(f"{number}" for number in range(2_500))
    seen.add_gone(["0"])
    assert sorted(map(len, seen.gone())) == [500, 1_000, 1_000]
    seen.close()


def test_a_raw_file_that_ends_the_reader_costs_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = """
import os, struct, sys
while size := sys.stdin.buffer.read(4):
    path = sys.stdin.buffer.read(int.from_bytes(size, "big"))
    cut = b"cut" in path
    sys.stdout.buffer.write(struct.pack(">QB", 9 if cut else 4, 0) + b"jpeg")
    sys.stdout.buffer.flush()
    if cut:
        os._exit(1)
"""
    monkeypatch.setattr(raw_previews, "_PROGRAM", program)
    with closing(raw_previews.PreviewReader()) as reader:
        assert reader.read(Path("a.dng")) == b"jpeg"
        with pytest.raises(OSError, match="no preview"):
            reader.read(Path("cut.dng"))
        assert reader.read(Path("b.dng")) == b"jpeg"


def test_filters_of_the_longest_paths_fit_into_a_request() -> None:
    paths = [f"/{number:04}{'x' * 4_090}" for number in range(1_000)]
    parts = [F("path").isin(part) for part in _sync._parts(paths, _sync._MAX_COMPARISONS)]
    for one in [*parts, *_sync._scopes(paths)]:
        assert filter_to_proto(one).ByteSize() < 1024 * 1024
