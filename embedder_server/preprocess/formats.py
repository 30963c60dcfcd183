"""Which image format some bytes are, by the bytes alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A format we read.

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
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"data:", "a data: URL"),
    # What base64 makes of the first bytes of JPEG, PNG, GIF and WebP.
    (b"/9j/", "base64 text; send the bytes themselves"),
    (b"iVBORw0KGgo", "base64 text; send the bytes themselves"),
    (b"R0lGOD", "base64 text; send the bytes themselves"),
    (b"UklGR", "base64 text; send the bytes themselves"),
)


def sniff(data: bytes) -> ImageFormat | None:
    """Return the format that `data` begins like, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WEBP
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def what_instead(data: bytes) -> str:
    """Return what bytes of no format we read seem to be, for an error message."""
    if data[4:8] == b"ftyp":
        return "the bytes are a HEIC, AVIF or video file"
    head = data[:64].lstrip().lower()
    for magic, name in _OTHERS:
        if head.startswith(magic.lower()):
            return f"the bytes are {name}"
    return "the bytes are no image that this worker reads"
