"""Decode one image in a process that can be killed: `python -m sentinel_app.preview_process SIDE`.

Reads the file from standard input. Writes a line of JSON with the fields of `previews.Preview`,
then the picture; or a line with the reason as `refused`. Imports little, since it starts for every
image.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from contextlib import suppress

from PIL import AvifImagePlugin, Image, ImageOps

# What workers read. Pillow opens far more, among them PostScript, which starts a program. Browsers
# show no HEIC, so everything is shown as a JPEG or WebP.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
with suppress(ImportError):  # a part of the extra `photos`
    import pillow_heif

    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=0
    )
    FORMATS.append("HEIF")
NOT_AN_IMAGE = "This file is not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC)."
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
# Coefficients of a progressive JPEG are kept for the whole image: 16 bits for each component.
_COEFFICIENT_BYTES = 2
# Measured: planes of colour, what they become, and the image.
_PLANES_BYTES = 18
# libtiff may decode the whole image as one strip of 16-bit RGBA, beside Pillow's own copy.
_TIFF_STRIP_BYTES = 8


class Refused(ValueError):
    """An image that is not decoded; the message says why."""


def main() -> None:
    """Decode standard input within the limits."""
    _limit_process()
    warnings.simplefilter("ignore")
    data = sys.stdin.buffer.read()
    try:
        header, shown = decode(data, int(sys.argv[1]))
    except Refused as error:
        header, shown = {"refused": str(error)}, b""
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + shown)


def _limit_process() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
        if sys.platform == "linux":  # elsewhere it has no effect, or it fails
            resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))


def decode(data: bytes, side: int) -> tuple[dict[str, object], bytes]:
    """Return facts about an image, and an upright copy of at most `side` pixels a side.

    Raises:
        Refused: It is no image, is damaged, or costs too much.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limits are below
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Pillow names a JPEG with several pictures in it after its container.
            size, name = image.size, str(image.format).replace("MPO", "JPEG")
            _check_cost(image, side)
            # Shrink first, so that there is only one large copy.
            image.thumbnail((side * 2, side * 2))
            upright = ImageOps.exif_transpose(image)
            clear = upright.has_transparency_data
            shown = upright.convert("RGBA" if clear else "RGB")
    except MemoryError as error:
        raise Refused(_too_costly(MAX_DECODED_BYTES)) from error
    except Refused:
        raise
    # Decoders raise many types.
    except Exception as error:
        raise Refused(NOT_AN_IMAGE) from error
    shown.thumbnail((side, side))
    out = io.BytesIO()
    if clear:
        shown.save(out, "WEBP", quality=90, method=1)
    else:
        shown.save(out, "JPEG", quality=88)
    media_type = "image/webp" if clear else "image/jpeg"
    facts = {"format": name, "width": size[0], "height": size[1], "shown_type": media_type}
    return facts, out.getvalue()


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
    if image.format == "WEBP":
        return pixels * _WEBP_BYTES
    if image.format in ("AVIF", "HEIF"):
        return pixels * _PLANES_BYTES
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
