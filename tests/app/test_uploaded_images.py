"""Uploaded files: images come through, everything else is named with a reason."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from functools import partial
from typing import Any

import pytest

from sentinel_app import adding, zips
from sentinel_app.uploads import MAX_IMAGE_BYTES
from tests import photos

PICTURE = photos.photo("rocket").read_bytes()
images_in = partial(zips.images_in, most=2_000)
total_images = partial(zips.total_images, most=2_000)


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_pictures_and_those_in_zips_come_through() -> None:
    archive = zipped(**{"trip/a.jpg": PICTURE, "trip/b.JPG": PICTURE, "notes.txt": b"no"})
    found = list(images_in([("one.jpg", PICTURE), ("trip.zip", archive)]))
    assert [entry.name for entry in found] == [
        "one.jpg",
        "trip.zip/trip/a.jpg",
        "trip.zip/trip/b.JPG",
    ]
    assert {entry.data for entry in found} == {PICTURE}


def test_photos_of_phones_and_cameras_in_zips_come_through() -> None:
    names = ["a.heic", "b.HEIF", "c.avif", "d.jxl", "e.DNG", "f.cr3", "g.nef", "h.ARW", "i.raf"]
    found = list(images_in([("trip.zip", zipped(**dict.fromkeys(names, b"x")))]))
    assert [entry.name for entry in found] == [f"trip.zip/{name}" for name in names]


def test_few_large_images_are_unpacked_at_once() -> None:
    data = random.Random(1).randbytes(2**18).ljust(MAX_IMAGE_BYTES, b"\0")
    large = dict.fromkeys([f"{number}.bmp" for number in range(6)], data)
    images = images_in([("large.zip", zipped(**large))])
    assert [len(batch) for batch in iter(lambda: adding._take(images), [])] == [2, 2, 2]
    small = images_in([(f"{number}.jpg", PICTURE) for number in range(20)])
    assert [len(batch) for batch in iter(lambda: adding._take(small), [])] == [16, 4]


def test_what_computers_put_beside_pictures_is_left_out() -> None:
    archive = zipped(**{"a.jpg": PICTURE, "__MACOSX/._a.jpg": b"x", ".hidden.jpg": b"x"})
    assert [entry.name for entry in images_in([("z.zip", archive)])] == ["z.zip/a.jpg"]


@pytest.mark.parametrize(
    "path",
    ["../../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"],
)
def test_a_path_out_of_the_zip_is_refused_alone(path: str) -> None:
    bad, good = images_in([("z.zip", zipped(**{path: PICTURE, "good.jpg": PICTURE}))])
    assert bad.problem == "its path points outside the zip"
    assert not bad.data
    assert good.data == PICTURE


def test_a_zip_bomb_is_refused_before_it_unpacks() -> None:
    bomb = zipped(**{f"{n}.png": bytes(30_000_000) for n in range(3)})
    [refused] = images_in([("bomb.zip", bomb)])
    assert "would unpack to" in refused.problem


def lying(archive: bytes, size: int = 1000) -> bytes:
    """Return a zip of one member whose table of contents and header declare this size."""
    data = bytearray(archive)
    for magic, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = data.rindex(magic) + at
        data[start : start + 4] = size.to_bytes(4, "little")
    return bytes(data)


def test_a_zip_that_lies_about_its_sizes_is_cut_off() -> None:
    [refused] = images_in([("liar.zip", lying(zipped(**{"big.png": bytes(MAX_IMAGE_BYTES * 2)})))])
    assert refused.problem
    assert not refused.data


def packed(compression: int, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("a.png", data)
    return out.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_kilobyte_that_becomes_gigabytes_is_never_decompressed(compression: int) -> None:
    # Ten times the limit of an image is enough to see it. Python's zipfile decompresses all of it
    # for the first byte that is read.
    bomb = lying(packed(compression, bytes(10 * MAX_IMAGE_BYTES)), 5_000)
    assert len(bomb) < 50_000
    tracemalloc.start()
    try:
        [refused] = images_in([("bomb.zip", bomb)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.problem.startswith("its compression is not supported")
    assert peak < 2**20


def test_members_that_share_their_bytes_stop_at_the_bound_of_the_whole_zip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 50 entries in the table of contents for one member, as in the bombs with overlapping files.
    data = zipped(**{"a.png": bytes(1_000_000)})
    table = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entry, count = data[table:end], 50
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = (len(entry) * count).to_bytes(4, "little")
    small = bytearray(entry)
    small[24:28] = (10).to_bytes(4, "little")  # the declared size
    bomb = data[:table] + bytes(small) * count + bytes(tail)
    read: list[int] = []
    whole = zipfile.ZipExtFile.read

    def counting(member: zipfile.ZipExtFile, size: int = -1) -> bytes:
        part = whole(member, size)
        read.append(len(part))
        return part

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counting)
    assert all(entry.problem for entry in images_in([("bomb.zip", bomb)]))
    assert sum(read) < 200 * len(bomb) + 2**16


def test_a_table_of_contents_that_is_too_long_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = zipped(**{f"{number:05}.txt": b"" for number in range(1_000)})
    monkeypatch.setattr(zips, "_MAX_TABLE_BYTES", 50_000)
    made: list[str] = []

    class Counted(zipfile.ZipInfo):
        def __init__(self, filename: str = "", *rest: Any) -> None:
            made.append(filename)
            super().__init__(filename, *rest)

    monkeypatch.setattr(zipfile, "ZipInfo", Counted)
    [refused] = images_in([("long.zip", archive)])
    assert "table of contents is too long" in refused.problem
    assert made == []
    monkeypatch.setattr(zips, "_MAX_TABLE_BYTES", 2**20)
    assert list(images_in([("long.zip", archive)])) == []
    assert len(made) == 1_000


def test_a_zip_in_a_zip_and_a_very_long_name_are_named() -> None:
    inner = zipped(**{"a.jpg": PICTURE})
    members = {"inner.zip": inner, "x" * 5_000 + ".jpg": PICTURE, "good.jpg": PICTURE}
    nested, long, good = images_in([("z.zip", zipped(**members))])
    assert (nested.name, nested.problem[:12]) == ("z.zip/inner.zip", "a zip in a z")
    assert "longer than 250" in long.problem
    assert len(long.name) < 300
    assert good.data == PICTURE


def test_an_encrypted_member_is_named() -> None:
    data = bytearray(zipped(**{"a.jpg": PICTURE}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    [refused] = images_in([("z.zip", bytes(data))])
    assert refused.problem == "it is encrypted"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.jpg", b"", "it is empty"),
        ("huge.jpg", bytes(MAX_IMAGE_BYTES + 1), "larger than 16 MB"),
        ("no.zip", b"this is no zip", "this zip cannot be opened"),
        ("cut.zip", zipped(**{"a.jpg": PICTURE})[:-40], "zip"),
    ],
)
def test_unusable_files_are_named_with_a_reason(name: str, data: bytes, says: str) -> None:
    [refused] = images_in([(name, data)])
    assert refused.name == name
    assert says in refused.problem


def test_too_many_files_in_a_zip_are_sent_to_the_command_line() -> None:
    archive = zipped(**{f"{n}.jpg": PICTURE for n in range(3)})
    [refused] = zips.images_in([("many.zip", archive)], most=2)
    assert "sentinel index FOLDER" in refused.problem


def test_damage_inside_a_zip_fails_one_member() -> None:
    data = bytearray(zipped(**{"a.jpg": PICTURE, "b.jpg": PICTURE}))
    data[len(data) // 4] ^= 0xFF
    first, second = images_in([("z.zip", bytes(data))])
    assert first.problem.startswith("damaged in the zip")
    assert second.data == PICTURE


def test_a_zip_of_an_unknown_version_is_named_and_later_files_come_through() -> None:
    data = bytearray(zipped(**{"a.jpg": PICTURE}))
    data[data.rindex(b"PK\x01\x02") + 6] = 99  # zipfile raises NotImplementedError
    refused, good = images_in([("new.zip", bytes(data)), ("later.jpg", PICTURE)])
    assert "this zip cannot be opened" in refused.problem
    assert good.data == PICTURE


def test_a_zip_whose_names_are_no_text_is_named() -> None:
    data = bytearray(zipped(**{"\u00e4.jpg": PICTURE}))
    name = data.rindex("\u00e4.jpg".encode())
    data[name] = 0xFF  # zipfile raises UnicodeDecodeError
    [refused] = images_in([("names.zip", bytes(data))])
    assert "this zip cannot be opened" in refused.problem


def test_what_will_come_is_counted_without_unpacking() -> None:
    archive = zipped(**{"a.jpg": PICTURE, "b.jpg": PICTURE, "notes.txt": b"no"})
    files = [("one.jpg", PICTURE), ("z.zip", archive), ("no.zip", b"no zip")]
    assert total_images(files) == len(list(images_in(files))) == 4


def test_what_is_dropped_is_read_as_a_stream_and_not_unpacked_at_once() -> None:
    archive = zipped(**{f"{number}.jpg": PICTURE for number in range(3)})
    following = images_in([("z.zip", archive)])
    assert next(following).name == "z.zip/0.jpg"
