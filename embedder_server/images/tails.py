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

import numpy as np
from PIL import Image, ImageFile

from embedder_server.images.colours import bands
from embedder_server.images.costs import scan_headers

MOST_MISSING = 0.02
_EOI = b"\xff\xd9"
_SOS, _DRI, _RST = 0xDA, 0xDD, 0xD0
_NEXT_DRI = b"\xff\xdd\0\4"
# The markers that begin a frame: SOF0 to SOF15 without DHT, JPG and DAC.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ALL_COEFFICIENTS = frozenset(range(64))
# Decode at a fourth of the size to compare: less does not show the details of a last scan.
COMPARED_SCALE = 4
# Rows of two rows of blocks then: the one in which the file ends, and one that it may change, too.
_ROWS_OF_BLOCKS = 8
# What continues a file must fill more than these rows. Blocks of 16 x 16 pixels take about 75
# random bytes each.
_BYTES_OF_BLOCKS = 75
_REST_OF_PIXELS = 16
_LEAST_RESTARTS = 8
_LEAST_REST, _MOST_REST = 4096, 8 * 1024 * 1024
_GREY, _BLACK = 128, 0
_WEBP_PICTURES = (b"VP8 ", b"VP8L")
_WEBP_NEEDED = (*_WEBP_PICTURES, b"ALPH", b"ANMF")


class _Frame(NamedTuple):
    """What the header of a JPEG's picture says."""

    width: int
    height: int
    components: bytes  # their numbers
    restart_interval: int  # in blocks; 0: no restarts


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
    first, second = (decode(data + rest + _EOI, detail) for rest in _rests(data, frame))
    return data + _EOI if _are_nearly_the_same(first, second) else None


def _are_nearly_the_same(first: Image.Image, second: Image.Image) -> bool:
    """Return whether two decodings of a file differ in no more than may be missing.

    Files begin at the top: below the first difference, everything is missing.
    """
    differing = np.concatenate(
        [
            (some != others).reshape(*some.shape[:2], -1).any(axis=-1).sum(axis=1)
            for (_, some), (_, others) in zip(bands(first), bands(second), strict=True)
        ]
    )
    top = int(np.argmax(differing > 0)) if differing.any() else first.height
    bottom = min(first.height, top + _ROWS_OF_BLOCKS)
    missing = int(differing[top:bottom].sum()) + (first.height - bottom) * first.width
    return missing <= MOST_MISSING * first.width * first.height


def _rests(data: bytes, frame: _Frame) -> Iterator[bytes]:
    """Yield two ways in which the last scan of a JPEG could go on."""
    size = max(_LEAST_REST, min(_MOST_REST, frame.width * frame.height // _REST_OF_PIXELS))
    # Decoders read no further than the next restart marker, so a rest needs them, too.
    part = min(frame.restart_interval * _BYTES_OF_BLOCKS or size, _MOST_REST // _LEAST_RESTARTS)
    scan = data.rfind(bytes((0xFF, _SOS)))
    last = max(range(8), key=lambda number: data.rfind(bytes((0xFF, _RST + number)), scan))
    first = last + 1 if data.find(bytes((0xFF, _RST + last)), scan) >= 0 else 0
    count = max(_LEAST_RESTARTS, size // part) if frame.restart_interval else 1
    for seed in (1, 2):
        make = random.Random(seed)
        rest = bytearray()
        for number in range(first, first + count):
            rest += make.randbytes(part).replace(b"\xff", b"\0")  # no other markers
            rest += bytes((0xFF, _RST + number % 8))
        yield bytes(rest)


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
    """Return what the segments before the first scan of a JPEG say of its picture."""
    at, interval = 2, 0
    frame = None
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] != _SOS:
        if data[at + 1] in _FRAMES:
            height, width, count = struct.unpack_from(">HHB", data, at + 5)
            frame = _Frame(width, height, data[at + 10 : at + 10 + 3 * count : 3], 0)
        elif data[at + 1] == _DRI:
            interval = int.from_bytes(data[at + 4 : at + 6], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    later = data.rfind(_NEXT_DRI, at)
    if later >= 0:
        interval = int.from_bytes(data[later + 4 : later + 6], "big")
    return frame and frame._replace(restart_interval=interval)


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
