"""Recognise image formats by their first bytes, never by a name that somebody gave them.

Shared by the worker, which decodes the bytes, and the gateway, which labels downloads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An image format that workers read.

    Attributes:
        pillow_name: The one Pillow plugin that may open it.
        media_type: As in a Content-Type header.
    """

    pillow_name: str
    media_type: str


_JPEG = ImageFormat("JPEG", "image/jpeg")
_PNG = ImageFormat("PNG", "image/png")
_GIF = ImageFormat("GIF", "image/gif")
_WEBP = ImageFormat("WEBP", "image/webp")
_BMP = ImageFormat("BMP", "image/bmp")
_TIFF = ImageFormat("TIFF", "image/tiff")

_MAGIC = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _BMP),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"II+\0", _TIFF),
    (b"MM\0+", _TIFF),
)


def image_format(head: bytes) -> ImageFormat | None:
    """Return the format of a file that begins with `head`, 12 bytes or more; None if unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    return next((found for magic, found in _MAGIC if head.startswith(magic)), None)
