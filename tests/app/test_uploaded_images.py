"""Uploaded files: images come through, everything else is named with a reason."""

from __future__ import annotations

import io
import zipfile

import pytest

from sentinel_app import uploads
from sentinel_app.uploads import MAX_IMAGE_BYTES, images_in, total_images
from tests import photos

PICTURE = photos.photo("rocket").read_bytes()


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


def test_what_computers_put_beside_pictures_is_left_out() -> None:
    archive = zipped(**{"a.jpg": PICTURE, "__MACOSX/._a.jpg": b"x", ".hidden.jpg": b"x"})
    assert [entry.name for entry in images_in([("z.zip", archive)])] == ["z.zip/a.jpg"]


@pytest.mark.parametrize(
    "path", ["../../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg"]
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


def test_a_zip_that_lies_about_its_sizes_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MAX_ZIP_RATIO", 10**9)
    data = bytearray(zipped(**{"big.png": bytes(MAX_IMAGE_BYTES + 10_000)}))
    # The size that the table of contents promises.
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    [refused] = images_in([("liar.zip", bytes(data))])
    assert refused.problem
    assert not refused.data


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


def test_too_many_files_in_a_zip_are_sent_to_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    archive = zipped(**{f"{n}.jpg": PICTURE for n in range(3)})
    [refused] = images_in([("many.zip", archive)])
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


def test_damage_in_any_compression_fails_one_member() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", PICTURE)
        archive.writestr("b.jpg", PICTURE)
    data = bytearray(out.getvalue())
    start = data.index(b"a.jpg") + len("a.jpg")
    data[start + 4 : start + 9] = b"\xff" * 5  # LZMA's own header: lzma.LZMAError
    first, second = images_in([("z.zip", bytes(data))])
    assert first.problem.startswith("damaged in the zip")
    assert second.data == PICTURE


def test_what_will_come_is_counted_without_unpacking() -> None:
    archive = zipped(**{"a.jpg": PICTURE, "b.jpg": PICTURE, "notes.txt": b"no"})
    files = [("one.jpg", PICTURE), ("z.zip", archive), ("no.zip", b"no zip")]
    assert total_images(files) == len(list(images_in(files))) == 4


def test_what_is_dropped_is_read_as_a_stream_and_not_unpacked_at_once() -> None:
    archive = zipped(**{f"{number}.jpg": PICTURE for number in range(3)})
    following = images_in([("z.zip", archive)])
    assert next(following).name == "z.zip/0.jpg"
