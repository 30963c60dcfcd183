"""Recognise image formats by their bytes, never by a name that somebody gave them.

Shared by the worker, which decodes the bytes, and the gateway, which labels downloads. Raw files of
most cameras begin like a TIFF, and HEIC, AVIF, Canon's CR3 and videos are all ISO media files, so
that a few bytes more than a magic number decide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An image format that workers read.

    Attributes:
        name: The one Pillow plugin that may open it; RAW for a camera's raw file.
        media_type: As in a Content-Type header.
    """

    name: str
    media_type: str


RAW = "RAW"
_JPEG = ImageFormat("JPEG", "image/jpeg")
_PNG = ImageFormat("PNG", "image/png")
_GIF = ImageFormat("GIF", "image/gif")
_WEBP = ImageFormat("WEBP", "image/webp")
_BMP = ImageFormat("BMP", "image/bmp")
_TIFF = ImageFormat("TIFF", "image/tiff")
_HEIC = ImageFormat("HEIF", "image/heic")
_HEIF = ImageFormat("HEIF", "image/heif")
_AVIF = ImageFormat("AVIF", "image/avif")
_JXL = ImageFormat("JXL", "image/jxl")
_DNG = ImageFormat(RAW, "image/x-adobe-dng")
_CR2 = ImageFormat(RAW, "image/x-canon-cr2")
_CR3 = ImageFormat(RAW, "image/x-canon-cr3")
_OTHER_RAW = ImageFormat(RAW, "image/x-raw")
# By how the name of the camera's maker begins.
_RAW_OF_MAKER = (
    (b"NIKON", ImageFormat(RAW, "image/x-nikon-nef")),
    (b"SONY", ImageFormat(RAW, "image/x-sony-arw")),
    (b"PENTAX", ImageFormat(RAW, "image/x-pentax-pef")),
    (b"SAMSUNG", ImageFormat(RAW, "image/x-samsung-srw")),
)

_MAGIC = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _BMP),
    (b"\xff\x0a", _JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (b"FUJIFILMCCD-RAW", ImageFormat(RAW, "image/x-fuji-raf")),
    (b"IIU\0", ImageFormat(RAW, "image/x-panasonic-rw2")),
    (b"IIRO", ImageFormat(RAW, "image/x-olympus-orf")),
    (b"IIRS", ImageFormat(RAW, "image/x-olympus-orf")),
    (b"MMOR", ImageFormat(RAW, "image/x-olympus-orf")),
    (b"II+\0", _TIFF),
    (b"MM\0+", _TIFF),
)
# Brands of ISO media files. The first one decides; the general ones leave it to the others.
_BRANDS = {
    b"crx ": _CR3,
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), _HEIC
    ),
}
_GENERAL_BRANDS = (b"mif1", b"mif2", b"msf1", b"miaf")
_MOST_BRAND_BYTES = 256

_MAKE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 271, 262, 330, 50706
_SENSOR_PATTERN, _LINEAR_RAW = 32803, 34892
_MOST_ENTRIES, _MOST_DIRECTORIES = 1000, 10
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I"}  # of a TIFF's values, as `struct` names them


def image_format(head: bytes) -> ImageFormat | None:
    """Return the format of a file that begins with `head`; None if it is unknown.

    12 bytes tell most formats. For TIFF and raw files give all bytes or the first megabyte.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _CR2 if head[8:10] == b"CR" else _raw_of_tiff(head) or _TIFF
    return next((found for magic, found in _MAGIC if head.startswith(magic)), None)


def _of_brands(head: bytes) -> ImageFormat | None:
    end = min(int.from_bytes(head[:4], "big"), _MOST_BRAND_BYTES, len(head))
    # After the first brand comes a version.
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    if brands[0] in _BRANDS:
        return _BRANDS[brands[0]]
    if brands[0] not in _GENERAL_BRANDS:  # a video, whatever else it claims
        return None
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), _HEIF)


def _raw_of_tiff(head: bytes) -> ImageFormat | None:
    """Return the format of a raw file that begins like a TIFF; None if it seems to be a TIFF.

    A raw file says in one of its directories that its pixels are a sensor's.
    """
    order = "<" if head[:2] == b"II" else ">"
    places = [_number(head, 4, order, "I")]
    maker = b""
    is_raw = False
    for seen in range(_MOST_DIRECTORIES):
        if seen >= len(places):
            break
        for tag, kind, count, at in _entries(head, places[seen], order):
            if tag == _DNG_VERSION:
                return _DNG
            if tag == _MAKE and not maker:
                maker = head[at : at + min(count, 16)].upper()
            elif tag == _PHOTOMETRIC and kind in _TYPES:
                is_raw |= _number(head, at, order, _TYPES[kind]) in (_SENSOR_PATTERN, _LINEAR_RAW)
            elif tag == _SUB_IFDS and not seen:
                places += [
                    _number(head, at + 4 * n, order, "I")
                    for n in range(min(count, _MOST_DIRECTORIES))
                ]
    if not is_raw:
        return None
    return next((found for name, found in _RAW_OF_MAKER if maker.startswith(name)), _OTHER_RAW)


def _entries(head: bytes, start: int, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, count and the place of the value of each entry of a TIFF's directory."""
    for number in range(min(_number(head, start, order, "H"), _MOST_ENTRIES)):
        at = start + 2 + 12 * number
        if at + 12 > len(head):
            return
        tag, kind, count = struct.unpack_from(f"{order}HHI", head, at)
        size = struct.calcsize(_TYPES.get(kind, "B")) * count
        yield tag, kind, count, at + 8 if size <= 4 else _number(head, at + 8, order, "I")


def _number(head: bytes, at: int, order: str, kind: str) -> int:
    """Return a number of a TIFF, 0 where the bytes end."""
    if at + struct.calcsize(kind) > len(head):
        return 0
    return int(struct.unpack_from(order + kind, head, at)[0])
