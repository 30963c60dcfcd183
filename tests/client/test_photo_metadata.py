"""What cameras and programs write into photos, read from files that the tests write."""

from __future__ import annotations

import io
import os
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from sentinel_client import GeoPoint
from sentinel_client.importers import xmp as xmp_module
from sentinel_client.importers.photo_fields import PHOTO_FIELDS, fields_from_json, fields_to_json
from sentinel_client.importers.photo_metadata import read_metadata

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, of damaged files
pillow_heif = pytest.importorskip("pillow_heif")
pillow_heif.register_heif_opener()

TAKEN = datetime(2019, 5, 1, 8, 20, 30, 250_000, tzinfo=UTC)


def exif(orientation: int = 1) -> Image.Exif:
    made = Image.Exif()
    made[0x010F], made[0x0110], made[0x0112] = "NIKON CORPORATION", "NIKON D750", orientation
    made[0x010E] = "A caption of EXIF"
    made[0x4746] = 2
    details = made.get_ifd(0x8769)
    details[0x9003], details[0x9011], details[0x9291] = "2019:05:01 10:20:30", "+02:00", "25"
    details[0xA434] = "24-70mm f/2.8"
    gps = made.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "S", (33.0, 51.0, 30.0), "E", (151.0, 12.0, 36.0)
    return made


def xmp(body: str = "", **attributes: str) -> bytes:
    written = " ".join(f"{name.replace('_', ':')}='{value}'" for name, value in attributes.items())
    return f"""<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
    <x:xmpmeta xmlns:x='adobe:ns:meta/'>
     <rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
      <rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/'
       xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmlns:exif='http://ns.adobe.com/exif/1.0/'
       xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:aux='http://ns.adobe.com/exif/1.0/aux/'
       {written}>{body}</rdf:Description>
     </rdf:RDF></x:xmpmeta><?xpacket end='w'?>""".encode()


def bag(name: str, kind: str, *values: str) -> str:
    items = "".join(f"<rdf:li xml:lang='x-default'>{value}</rdf:li>" for value in values)
    return f"<dc:{name}><rdf:{kind}>{items}</rdf:{kind}></dc:{name}>"


def photo(path: Path, kind: str = "JPEG", **options: Any) -> str:
    Image.new("RGB", (40, 30), "red").save(path, kind, **options)
    return str(path)


def iptc(*records: tuple[int, bytes]) -> bytes:
    """Return the segment of a JPEG that holds IPTC records."""
    data = b"".join(struct.pack(">BBBH", 0x1C, 2, n, len(value)) + value for n, value in records)
    data = struct.pack(">BBBH", 0x1C, 1, 90, 3) + b"\x1b%G" + data
    block = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(data)) + data + b"\0" * (len(data) % 2)
    body = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def with_segment(path: str, segment: bytes) -> str:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:2] + segment + data[2:])
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_of_each_format(tmp_path: Path, kind: str, orientation: int) -> None:
    path = photo(tmp_path / f"a.{kind.lower()}", kind, exif=exif(orientation).tobytes())
    found = read_metadata(path, None)
    place = found.pop("place")
    assert isinstance(place, GeoPoint)
    assert (round(place.latitude, 4), round(place.longitude, 4)) == (-33.8583, 151.21)
    width, height = (30, 40) if orientation == 6 else (40, 30)
    assert found == {
        "taken_at": TAKEN,
        "taken_offset": 120,
        "camera": "NIKON D750",
        "lens": "24-70mm f/2.8",
        "width": width,
        "height": height,
        "caption": "A caption of EXIF",
        "rating": 2,
    }


def test_the_journal_keeps_all_values(tmp_path: Path) -> None:
    body = bag("title", "Alt", "Ein „Titel“") + bag("subject", "Bag", "a", "b")
    found = read_metadata(photo(tmp_path / "a.jpg", exif=exif(), xmp=xmp(body)), None)
    assert {one.name for one in PHOTO_FIELDS} == set(found)
    assert fields_from_json(fields_to_json(found)) == found


def test_the_sidecar_wins_over_xmp_over_iptc_over_exif(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", exif=exif(), xmp=xmp(xmp_Rating="4"))
    records = (120, "IPTC ü".encode()), (5, b"Title of IPTC"), (25, b"k1"), (25, b"k2")
    with_segment(path, iptc(*records))
    found = read_metadata(path, None)
    assert (found["rating"], found["caption"], found["title"]) == (4, "IPTC ü", "Title of IPTC")
    assert found["keywords"] == ["k1", "k2"]
    sidecar = tmp_path / "a.xmp"
    sidecar.write_bytes(xmp(bag("description", "Alt", "of the sidecar"), xmp_Rating="-1"))
    found = read_metadata(path, str(sidecar))
    assert (found["rating"], found["caption"]) == (-1, "of the sidecar")
    assert found["title"] == "Title of IPTC"
    assert found["camera"] == "NIKON D750"


def test_xmp_alone_has_everything(tmp_path: Path) -> None:
    body = (
        bag("title", "Alt", "T")
        + bag("description", "Alt", "C")
        + bag("subject", "Bag", "sea", "sky", "sea")
        + "<exif:DateTimeOriginal>2001-02-03T04:05:06.5-03:30</exif:DateTimeOriginal>"
    )
    data = xmp(
        body, tiff_Make="Canon", tiff_Model="EOS R5", aux_Lens="RF 50", xmp_Rating="5",
        exif_GPSLatitude="52,30.5N", exif_GPSLongitude="13,22,30W",
    )  # fmt: skip
    found = read_metadata(photo(tmp_path / "a.jpg", xmp=data), None)
    assert found == {
        "taken_at": datetime(2001, 2, 3, 7, 35, 6, 500_000, tzinfo=UTC),
        "taken_offset": -210,
        "camera": "Canon EOS R5",
        "lens": "RF 50",
        "width": 40,
        "height": 30,
        "place": GeoPoint(52 + 30.5 / 60, -(13 + 22.5 / 60)),
        "title": "T",
        "caption": "C",
        "keywords": ["sea", "sky"],
        "rating": 5,
    }


@pytest.mark.parametrize(
    ("date", "zone", "at", "offset"),
    [
        ("2019:05:01 10:20:30", "", datetime(2019, 5, 1, 10, 20, 30, tzinfo=UTC), None),
        ("2019:05:01 10:20:30", "Z", datetime(2019, 5, 1, 10, 20, 30, tzinfo=UTC), 0),
        ("2019:05:01 10:20:30", "+99:00", datetime(2019, 5, 1, 10, 20, 30, tzinfo=UTC), None),
        ("2019-05-01 10:20", "", datetime(2019, 5, 1, 10, 20, tzinfo=UTC), None),
        ("0000:00:00 00:00:00", "", None, None),
        ("    :  :     :  :  ", "", None, None),
        ("2019:02:30 10:20:30", "", None, None),
        ("0001:01:01 00:00:00", "+02:00", None, None),
        ("9999:12:31 23:59:59", "-02:00", None, None),
    ],
)
def test_dates(
    tmp_path: Path, date: str, zone: str, at: datetime | None, offset: int | None
) -> None:
    made = Image.Exif()
    made.get_ifd(0x8769).update({0x9003: date, **({0x9011: zone} if zone else {})})
    found = read_metadata(photo(tmp_path / "a.jpg", exif=made), None)
    assert (found.get("taken_at"), found.get("taken_offset")) == (at, offset)


def test_a_program_that_drops_the_zone_does_not_change_the_time(tmp_path: Path) -> None:
    data = xmp(exif_DateTimeOriginal="2019-05-01T10:20:30")
    found = read_metadata(photo(tmp_path / "a.jpg", exif=exif(), xmp=data), None)
    assert (found["taken_at"], found["taken_offset"]) == (TAKEN, 120)
    edited = xmp(exif_DateTimeOriginal="2019-05-02T10:20:30")
    found = read_metadata(photo(tmp_path / "b.jpg", exif=exif(), xmp=edited), None)
    assert found["taken_at"] == datetime(2019, 5, 2, 10, 20, 30, tzinfo=UTC)
    assert "taken_offset" not in found


UNKNOWN = TiffImagePlugin.IFDRational(0, 0)


@pytest.mark.parametrize(
    "degrees", [(0.0, 0.0, 0.0), (91.0, 0.0, 0.0), (UNKNOWN, 0.0, 0.0), (), (1.0,)]
)
def test_places_that_are_none_are_left_out(tmp_path: Path, degrees: tuple[float, ...]) -> None:
    made = Image.Exif()
    made.get_ifd(0x8825).update({1: "N", 2: degrees, 3: "E", 4: (0.0, 0.0, 0.0)})
    found = read_metadata(photo(tmp_path / "a.png", "PNG", exif=made.tobytes()), None)
    assert found.get("place") == (GeoPoint(1.0, 0.0) if degrees == (1.0,) else None)


def tiff(directory: dict[int, Any]) -> bytes:
    """Return a TIFF that has only this directory, as RAW files and boxes hold it."""
    made = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in directory.items():
        made[tag] = value
    data = io.BytesIO()
    data.write(b"II*\0\x08\0\0\0")
    made.save(data)
    return data.getvalue()


@pytest.mark.parametrize("ending", [".nef", ".CR2", ".arw", ".dng"])
def test_raw_files_are_read_as_tiff(tmp_path: Path, ending: str) -> None:
    made = exif(8)
    made[0x0100], made[0x0101] = 6000, 4000
    path = tmp_path / f"a{ending}"
    path.write_bytes(made.tobytes()[6:] + os.urandom(1000))
    found = read_metadata(str(path), None)
    assert (found["taken_at"], found["camera"]) == (TAKEN, "NIKON D750")
    assert (found["width"], found["height"]) == (4000, 6000)


def test_canons_boxes(tmp_path: Path) -> None:
    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data) + 8) + kind + data

    boxes = (
        box(b"ftyp", b"crx ")
        + box(b"CMT1", tiff({0x010F: "Canon", 0x0110: "Canon EOS R6"}))
        + box(b"CMT2", tiff({0x9003: "2020:01:02 03:04:05", 0xA434: "RF 35mm"}))
        + box(b"CMT4", b"II*\0 damaged")
    )
    (tmp_path / "a.cr3").write_bytes(boxes)
    assert read_metadata(str(tmp_path / "a.cr3"), None) == {
        "taken_at": datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
        "camera": "Canon EOS R6",
        "lens": "RF 35mm",
    }


def test_boxes_of_jpeg_xl(tmp_path: Path) -> None:
    parts = [(b"JXL ", b"\r\n\x87\n"), (b"Exif", bytes(4) + exif().tobytes()[6:])]
    parts += [(b"jxlc", b"pixels"), (b"xml ", xmp(xmp_Rating="3"))]
    data = b"".join(struct.pack(">I", len(body) + 8) + kind + body for kind, body in parts)
    (tmp_path / "a.jxl").write_bytes(data)
    found = read_metadata(str(tmp_path / "a.jxl"), None)
    assert (found["taken_at"], found["rating"]) == (TAKEN, 3)


BOMB = b"""<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>
<!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]><x:xmpmeta xmlns:x='adobe:ns:meta/'>&b;</x:xmpmeta>"""
OUTSIDE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/hostname'>]>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description
xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>&a;</dc:title></rdf:Description></rdf:RDF>"""


@pytest.mark.parametrize(
    "hostile",
    [BOMB, OUTSIDE, b"<a>" * 300_000, b"not XML", b"", b"\0" * 9_000_000, xmp()[:-80]],
    ids=["entities", "outside", "deep", "text", "empty", "huge", "cut"],
)
def test_hostile_xmp_only_leaves_its_values_out(tmp_path: Path, hostile: bytes) -> None:
    path = photo(tmp_path / "a.jpg", exif=exif())
    (tmp_path / "a.xmp").write_bytes(hostile)
    found = read_metadata(path, str(tmp_path / "a.xmp"))
    assert found["camera"] == "NIKON D750"
    assert "title" not in found


def test_a_directory_that_names_the_same_value_very_often_is_read_within_bounds(
    tmp_path: Path,
) -> None:
    """60,000 entries of 16 MB each would be a terabyte of copies."""
    size = 16_000_000
    entries = b"".join(struct.pack("<HHII", tag, 7, size, 8) for tag in range(0xC000, 0xFFFF))
    data = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
    data += struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    for name in ("a.tif", "a.dng"):
        (tmp_path / name).write_bytes(data)
        assert read_metadata(str(tmp_path / name), None) == {}
    png = photo(tmp_path / "a.png", "PNG")
    body = b"eXIf" + b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 16_000)
    body += b"".join(struct.pack("<HHII", tag, 7, 190_000, 8) for tag in range(16_000)) + bytes(4)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    head = Path(png).read_bytes()
    Path(png).write_bytes(head[:33] + chunk + head[33:])
    assert read_metadata(png, None) == {"width": 40, "height": 30}


@pytest.mark.parametrize("ending", [".jpg", ".dng", ".cr3", ".jxl", ".heic", ".tif"])
def test_what_is_no_photo_has_no_metadata(tmp_path: Path, ending: str) -> None:
    for number, data in enumerate((b"", b"\0", os.urandom(5_000), b"II*\0\x08\0\0\0\xff\xff")):
        path = tmp_path / f"{number}{ending}"
        path.write_bytes(data)
        assert read_metadata(str(path), str(tmp_path / "gone.xmp")) == {}
    assert read_metadata(str(tmp_path / "gone.jpg"), None) == {}


def test_texts_are_bounded_and_clean(tmp_path: Path) -> None:
    made = exif()
    made[0x010E] = "a\x07b\x1b[31m" + "c" * 20_000
    made[0x0110] = "Model\0rest"
    made[0x9C9E] = "ä;b; ".encode("utf-16-le")
    found = read_metadata(photo(tmp_path / "a.jpg", exif=made), None)
    assert found["camera"] == "NIKON CORPORATION Model"
    assert str(found["caption"]).startswith("ab[31mccc")
    assert len(str(found["caption"])) == 8_000
    assert found["keywords"] == ["ä", "b"]


def test_what_cameras_always_write_is_no_caption(tmp_path: Path) -> None:
    made = exif()
    made[0x010E] = "OLYMPUS DIGITAL CAMERA         "
    assert "caption" not in read_metadata(photo(tmp_path / "a.jpg", exif=made), None)


def test_nested_xmp_takes_no_square_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(xmp_module, "_values", lambda element: read.append(element) or [""])
    opening, closing = "<rdf:RDF><rdf:Description><a>", "</a></rdf:Description></rdf:RDF>"
    space = "xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'"
    sidecar = tmp_path / "a.xmp"
    sidecar.write_text(f"<x {space}>{opening * 1_000}{closing * 1_000}</x>")
    read_metadata(photo(tmp_path / "a.jpg"), str(sidecar))
    assert len(read) == 1
