"""Read image files that end a little too early, as every viewer does, but never half an image.

A transfer that stopped, or a camera that lost power, leaves files without their last bytes. At most
`MOST_MISSING` of the picture may be missing; it is grey or black then. To learn what is missing,
decode the file in two ways that differ only there.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from PIL import Image, ImageFile

from embedder_server.images.colours import bands
from embedder_server.images.costs import scan_headers

MOST_MISSING = 0.02
_EOI = b"\xff\xd9"
# The markers that begin a frame: SOF0 to SOF15 without DHT, JPG and DAC.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ALL_COEFFICIENTS = frozenset(range(64))
# Decode at a fourth of the size to compare: less does not show the details of a last scan.
COMPARED_SCALE = 4
# What continues a file must fill more than may be missing. Of 16 x 16 pixels, random bytes fill
# about 75 each time.
_REST_OF_PIXELS = 16
_LEAST_REST, _MOST_REST = 4096, 8 * 1024 * 1024
_GREY, _BLACK = 128, 0
_WEBP_PICTURES = (b"VP8 ", b"VP8L")
_WEBP_NEEDED = (*_WEBP_PICTURES, b"ALPH", b"ANMF")


class _Frame(NamedTuple):
    """What the header of a JPEG's picture says."""

    width: int
    height: int
    components: bytes  # their numbers


def ended_jpeg(data: bytes, decode: Callable[[bytes, int], Image.Image]) -> bytes | None:
    """Return a JPEG with the end that it lacks; None if more than a little is missing.

    Args:
        data: A file that `decode` refuses.
        decode: Decodes it, with this many pixels a side or more.
    """
    data = data.rstrip(b"\xff")  # half a marker
    frame = _frame(data)
    if frame is None or not _has_all_scans(data, frame.components):
        return None
    detail = max(1, min(frame.width, frame.height) // COMPARED_SCALE)
    rests = _rests(frame.width * frame.height // _REST_OF_PIXELS)
    first, second = (decode(data + rest + _EOI, detail) for rest in rests)
    return data + _EOI if _are_nearly_the_same(first, second) else None


def _are_nearly_the_same(first: Image.Image, second: Image.Image) -> bool:
    differing = sum(
        int((some != others).reshape(*some.shape[:2], -1).any(axis=-1).sum())
        for (_, some), (_, others) in zip(bands(first), bands(second), strict=True)
    )
    return differing <= MOST_MISSING * first.width * first.height


def _rests(size: int) -> Iterator[bytes]:
    for seed in (1, 2):
        rest = random.Random(seed).randbytes(min(_MOST_REST, max(_LEAST_REST, size)))
        yield rest.replace(b"\xff", b"\0")  # no markers


def _has_all_scans(data: bytes, wanted: bytes) -> bool:
    """Return whether the last scan of a JPEG has begun: in a progressive one each adds detail."""
    final: dict[int, set[int]] = {component: set() for component in wanted}
    for at in scan_headers(data):
        count = data[at + 2] if at + 2 < len(data) else 0
        end = at + 3 + 2 * count
        if end + 3 > len(data):
            return False
        start, stop, bits = data[end : end + 3]
        if not bits & 15:  # down to the last bit
            for component in data[at + 3 : end : 2]:
                final.setdefault(component, set()).update(range(start, stop + 1))
    return bool(wanted) and all(final[component] >= _ALL_COEFFICIENTS for component in wanted)


def _frame(data: bytes) -> _Frame | None:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            height, width, count = struct.unpack_from(">HHB", data, at + 5)
            return _Frame(width, height, data[at + 10 : at + 10 + 3 * count : 3])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def whole_webp(data: bytes) -> bytes | None:
    """Return a WebP that is as long as its header says; None if its picture is not nearly whole."""
    chunks = []
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        missing = at + 8 + size + size % 2 - len(data)
        if missing > 0 and kind in _WEBP_NEEDED:
            if kind not in _WEBP_PICTURES or missing > MOST_MISSING * size:
                return None
            chunks.append(data[at:] + bytes(missing))
        elif missing <= 0:
            chunks.append(data[at : at + 8 + size + size % 2])
        at += 8 + size + size % 2
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def padded(data: bytes) -> bytes:
    """Return a BMP or TIFF that is longer by what may be missing."""
    return data + bytes(int(len(data) * MOST_MISSING))


def load_what_is_there(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> Image.Image:
    """Load a PNG or GIF that ends too early, opened twice, on canvases of two colours.

    Raises:
        ValueError: More than a little is missing.
    """
    grey, black = _load_on(image, _GREY), _load_on(again, _BLACK)
    if not _are_nearly_the_same(grey, black):
        raise ValueError("much of the picture is missing")
    grey.palette, grey.info = image.palette, image.info
    return grey


def _load_on(image: ImageFile.ImageFile, level: int) -> Image.Image:
    count = len(image.getbands())
    canvas = Image.new(image.mode, image.size, (level,) * count if count > 1 else level)
    image.im = canvas.im
    with suppress(OSError, SyntaxError):
        image.load()
    return canvas
