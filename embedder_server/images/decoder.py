"""Decode image files to upright 8-bit RGB within limits, whatever the bytes are.

Thread-safe. The same bytes always give the same image. The format is found in the bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.image_formats import ImageFormat, image_format

# Pillow may decode a JPEG at 1/2, 1/4 or 1/8 of its size (draft mode), but at least at this many
# times the side that the model sees, so that the model's own resampling decides the pixels.
_DRAFT_MARGIN = 2
_MAX_SIDE = 65_535  # of a JPEG, the only format with draft mode
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
_SIDEWAYS = (5, 6, 7, 8)
_THUMBNAIL_QUALITY = 75
_WHITE = (255, 255, 255)
_UNSUPPORTED = (
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"data:", "a data: URL"),
    # base64 of the first bytes of JPEG, PNG, GIF and WebP.
    (b"/9j/", "base64 text; send the bytes themselves"),
    (b"iVBORw0KGgo", "base64 text; send the bytes themselves"),
    (b"R0lGOD", "base64 text; send the bytes themselves"),
    (b"UklGR", "base64 text; send the bytes themselves"),
)

# Register the plugins once, not in the thread that opens the first file.
Image.init()
# `_read` refuses such images with an error for the sender.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image, and the size and media type of its file. Sizes are in pixels, upright."""

    picture: Image.Image  # RGB, upright; a JPEG may be decoded smaller than the file says
    width: int
    height: int
    media_type: str  # found in the bytes, for example `image/jpeg`


class ImageDecoder:
    """Decodes with one set of limits.

    Args:
        max_bytes: Most bytes of a file.
        max_pixels: Most pixels, read from the header before anything is decoded.
        model_side: Side of the square the model sees.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int, model_side: int) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._detail = _DRAFT_MARGIN * model_side
        # Pillow's own limit is global to the process. Keep it for canvases that it allocates
        # while it opens a file, but never below ours.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)

    def decode(self, data: bytes, share: float = 1.0) -> DecodedImage:
        """Decode the image in `data` with enough detail for the model.

        Args:
            data: The encoded file.
            share: Share of a side that the model sees, above 0 to 1; less needs more detail.

        Raises:
            InvalidArgument: IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_TOO_MANY_PIXELS,
                IMAGE_FORMAT_UNSUPPORTED or IMAGE_DECODE_FAILED.
        """
        return self._decode(data, min(_MAX_SIDE, math.ceil(self._detail / share)))

    def thumbnail(self, data: bytes, decoded: DecodedImage, side: int) -> bytes:
        """Return a WebP file of the image, at most `side` pixels long, never enlarged."""
        picture = decoded.picture
        if max(picture.size) < min(side, max(decoded.width, decoded.height)):
            # The image decoded for the model is too small. Decode again, because the model's
            # pixels must not depend on the thumbnail.
            picture = self._decode(data, side).picture
        scale = min(1.0, side / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # In imports only the model costs more. At 256 pixels this takes 2.3 ms of a core, 9.6 kB;
        # quality 80 and method 1 took 2.8 ms and 10.8 kB for 1.3 dB.
        small = picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)
        file = io.BytesIO()
        small.save(file, "WEBP", quality=_THUMBNAIL_QUALITY, method=0)
        return file.getvalue()

    def _decode(self, data: bytes, detail: int) -> DecodedImage:
        kind = self._check(data)
        try:
            with Image.open(io.BytesIO(data), formats=[kind.pillow_name]) as image:
                return self._read(image, kind, detail)
        except SentinelError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._too_many_pixels() from error
        except Exception as error:  # Pillow's errors for damaged files have no common base
            raise InvalidArgument(
                "IMAGE_DECODE_FAILED",
                f"the {kind.media_type} file is truncated or damaged; send it again from the "
                "original",
            ) from error

    def _check(self, data: bytes) -> ImageFormat:
        if not data:
            raise InvalidArgument("IMAGE_EMPTY", "the image has no bytes")
        if len(data) > self._max_bytes:
            raise InvalidArgument(
                "IMAGE_TOO_LARGE",
                f"the image has {len(data)} bytes, the limit is {self._max_bytes}; scale it down: "
                "the model sees at most a few hundred pixels a side",
                limit=self._max_bytes,
            )
        kind = image_format(data)
        if kind is None:
            raise InvalidArgument(
                "IMAGE_FORMAT_UNSUPPORTED",
                f"{describe_unsupported(data)}; send JPEG, PNG, WebP, GIF, BMP or TIFF",
            )
        return kind

    def _read(self, image: ImageFile.ImageFile, kind: ImageFormat, detail: int) -> DecodedImage:
        size = image.size
        if size[0] * size[1] > self._max_pixels:
            raise self._too_many_pixels(size)
        image.draft(None, (detail, detail))
        # Loading a TIFF turns it upright; then its `size` is the upright one.
        image.load()
        picture = to_rgb(image)
        orientation = _orientation(image)
        for turn in _TURNS.get(orientation, ()):
            picture = picture.transpose(turn)
        if kind.pillow_name == "TIFF":
            size = picture.size
        elif orientation in _SIDEWAYS:
            size = size[::-1]
        return DecodedImage(picture, *size, kind.media_type)

    def _too_many_pixels(self, size: tuple[int, int] | None = None) -> InvalidArgument:
        found = f"{size[0]} x {size[1]} pixels" if size else "too many pixels"
        return InvalidArgument(
            "IMAGE_TOO_MANY_PIXELS",
            f"the image has {found}, the limit is {self._max_pixels} in total; scale it down",
            limit=self._max_pixels,
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; 1 (upright) if it has none."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata does not make the image unusable
        return 1
    return value if isinstance(value, int) else 1


def describe_unsupported(data: bytes) -> str:
    """Say for an error message what bytes of an unsupported format seem to be."""
    if data[4:8] == b"ftyp":
        return "the bytes are a HEIC, AVIF or video file"
    head = data[:64].lstrip().lower()
    for magic, name in _UNSUPPORTED:
        if head.startswith(magic.lower()):
            return f"the bytes are {name}"
    return "the bytes are not an image that this worker reads"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to RGB: transparency on white; 16-bit pixels scaled, not clipped."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return image.copy()  # detached from the file
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied modes to their plain modes only.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    rgba = (image.convert(plain) if plain else image).convert("RGBA")
    picture = Image.new("RGB", rgba.size, _WHITE)
    picture.paste(rgba, mask=rgba)
    return picture


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert grey pixels of 16 bits, 32 bits or floats to 8 bits.

    Scale 16-bit pixels by their type, so that a grey does not depend on the rest of the image.
    Wider types have no agreed white: scale them by the image's own range.
    """
    pixels = np.asarray(image)
    sixteen_bits = image.mode.startswith("I;16")
    if sixteen_bits or (image.mode == "I" and pixels.min() >= 0 and pixels.max() <= 65_535):
        scaled = pixels.astype(np.float32) / 257.0
    else:
        finite = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = finite.min(), finite.max()
        scaled = (finite - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
