"""Formats are told apart by their bytes, also those that begin alike."""

from __future__ import annotations

import struct

import pytest

from sentinel_core.image_formats import image_format
from tests.embedder_server import raw_files
from tests.embedder_server.hostile_pictures import strip_tiff
from tests.embedder_server.pictures import encode, halves

PREVIEW = encode(halves((320, 200)), "JPEG")


def media_file(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + b"\0\0\0\x08mdat"


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ([b"heic", b"mif1", b"heic"], "image/heic"),  # an iPhone's
        ([b"heic", b"mif1", b"MiHB", b"MiHE", b"MiPr", b"miaf", b"heic", b"tmap"], "image/heic"),
        ([b"mif1", b"mif1", b"heic"], "image/heic"),  # Android's
        ([b"heix", b"mif1", b"heix"], "image/heic"),  # 10 bits
        ([b"heic", b"mif1", b"avif"], "image/heic"),
        ([b"hevc", b"msf1", b"hevc", b"mif1", b"heic"], "image/heic"),  # a sequence
        ([b"msf1", b"msf1", b"hevc"], "image/heic"),
        ([b"mif1", b"miaf", b"jpeg"], "image/heif"),
        ([b"avif", b"avif", b"mif1", b"miaf", b"MA1B"], "image/avif"),
        ([b"mif1", b"mif1", b"avif", b"miaf"], "image/avif"),
        ([b"avis", b"msf1", b"avis", b"avif"], "image/avif"),
        ([b"crx ", b"crx ", b"isom"], "image/x-canon-cr3"),
        ([b"isom", b"isom", b"mp41"], None),
        ([b"mp42", b"mp42", b"heic"], None),  # a video, whatever else it claims
        ([b"qt  "], None),
    ],
)
def test_media_files_are_told_apart_by_their_brands(
    brands: list[bytes], expected: str | None
) -> None:
    found = image_format(media_file(*brands))
    assert (found and found.media_type) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (raw_files.dng(PREVIEW, (320, 200)), "image/x-adobe-dng"),
        (raw_files.dng(None), "image/x-adobe-dng"),
        (raw_files.nef(PREVIEW), "image/x-nikon-nef"),
        (raw_files.arw(PREVIEW), "image/x-sony-arw"),
        (raw_files.cr2(PREVIEW, (320, 200)), "image/x-canon-cr2"),
        (encode(halves(), "TIFF"), "image/tiff"),
        # Edited on a computer: the camera is named, but the pixels are no sensor's.
        (encode(halves(), "TIFF", tiffinfo={271: "NIKON CORPORATION"}), "image/tiff"),
        (encode(halves(), "TIFF", big_tiff=True), "image/tiff"),
        (strip_tiff((20, 10), samples=1, bits=8), "image/tiff"),
        (b"FUJIFILMCCD-RAW 0201FF", "image/x-fuji-raf"),
        (b"IIU\0\x18\0\0\0\x88\xe7\x74\xd8", "image/x-panasonic-rw2"),
        (b"IIRO\x08\0\0\0\0\0\0\0", "image/x-olympus-orf"),
        (b"\xff\x0a\xfa\x1f\x01\x90\x92\x08\x06\x01\x00\x48", "image/jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "image/jxl"),
    ],
)
def test_raw_files_are_not_taken_for_tiffs(data: bytes, expected: str) -> None:
    found = image_format(data)
    assert found is not None
    assert found.media_type == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_hostile_directories_end(order: str) -> None:
    """Directories that point at themselves, at each other, or out of the file."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 330, 4, 2**32 - 1, 8, 0)
    data = mark + struct.pack(f"{order}IH", 8, 0xFFFF) + entry * 5000
    found = image_format(data)
    assert found is not None
    assert found.media_type == "image/tiff"
    for size in range(len(data[:200])):
        image_format(data[:size])
