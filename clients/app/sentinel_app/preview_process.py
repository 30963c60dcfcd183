"""Decode images in a process that can be killed.

* `python -m sentinel_app.preview_process SIDE` reads one file from standard input. It writes a line
  of JSON with the fields of `previews.Preview`, then the picture; or a line with the reason as
  `refused`.
* Without SIDE it reads requests until the input ends: a line with the side and the number of bytes,
  then the file. The line of each answer also has the number of `bytes` of the picture.

Imports little, since it starts often.
"""

from __future__ import annotations

import io
import json
import sys
import time
import warnings

from PIL import Image, ImageOps

from sentinel_core.image_formats import RAW, image_format

# What workers read. Pillow opens far more, among them PostScript, which starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NOT_AN_IMAGE = (
    "This file is not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG XL, RAW)."
)
MAX_PIXELS = 100_000_000
# Of decoded pixels. deploy/k8s gives the app 1.5 GiB, and previews.py runs two of these processes.
MAX_DECODED_BYTES = 200 * 2**20
# A backstop for what `decoded_bytes` does not know. Opening a WebP reserves much and uses little.
_MAX_ADDRESS_SPACE = 2 * 2**30
_MAX_CPU_S = 5
# Bytes per pixel in Pillow's memory; other modes take 4.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Measured: two canvases of the decoder, their copy and the image.
_WEBP_BYTES = 16
_JPEG_XL_BYTES = 20
# Coefficients of a progressive JPEG are kept for the whole image: 16 bits for each component.
_COEFFICIENT_BYTES = 2
# libtiff may decode the whole image as one strip of 16-bit RGBA, beside Pillow's own copy.
_TIFF_STRIP_BYTES = 8


_ORIENTATION_TAG = 0x0112
# Enough to tell a raw file from a TIFF.
_HEAD_BYTES = 2**20


class Refused(ValueError):
    """An image that is not decoded; the message says why."""


def main() -> None:
    """Decode standard input within the limits."""
    _limit_process()
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        header, shown = _answer(sys.stdin.buffer.read(), int(sys.argv[1]))
        sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + shown)
        return
    while request := sys.stdin.buffer.readline():
        side, length = map(int, request.split())
        _allow_cpu_time()
        header, shown = _answer(sys.stdin.buffer.read(length), side)
        header["bytes"] = len(shown)
        sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + shown)
        sys.stdout.buffer.flush()


def _answer(data: bytes, side: int) -> tuple[dict[str, object], bytes]:
    try:
        return decode(data, side)
    except Refused as error:
        return {"refused": str(error)}, b""


def _allow_cpu_time() -> None:
    """Limit the time of the next image, not of all together."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = int(time.process_time()) + 1 + _MAX_CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _limit_process() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, hard))
        if sys.platform == "linux":  # elsewhere it has no effect, or it fails
            resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))


def decode(data: bytes, side: int) -> tuple[dict[str, object], bytes]:
    """Return facts about an image, and an upright copy of at most `side` pixels a side.

    Raises:
        Refused: It is no image, is damaged, or costs too much.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limits are below
    try:
        try:
            size, name, shown = _with_pillow(data, side)
        except (Refused, MemoryError):
            raise
        except Exception:  # decoders raise many types
            size, name, shown = _as_workers_do(data, side)
    except MemoryError as error:
        raise Refused(_too_costly(MAX_DECODED_BYTES)) from error
    shown.thumbnail((side, side))
    clear = shown.mode == "RGBA"
    out = io.BytesIO()
    if clear:
        profile = shown.info.get("icc_profile")
        shown.save(out, "WEBP", quality=90, method=1, icc_profile=profile)
    else:
        shown.save(out, "JPEG", quality=88)
    media_type = "image/webp" if clear else "image/jpeg"
    facts = {"format": name, "width": size[0], "height": size[1], "shown_type": media_type}
    return facts, out.getvalue()


def _with_pillow(data: bytes, side: int) -> tuple[tuple[int, int], str, Image.Image]:
    """Return size and format of an image, and an upright copy in RGB or RGBA."""
    with _opened(data) as image:
        # Pillow names a JPEG with several pictures in it after its container.
        size, name = image.size, str(image.format or "JPEG XL").replace("MPO", "JPEG")
        _check_cost(image, side)
        # Shrink first, so that there is only one large copy.
        image.thumbnail((side * 2, side * 2))
        upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        return size, name, upright.convert("RGBA")
    if upright.mode in ("RGB", "L") and not upright.info.get("icc_profile"):
        return size, name, upright.convert("RGB")
    # Profiles, and more than 8 bits. Most pictures need none of it.
    from embedder_server.images.colours import to_rgb  # noqa: PLC0415

    return size, name, to_rgb(upright)


def _as_workers_do(data: bytes, side: int) -> tuple[tuple[int, int], str, Image.Image]:
    """Return the same of a file that Pillow refuses: a little of its end may be missing."""
    from embedder_server.images.costs import MemoryNeeded  # noqa: PLC0415
    from embedder_server.images.decoder import ImageDecoder  # noqa: PLC0415
    from sentinel_core.errors import InvalidArgument  # noqa: PLC0415

    def admit(needed: int) -> None:
        if needed > MAX_DECODED_BYTES:
            raise MemoryNeeded(needed)

    decoder = ImageDecoder(max_bytes=len(data), max_pixels=MAX_PIXELS, model_side=1, admit=admit)
    try:
        decoded = decoder.decode(data, share=1 / side)  # at least twice the side
    except MemoryNeeded as error:
        raise Refused(_too_costly(error.size)) from error
    except InvalidArgument as error:
        raise Refused(NOT_AN_IMAGE) from error
    kind = image_format(data[:_HEAD_BYTES])
    return (decoded.width, decoded.height), kind.name if kind else "", decoded.picture


def _opened(data: bytes) -> Image.Image:
    """Open an image, or the preview in a raw file; pixels are decoded later, if possible."""
    kind = image_format(data[:_HEAD_BYTES])
    if kind is None:
        raise Refused(NOT_AN_IMAGE)
    if kind.name in FORMATS:
        return Image.open(io.BytesIO(data), formats=(kind.name,))
    # Of the extra `photos`; most pictures need none of them.
    from embedder_server.images import codecs, costs  # noqa: PLC0415

    if kind.name not in codecs.load():
        raise Refused(f"The page has no decoder for {kind.media_type}: install the extra `photos`.")
    if kind.name == RAW:
        found = codecs.raw_preview(data, kind)
        if isinstance(found.picture, Image.Image):
            return found.picture
        image = Image.open(io.BytesIO(found.picture), formats=("JPEG",))
        if image.getexif().get(_ORIENTATION_TAG) is None:
            image.getexif()[_ORIENTATION_TAG] = found.orientation
        return image
    if kind.name == "JXL":
        size = costs.jxl_size(data)
        if size is None:
            raise Refused(NOT_AN_IMAGE)
        cost = size[0] * size[1] * _JPEG_XL_BYTES
        if cost > MAX_DECODED_BYTES:
            raise Refused(_too_costly(cost))
        pixels = codecs.jpeg_xl(data)
        if isinstance(pixels, Image.Image):
            return pixels
        return Image.open(io.BytesIO(pixels), formats=("JPEG",))
    return Image.open(io.BytesIO(data), formats=(kind.name,))


def _check_cost(image: Image.Image, side: int) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Refused(
            f"The image has too many pixels. The limit is {MAX_PIXELS // 1_000_000} million; "
            "save a smaller version."
        )
    if (cost := decoded_bytes(image, side)) > MAX_DECODED_BYTES:
        raise Refused(_too_costly(cost))


def decoded_bytes(image: Image.Image, side: int) -> int:
    """Return the memory that decoding an opened image to `side` takes, by its header alone."""
    pixels = image.width * image.height
    if image.format in ("WEBP", "AVIF", "HEIF"):
        return pixels * _WEBP_BYTES
    if image.format in ("JPEG", "MPO"):
        progressive = "progressive" in image.info
        components = len(image.getbands())
        coefficients = pixels * components * _COEFFICIENT_BYTES if progressive else 0
        # The decoder itself can halve the image up to three times.
        image.draft("RGB", (side * 2, side * 2))
        pixels = image.width * image.height
        return coefficients + pixels * 4
    strip = _TIFF_STRIP_BYTES if image.format == "TIFF" else 0
    return pixels * (_MODE_BYTES.get(image.mode, 4) + strip)


def _too_costly(cost: int) -> str:
    return (
        f"Decoding this image takes {max(cost, MAX_DECODED_BYTES) / 2**20:,.0f} MB of memory. "
        f"The limit is {MAX_DECODED_BYTES >> 20} MB; save a smaller version, or a JPEG."
    )


if __name__ == "__main__":
    main()
