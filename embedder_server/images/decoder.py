"""Decode image files to upright 8-bit RGB within limits, whatever the bytes are.

The same bytes always give the same image. The format is found in the bytes. What decoding costs is
known before it begins (`costs.py`), and a bad image fails with a reason of its own.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from embedder_server.images import costs
from embedder_server.images.metadata import without_metadata
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.image_formats import ImageFormat, image_format

# Pillow may decode a JPEG at 1/2, 1/4 or 1/8 of its size (draft mode), but at least at this many
# times the side that the model sees, so that the model's own resampling decides the pixels.
_DRAFT_MARGIN = 2
# The longest side of a JPEG. Resampling keeps weights for each pixel of a side.
_MAX_SIDE = 65_535
# A JPEG encoder makes about ten. Each scan may cost as much as decoding the whole picture.
_MAX_SCANS = 100
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
# Wider greys are converted this many pixels at a time.
_BAND_PIXELS = 1 << 16
# How Pillow's messages begin if a file may be sound, but has pixels of a kind that it cannot read.
_UNREADABLE_PIXELS = (
    "unknown pixel mode",  # TIFF: float64, five bands, floats in colour
    "Invalid value for samples per pixel",
    "cannot handle",  # JPEG: 12 bits
    "Unsupported BMP",
)
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


def recognise(data: bytes, max_bytes: int) -> ImageFormat:
    """Return the format of a file; look at its size and its first bytes only.

    Raises:
        InvalidArgument: IMAGE_EMPTY, IMAGE_TOO_LARGE or IMAGE_FORMAT_UNSUPPORTED.
    """
    if not data:
        raise InvalidArgument("IMAGE_EMPTY", "the image has no bytes")
    if len(data) > max_bytes:
        raise InvalidArgument(
            "IMAGE_TOO_LARGE",
            f"the image has {len(data)} bytes, the limit is {max_bytes}; scale it down (the model "
            "sees at most a few hundred pixels a side), or raise the worker's --max-image-bytes",
            limit=max_bytes,
        )
    kind = image_format(data)
    if kind is None:
        raise InvalidArgument(
            "IMAGE_FORMAT_UNSUPPORTED",
            f"{describe_unsupported(data)}; send JPEG, PNG, WebP, GIF, BMP or TIFF",
        )
    return kind


def too_costly(what: str, resource: str, limit: object) -> InvalidArgument:
    """Return the error of an image that costs too much of a resource."""
    return InvalidArgument(
        "IMAGE_TOO_COSTLY",
        f"{what}; send it scaled down, as a plain JPEG or PNG",
        resource=resource,
        limit=limit,
    )


class ImageDecoder:
    """Decodes with one set of limits.

    Args:
        max_bytes: Most bytes of a file.
        max_pixels: Most pixels, read from the header before anything is decoded.
        model_side: Side of the square the model sees.
        admit: Called with the memory that decoding needs, in bytes, before it begins; raises
            MemoryNeeded to prevent it.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_pixels: int,
        model_side: int,
        admit: Callable[[int], None] = lambda needed: None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._model_side = model_side
        self._admit = admit
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
                IMAGE_SIDE_TOO_LONG, IMAGE_TOO_COSTLY, IMAGE_FORMAT_UNSUPPORTED or
                IMAGE_DECODE_FAILED.
            MemoryNeeded: `admit` raised it.
            MemoryError: The image took more memory than its header says.
        """
        detail = math.ceil(_DRAFT_MARGIN * self._model_side / share)
        return self._decode(data, min(_MAX_SIDE, detail))

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
        kind = recognise(data, self._max_bytes)
        self._check_unopened(data, kind)
        try:
            return self._open(data, kind, detail)
        except (SentinelError, costs.MemoryNeeded):
            raise
        except Exception as error:  # Pillow's errors for damaged files have no common base
            if (bare := without_metadata(data, kind)) != data:
                # Pillow refuses metadata that it cannot read or finds too large.
                return self._decode(bare, detail)
            if isinstance(error, MemoryError) or "out of memory" in str(error):
                raise MemoryError from error
            raise _failure(data, kind, error) from error

    def _open(self, data: bytes, kind: ImageFormat, detail: int) -> DecodedImage:
        try:
            with Image.open(io.BytesIO(data), formats=[kind.pillow_name]) as image:
                return self._read(image, data, kind, detail)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._too_many_pixels() from error

    def _check_unopened(self, data: bytes, kind: ImageFormat) -> None:
        """Check what would already cost too much while Pillow opens a file."""
        if kind.pillow_name == "WEBP" and (size := costs.webp_canvas(data[:30])):
            self._check_size(size)
            self._admit(costs.webp_bytes(size, len(data), self._model_side))

    def _scans(self, image: ImageFile.ImageFile, data: bytes) -> int:
        scans = costs.jpeg_scans(image, data, _MAX_SCANS)
        if scans > _MAX_SCANS:
            raise too_costly(
                f"the JPEG has {scans} scans, the limit is {_MAX_SCANS}", "scans", _MAX_SCANS
            )
        return scans

    def _read(
        self, image: ImageFile.ImageFile, data: bytes, kind: ImageFormat, detail: int
    ) -> DecodedImage:
        size = image.size
        self._check_size(size)
        if (chunk := costs.tiff_chunk_pixels(image)) > self._max_pixels:
            raise self._too_many_pixels(f"tiles or strips of {chunk} pixels")
        scans = self._scans(image, data) if kind.pillow_name == "JPEG" else 0
        image.draft(None, (detail, detail))
        needed = partial(
            costs.decoding_bytes,
            image,
            data,
            size[0] * size[1],
            scans=scans,
            model_side=self._model_side,
        )
        # Loading a TIFF turns it upright; then its `size` is the upright one.
        self._admit(needed(turned=kind.pillow_name == "TIFF" and _orientation(image) in _TURNS))
        image.load()
        orientation = _orientation(image)
        if orientation in _TURNS:  # in other formats it may follow the pixels
            self._admit(needed(turned=True))
        picture = to_rgb(image)
        for turn in _TURNS.get(orientation, ()):
            picture = picture.transpose(turn)
        if kind.pillow_name == "TIFF":
            size = picture.size
        elif orientation in _SIDEWAYS:
            size = size[::-1]
        return DecodedImage(picture, *size, kind.media_type)

    def _check_size(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self._max_pixels:
            raise self._too_many_pixels(f"{size[0]} x {size[1]} pixels")
        if max(size) > _MAX_SIDE:
            raise InvalidArgument(
                "IMAGE_SIDE_TOO_LONG",
                f"the image has {size[0]} x {size[1]} pixels, the limit of a side is {_MAX_SIDE}; "
                "cut it into parts or scale it down",
                limit=_MAX_SIDE,
            )

    def _too_many_pixels(self, found: str = "too many pixels") -> InvalidArgument:
        return InvalidArgument(
            "IMAGE_TOO_MANY_PIXELS",
            f"the image has {found}, the limit is {self._max_pixels} in total; scale it down, or "
            "raise the worker's --max-image-pixels",
            limit=self._max_pixels,
        )


def _failure(data: bytes, kind: ImageFormat, error: Exception) -> InvalidArgument:
    """Return the error for the sender of an image that Pillow did not decode."""
    if isinstance(error, UnidentifiedImageError):
        error = _own_error(data, kind) or error
    if str(error).startswith(_UNREADABLE_PIXELS):
        return InvalidArgument(
            "IMAGE_FORMAT_UNSUPPORTED",
            f"this {kind.media_type} file has pixels of a kind that workers do not read; convert "
            "it to RGB with 8 bits per channel",
        )
    return InvalidArgument(
        "IMAGE_DECODE_FAILED",
        f"the {kind.media_type} file is truncated or damaged; send it again from the original",
    )


def _own_error(data: bytes, kind: ImageFormat) -> Exception | None:
    """Return the error of the format's plugin, which `Image.open` does not tell."""
    try:
        Image.OPEN[kind.pillow_name][0](io.BytesIO(data), b"")
    except Exception as error:
        return error
    return None


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
    return image if image.mode == "RGB" else image.convert("RGB")


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
    sixteen_bits = image.mode.startswith("I;16")
    low, high = (0.0, 0.0) if sixteen_bits else _value_range(image)
    if image.mode == "I" and low >= 0 and high <= 65_535:
        sixteen_bits = True
    grey = Image.new("L", image.size)
    for top, pixels in _bands(image):
        if sixteen_bits:
            scaled = pixels.astype(np.float32) / 257.0
        else:
            factor = 255.0 / (high - low) if high > low else 0.0
            scaled = (_finite(pixels) - low) * factor
        grey.paste(Image.fromarray(np.rint(scaled).astype(np.uint8)), (0, top))
    return grey


def _value_range(image: Image.Image) -> tuple[float, float]:
    lows, highs = [], []
    for _, pixels in _bands(image):
        finite = _finite(pixels)
        lows.append(finite.min())
        highs.append(finite.max())
    return float(min(lows)), float(max(highs))


def _finite(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _bands(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the image in bands of rows, each with its first row: arrays of it all cost much."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(image.height, top + rows))
        yield top, np.asarray(image.crop(box))
