"""Remove from an image file what its pixels do not need, so that it never costs the picture."""

from __future__ import annotations

import zlib

from sentinel_core.image_formats import ImageFormat

_PNG_MAGIC_BYTES = 8
_PNG_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_HELPFUL = (b"tRNS", b"eXIf")  # if they are sound
_SOS = 0xDA
# APP0 to APP15 and comments. APP1 has the orientation, and APP14 how colours are coded.
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
_EXIF, _ADOBE = 0xE1, 0xEE
_ADOBE_BYTES = 14


def without_metadata(data: bytes, kind: ImageFormat) -> bytes:
    """Return a PNG or JPEG file without metadata except its orientation; another one as it is."""
    match kind.name:
        case "PNG":
            return _png(data)
        case "JPEG":
            return _jpeg(data)
        case _:
            return data


def _png(data: bytes) -> bytes:
    kept = [data[:_PNG_MAGIC_BYTES]]
    at = _PNG_MAGIC_BYTES
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _PNG_NEEDED or (kind in _PNG_HELPFUL and _is_sound(data[at + 4 : end])):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[:-4]).to_bytes(4, "big") == chunk[-4:]


def _jpeg(data: bytes) -> bytes:
    """Copy the segments before the first scan that are needed, and everything after them."""
    kept = [data[:2]]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SOS:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if marker not in _JPEG_METADATA or _is_needed(marker, data[at + 4 : end]):
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    return b"".join(kept)


def _is_needed(marker: int, body: bytes) -> bool:
    if marker == _ADOBE:
        return body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES - 2
    return marker == _EXIF and body.startswith(b"Exif\0\0")
