"""Raw files as cameras write them, small: a sensor's picture beside a JPEG preview."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4
_FORMATS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I"}
SENSOR = (96, 64)
_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_MAKE, _MODEL, _STRIP, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES = (
    271, 272, 273, 274, 277, 278, 279,
)  # fmt: skip
_SUB_IFDS, _JPEG, _JPEG_BYTES = 330, 513, 514
_CFA_SIZE, _CFA_PATTERN, _DNG_VERSION, _DNG_MODEL = 33421, 33422, 50706, 50708
_CFA, _YCBCR, _RGB = 32803, 6, 2
_PLAIN, _OLD_JPEG, _NEW_JPEG = 1, 6, 7
_PREVIEW = 1

Tags = Mapping[int, tuple[int, Sequence[int]]]


def text(value: str) -> tuple[int, Sequence[int]]:
    return ASCII, value.encode() + b"\0"


class _Tiff:
    """A little-endian TIFF, written piece by piece after a head of `start` bytes."""

    def __init__(self, start: int = 8) -> None:
        self.body = bytearray(start)

    def add(self, data: bytes) -> int:
        """Return where the data lies."""
        at = len(self.body)
        self.body += data + bytes(len(data) % 2)
        return at

    def directory(self, tags: Tags, following: int = 0) -> int:
        entries = b""
        for tag, (kind, numbers) in sorted(tags.items()):
            packed = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
            place = packed.ljust(4, b"\0") if len(packed) <= 4 else _long(self.add(packed))
            entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
        return self.add(struct.pack("<H", len(tags)) + entries + _long(following))

    def file(self, first: int, mark: bytes = b"") -> bytes:
        head = b"II*\0" + _long(first) + mark
        return head + bytes(self.body[len(head) :])


def _long(value: int) -> bytes:
    return struct.pack("<I", value)


def _sensor(tiff: _Tiff, compression: int = _PLAIN) -> dict[int, tuple[int, Sequence[int]]]:
    width, height = SENSOR
    pixels = struct.pack("<H", 2000) * (width * height)
    return {
        _KIND: (LONG, [0]),
        _WIDTH: (LONG, [width]),
        _HEIGHT: (LONG, [height]),
        _BITS: (SHORT, [16]),
        _COMPRESSION: (SHORT, [compression]),
        _PHOTOMETRIC: (SHORT, [_CFA]),
        _STRIP: (LONG, [tiff.add(pixels)]),
        _SAMPLES: (SHORT, [1]),
        _ROWS: (LONG, [height]),
        _STRIP_BYTES: (LONG, [len(pixels)]),
        _CFA_SIZE: (SHORT, [2, 2]),
        _CFA_PATTERN: (BYTE, [0, 1, 1, 2]),
    }


def dng(
    preview: bytes | None,
    size: tuple[int, int] = (0, 0),
    orientation: int = 1,
    *,
    plain: bool = False,
) -> bytes:
    """A DNG with a preview as a JPEG, or as plain pixels; without one the sensor's comes first."""
    tiff = _Tiff()
    own = {
        _MAKE: text("Acme"),
        _MODEL: text("Raw 1"),
        _ORIENTATION: (SHORT, [orientation]),
        _DNG_VERSION: (BYTE, [1, 4, 0, 0]),
        _DNG_MODEL: text("Acme Raw 1"),
    }
    if preview is None:
        return tiff.file(tiff.directory({**_sensor(tiff), **own}))
    raw = tiff.directory(_sensor(tiff))
    return tiff.file(
        tiff.directory(
            {
                _KIND: (LONG, [_PREVIEW]),
                _WIDTH: (LONG, [size[0]]),
                _HEIGHT: (LONG, [size[1]]),
                _BITS: (SHORT, [8, 8, 8]),
                _COMPRESSION: (SHORT, [_PLAIN if plain else _NEW_JPEG]),
                _PHOTOMETRIC: (SHORT, [_RGB if plain else _YCBCR]),
                _STRIP: (LONG, [tiff.add(preview)]),
                _SAMPLES: (SHORT, [3]),
                _ROWS: (LONG, [size[1]]),
                _STRIP_BYTES: (LONG, [len(preview)]),
                _SUB_IFDS: (LONG, [raw]),
                **own,
            }
        )
    )


def _with_jpeg_ifd(
    make: str, model: str, preview: bytes, orientation: int, compression: int
) -> bytes:
    tiff = _Tiff()
    place = {_JPEG: (LONG, [tiff.add(preview)]), _JPEG_BYTES: (LONG, [len(preview)])}
    previews = tiff.directory(
        {_KIND: (LONG, [_PREVIEW]), _COMPRESSION: (SHORT, [_OLD_JPEG]), **place}
    )
    raw = tiff.directory(_sensor(tiff, compression))
    thumb = tiff.add(bytes(16 * 12 * 3))
    return tiff.file(
        tiff.directory(
            {
                _KIND: (LONG, [_PREVIEW]),
                _WIDTH: (LONG, [16]),
                _HEIGHT: (LONG, [12]),
                _BITS: (SHORT, [8, 8, 8]),
                _COMPRESSION: (SHORT, [_PLAIN]),
                _PHOTOMETRIC: (SHORT, [_RGB]),
                _STRIP: (LONG, [thumb]),
                _SAMPLES: (SHORT, [3]),
                _ROWS: (LONG, [12]),
                _STRIP_BYTES: (LONG, [16 * 12 * 3]),
                _MAKE: text(make),
                _MODEL: text(model),
                _ORIENTATION: (SHORT, [orientation]),
                _SUB_IFDS: (LONG, [previews, raw]),
            }
        )
    )


def nef(preview: bytes, orientation: int = 1) -> bytes:
    return _with_jpeg_ifd("NIKON CORPORATION", "NIKON Z 99", preview, orientation, _PLAIN)


def arw(preview: bytes, orientation: int = 1) -> bytes:
    tiff = _Tiff()
    raw = tiff.directory(_sensor(tiff, _PLAIN))
    return tiff.file(
        tiff.directory(
            {
                _KIND: (LONG, [_PREVIEW]),
                _COMPRESSION: (SHORT, [_OLD_JPEG]),
                _MAKE: text("SONY"),
                _MODEL: text("ILCE-7M3"),
                _ORIENTATION: (SHORT, [orientation]),
                _SUB_IFDS: (LONG, [raw]),
                _JPEG: (LONG, [tiff.add(preview)]),
                _JPEG_BYTES: (LONG, [len(preview)]),
            }
        )
    )


def cr2(preview: bytes, size: tuple[int, int], orientation: int = 1) -> bytes:
    tiff = _Tiff(16)
    raw = tiff.directory(_sensor(tiff))
    first = tiff.directory(
        {
            _WIDTH: (LONG, [size[0]]),
            _HEIGHT: (LONG, [size[1]]),
            _BITS: (SHORT, [8, 8, 8]),
            _COMPRESSION: (SHORT, [_OLD_JPEG]),
            _MAKE: text("Canon"),
            _MODEL: text("Canon EOS 5D"),
            _STRIP: (LONG, [tiff.add(preview)]),
            _ORIENTATION: (SHORT, [orientation]),
            _STRIP_BYTES: (LONG, [len(preview)]),
        },
        raw,
    )
    return tiff.file(first, b"CR\x02\0" + _long(raw))
