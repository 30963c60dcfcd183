"""Small files that cost much to decode, and sound ones that decoders stumble over."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence

SHORT, LONG = 3, 4
_FORMATS = {SHORT: "H", LONG: "I"}
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP, _SAMPLES, _ROWS, _STRIP_BYTES, _SAMPLE_FORMAT = 273, 277, 278, 279, 339
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES = 322, 323, 324, 325
_DEFLATE, _GREY, _RGB, _FLOAT = 8, 1, 2, 3


def tiff(tags: Mapping[int, tuple[int, Sequence[int]]], pixels: bytes) -> bytes:
    """A little-endian TIFF: `pixels` at offset 8, then the tags, sorted, then their values."""
    directory = 8 + len(pixels) + len(pixels) % 2
    values_at = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
        if len(packed) > 4:
            place = struct.pack("<I", values_at + len(values))
            values += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
    head = b"II*\0" + struct.pack("<I", directory)
    count = struct.pack("<H", len(tags))
    return head + pixels + b"\0" * (len(pixels) % 2) + count + entries + bytes(4) + values


def strip_tiff(
    size: tuple[int, int], *, samples: int, bits: int, sample_format: int = 1, rows: int = 0
) -> bytes:
    """A TIFF of zeros in one deflated strip, or in as many strips of `rows` rows."""
    width, height = size
    raw = bytes(width * height * samples * bits // 8)
    pixels = zlib.compress(raw)
    return tiff(
        {
            _WIDTH: (LONG, [width]),
            _LENGTH: (LONG, [height]),
            _BITS: (SHORT, [bits] * samples),
            _COMPRESSION: (SHORT, [_DEFLATE]),
            _PHOTOMETRIC: (SHORT, [_RGB if samples == 3 else _GREY]),
            _STRIP: (LONG, [8]),
            _SAMPLES: (SHORT, [samples]),
            _ROWS: (LONG, [rows or height]),
            _STRIP_BYTES: (LONG, [len(pixels)]),
            _SAMPLE_FORMAT: (SHORT, [sample_format] * samples),
        },
        pixels,
    )


def float_tiff(side: int) -> bytes:
    """A grey float32 TIFF: four bytes a pixel, which deflate to next to nothing."""
    return strip_tiff((side, side), samples=1, bits=32, sample_format=_FLOAT)


def tile_tiff(tile: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of `tile` x `tile`."""
    compressor = zlib.compressobj(1)
    row = bytes(tile)
    pixels = b"".join(compressor.compress(row) for _ in range(tile)) + compressor.flush()
    return tiff(
        {
            _WIDTH: (LONG, [16]),
            _LENGTH: (LONG, [16]),
            _BITS: (SHORT, [8]),
            _COMPRESSION: (SHORT, [_DEFLATE]),
            _PHOTOMETRIC: (SHORT, [_GREY]),
            _SAMPLES: (SHORT, [1]),
            _TILE_WIDTH: (LONG, [tile]),
            _TILE_LENGTH: (LONG, [tile]),
            _TILES: (LONG, [8]),
            _TILE_BYTES: (LONG, [len(pixels)]),
        },
        pixels,
    )


def scans_jpeg(side: int, scans: int, metadata: bytes = b"") -> bytes:
    """A grey progressive JPEG with `scans` scans besides its first; each goes over all of it."""
    blocks = math.ceil(side / 8) ** 2

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    one_code = b"\x01" + bytes(15)
    run = "0" + "1" * 14  # ends 32,767 blocks
    return b"".join((
        b"\xff\xd8",
        segment(0xEF, metadata) if metadata else b"",
        segment(0xDB, b"\0" + b"\x01" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\0"),
        segment(0xC4, b"\0" + one_code + b"\0"),
        segment(0xC4, b"\x10" + one_code + b"\xe0"),
        segment(0xDA, b"\x01\x01\0" + b"\0\0\0"),
        bytes(math.ceil(blocks / 8)),
        (segment(0xDA, b"\x01\x01\0" + b"\x01\x3f\0") + _bits(run * math.ceil(blocks / 32_767)))
        * scans,
        b"\xff\xd9",
    ))  # fmt: skip


def _bits(text: str) -> bytes:
    filled = text + "1" * (-len(text) % 8)
    packed = int(filled, 2).to_bytes(len(filled) // 8, "big")
    return packed.replace(b"\xff", b"\xff\0")


def lossless_webp(side: int) -> bytes:
    """A WebP of one colour, in a few bytes whatever its side, which is at most 16,384."""
    bits, length = 0, 0
    # Sides, alpha and version; no transform, no colour cache, one group of codes. Then for green,
    # red, blue, alpha and distance a code of one symbol, which takes no bit for a pixel.
    fields = [(side - 1, 14), (side - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    for symbol in (40, 200, 40, 255, 0):
        fields += [(1, 1), (0, 1), (1, 1), (symbol, 8)]
    for value, count in fields:
        bits |= value << length
        length += count
    stream = b"\x2f" + bits.to_bytes(math.ceil(length / 8) + 1, "little")
    stream += b"\0" * (len(stream) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_with(kind: bytes, body: bytes, picture: bytes) -> bytes:
    """Insert a chunk after the header of a PNG."""
    head = 8 + 12 + 13
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return picture[:head] + struct.pack(">I", len(body)) + kind + body + checksum + picture[head:]
