"""What decoding an image will cost, read from its bytes and its header, before it is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from embedder_server.images.preprocessing import MAX_EXCESS

_MIB = 1024 * 1024
_WIDEST = 4  # bytes of a pixel in Pillow
# Besides pictures: Python's objects, codec tables, freed but unreturned pieces.
_OVERHEAD_BYTES = 6 * _MIB
# A recipe may resize an image to the model's side and crop it then, so that a long one takes more.
_USUAL_RATIO = 4
# The model's input in float32 RGB, what it is made of, and a resized image of the usual shape.
_INPUT_BYTES = 3 * 3 * 4 + _USUAL_RATIO * _WIDEST
_FIRST_PICTURE_BYTES = 6 * _MIB
_FILE_COPIES = 2  # in shared memory, and the decoder's own
_ROUNDING = 1.1  # pages, arenas, row padding
_BYTES_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Two canvases of libwebp, which last as long as the image. What else it needs is freed before
# Pillow converts the picture.
_WEBP_BUFFERS = 2 * _WIDEST
# Planes of colour, and the RGB that they become; of each pixel. Measured, with 8 and 10 bits.
_HEIF_BUFFERS, _DEEP_HEIF_BUFFERS = 8, 12
# GIF and BMP: a frame beside its canvas; pixels that Python unpacked.
_BUFFERS = {"WEBP": _WEBP_BUFFERS, "AVIF": 14, "GIF": 2, "BMP": 2}
# What lasts as long as the image.
_KEPT = {"WEBP": _WEBP_BUFFERS, "HEIF": 4, "AVIF": 8}
_HEIF_OVERHEAD_BYTES = 12 * _MIB  # the stack of its decoder's thread, and tables
# Lossless: 32 bits for each sample, beside the result.
_JXL_BUFFERS = 16
_RAW_FILE_COPIES = 3  # LibRaw's, its preview, and ours of the preview
_PROFILE_COPIES = 3
_COEFFICIENT_BYTES = 2
_CONTIGUOUS = 1
_JXL_BOX = b"\0\0\0\x0cJXL "
_JXL_MAGIC = b"\xff\x0a"
_JXL_SIZE_BYTES = 10
_JXL_SIDE_BITS = (9, 13, 18, 30)
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_MOST_BOXES = 100
# JPEG markers without a length: TEM and RST0 to RST7.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_SOS, _EOI = 0xDA, 0xD9


class MemoryNeeded(Exception):
    """Decoding needs more memory than it may have: `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"decoding needs {size} bytes")
        self.size = size


def decoding_bytes(
    image: Image.Image,
    file_bytes: int,
    full_pixels: int,
    *,
    scans: int,
    model_side: int,
    turned: bool,
) -> int:
    """Return the most memory that decoding takes, from the file to upright RGB, in bytes.

    Args:
        image: Opened and drafted.
        file_bytes: Of the file, and of those around it.
        full_pixels: Pixels before drafting.
        scans: What `jpeg_scans` returned.
        model_side: Side of the square the model sees, in pixels.
        turned: It is mirrored or lies on its side.
    """
    pixels = image.width * image.height
    decoded = pixels * _BYTES_OF_MODE.get(image.mode, _WIDEST)
    converted = pixels * _converted_bytes(image, turned=turned)
    codec = _codec_bytes(image, full_pixels, scans)
    profile = image.info.get("icc_profile") or b""
    # Most decoders end before the picture is converted.
    working = max(converted + full_pixels * _KEPT.get(image.format or "", 0), codec)
    working += _PROFILE_COPIES * len(profile)
    return _with_overhead(decoded + working, image.size, file_bytes, model_side)


def _converted_bytes(image: Image.Image, *, turned: bool) -> int:
    """Return the bytes of a pixel in the pictures that the decoded one becomes, at most at once."""
    rgb = 0 if image.mode == "RGB" and not image.info.get("icc_profile") else _WIDEST
    if image.has_transparency_data:
        return rgb + _WIDEST  # RGBA, and RGB on white
    if turned:
        return rgb + _WIDEST
    return rgb + (image.mode == "F" or image.mode.startswith("I"))  # grey of 8 bits


def webp_bytes(size: tuple[int, int], file_bytes: int, model_side: int) -> int:
    """Return what `decoding_bytes` returns at most for a WebP file, before it is opened."""
    pictures = size[0] * size[1] * (3 * _WIDEST + _WEBP_BUFFERS)
    return _with_overhead(pictures, size, file_bytes, model_side)


def jxl_bytes(size: tuple[int, int], file_bytes: int, model_side: int) -> int:
    """Return what decoding a JPEG XL file takes, before it is opened."""
    pictures = size[0] * size[1] * (_WIDEST + _JXL_BUFFERS)
    return _with_overhead(pictures, size, file_bytes, model_side)


def raw_bytes(file_bytes: int, model_side: int) -> int:
    """Return what finding the preview in a raw file takes."""
    return _base_bytes(file_bytes, model_side) + _RAW_FILE_COPIES * file_bytes


def _with_overhead(pictures: float, size: tuple[int, int], file_bytes: int, model_side: int) -> int:
    resized = _WIDEST * model_side * max(size)
    return _base_bytes(file_bytes, model_side) + int((pictures + resized) * _ROUNDING)


def _base_bytes(file_bytes: int, model_side: int) -> int:
    return _OVERHEAD_BYTES + _FILE_COPIES * file_bytes + _INPUT_BYTES * model_side**2


def stretched_bytes(size: tuple[int, int], model_side: int) -> int:
    """Return what resizing an image takes that is longer than usual; part of no other number."""
    ratio = min(MAX_EXCESS, max(size) / min(size))
    return int(max(0.0, ratio - _USUAL_RATIO) * _WIDEST * model_side**2)


def first_bytes(file_bytes: int, model_side: int) -> int:
    """Return what opening a file may take before its cost is known; most photos need no more."""
    return _base_bytes(file_bytes, model_side) + _FIRST_PICTURE_BYTES


def _codec_bytes(image: Image.Image, full_pixels: int, scans: int) -> float:
    """Return what the decoder itself holds besides the picture."""
    match image.format:
        case "JPEG" | "MPO":
            # libjpeg keeps the coefficients of a file with several scans, draft or not.
            return full_pixels * _samples(image) * _COEFFICIENT_BYTES if scans > 1 else 0
        case "HEIF":
            deep = image.info.get("bit_depth", 8) > 8
            buffers = _DEEP_HEIF_BUFFERS if deep else _HEIF_BUFFERS
            return full_pixels * buffers + _HEIF_OVERHEAD_BYTES
        case "TIFF":
            return tiff_chunk_pixels(image) * _tiff_sample_bytes(image)
        case _:
            return full_pixels * _BUFFERS.get(image.format or "", 0)  # else a few rows


def _samples(image: Image.Image) -> float:
    """Return how many samples a JPEG has for one pixel: 3, or 1.5 if colours are halved."""
    sampling = [(across, down) for _, across, down, _ in getattr(image, "layer", ())]
    block = max((across for across, _ in sampling), default=1)
    block *= max((down for _, down in sampling), default=1)
    return float(sum(across * down for across, down in sampling) / max(1, block))


def tiff_chunk_pixels(image: Image.Image) -> int:
    """Return the pixels of one tile or strip of a TIFF, which is decoded as a whole."""
    if not isinstance(image, TiffImageFile):
        return 0
    tags = image.tag_v2
    width, height = tags.get(TILEWIDTH), tags.get(TILELENGTH)
    if isinstance(width, int) and isinstance(height, int):
        return width * height
    # A picture that lies on its side already has its upright size here, so take the longer side.
    longest = max(image.size)
    rows = tags.get(ROWSPERSTRIP)
    return longest * min(longest, rows if isinstance(rows, int) else longest)


def _tiff_sample_bytes(image: Image.Image) -> float:
    """Return the bytes of one pixel as the file holds it."""
    if not isinstance(image, TiffImageFile):
        return 0
    bits = image.tag_v2.get(BITSPERSAMPLE, (1,))
    samples = image.tag_v2.get(SAMPLESPERPIXEL, 1)
    if image.tag_v2.get(PLANAR_CONFIGURATION, _CONTIGUOUS) != _CONTIGUOUS:
        samples = 1
    # JPEG and YCbCr chunks are unpacked to RGBA.
    return float(max(_WIDEST, max(bits) * samples / 8))


def webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP file, which its decoder allocates when it is opened."""
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        wide, high = head[24:27] + b"\0", head[27:30] + b"\0"
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(head) >= 30:
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG XL file, which its decoder decodes when it opens it."""
    head = _codestream_head(data)
    if not head.startswith(_JXL_MAGIC):
        return None
    bits = int.from_bytes(head[len(_JXL_MAGIC) :], "little")
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return (bits >> at - count) & ((1 << count) - 1)

    def side(small: int) -> int:
        return 8 * (read(5) + 1) if small else read(_JXL_SIDE_BITS[read(2)]) + 1

    small = read(1)
    height = side(small)
    ratio = read(3)
    if ratio == 0:
        return side(small), height
    across, down = _JXL_RATIOS[ratio - 1]
    return height * across // down, height


def _codestream_head(data: bytes) -> bytes:
    """Return the first bytes of a JPEG XL picture; its file may split it over several boxes."""
    wanted = len(_JXL_MAGIC) + _JXL_SIZE_BYTES
    if data.startswith(_JXL_MAGIC):
        return data[:wanted]
    head = b""
    at = 0 if data.startswith(_JXL_BOX) else len(data)
    for _ in range(_MOST_BOXES):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + 8
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
            start = at + 16
        end = at + size if size else len(data)
        if kind in (b"jxlc", b"jxlp"):
            # A part begins with its number.
            head += data[start + 4 * (kind == b"jxlp") : min(end, start + 4 + wanted)]
        if len(head) >= wanted or kind == b"jxlc" or end < start:  # or nonsense
            break
        at = end
    return head[:wanted]


def jpeg_scans(image: Image.Image, data: bytes, most: int) -> int:
    """Return how many scans of a JPEG are decoded. Each may go over the whole picture.

    Exact if there seem to be more than `most`; otherwise metadata may have been counted, too.
    """
    first = next(scan_headers(data), len(data))
    components = data[first + 2] if first + 2 < len(data) else 0
    if components == len(getattr(image, "layer", ())) and not image.info.get("progressive"):
        return 1  # libjpeg stops after a scan that has everything
    found = data.count(bytes((0xFF, _SOS)))
    return found if found <= most else sum(1 for _ in scan_headers(data))


def scan_headers(data: bytes) -> Iterator[int]:
    """Yield where the header of each scan begins, as libjpeg goes through a file.

    It skips to the next marker, whatever is before it, and then over that marker's segment.
    """
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2
        if marker == 0 or marker in _BARE_MARKERS:
            continue
        if marker == _EOI:
            return
        if marker == _SOS:
            yield at
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
