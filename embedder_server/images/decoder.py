"""Decode image files to upright 8-bit RGB within limits, whatever the bytes are.

The same bytes always give the same image. The format is found in the bytes. What decoding costs is
known before it begins (`costs.py`), and a bad image fails with a reason of its own.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image, ImageFile, UnidentifiedImageError

from embedder_server.images import codecs, costs, tails
from embedder_server.images.colours import to_rgb
from embedder_server.images.metadata import without_metadata
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.image_formats import RAW, ImageFormat, image_format

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

# Errors that no other way of decoding would change.
_FINAL = (SentinelError, costs.MemoryNeeded, MemoryError)
_NO_MEMORY = re.compile("out of memory|memory allocation|allocating", re.IGNORECASE)

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


@dataclass(frozen=True, slots=True)
class _File:
    """The bytes of an image, or of a picture inside another file."""

    data: bytes
    kind: ImageFormat
    held_bytes: int = 0  # of the files around it
    orientation: int = 1  # if it has none itself
    is_cut: bool = False  # a little of its end may be missing

    @property
    def all_bytes(self) -> int:
        return len(self.data) + self.held_bytes


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
            f"{describe_unsupported(data)}; send JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, "
            "JPEG XL or a camera's raw file",
        )
    codecs.check_installed(kind)
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
        kind = recognise(data, self._max_bytes)
        detail = math.ceil(_DRAFT_MARGIN * self._model_side / share)
        return self._decode(_File(data, kind), min(_MAX_SIDE, detail))

    def thumbnail(self, data: bytes, decoded: DecodedImage, side: int) -> bytes:
        """Return a WebP file of the image, at most `side` pixels long, never enlarged."""
        picture = decoded.picture
        if max(picture.size) < min(side, max(decoded.width, decoded.height)):
            # The image decoded for the model is too small. Decode again, because the model's
            # pixels must not depend on the thumbnail.
            file = _File(data, recognise(data, self._max_bytes))
            picture = self._decode(file, side).picture
        scale = min(1.0, side / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # In imports only the model costs more. At 256 pixels this takes 2.3 ms of a core, 9.6 kB;
        # quality 80 and method 1 took 2.8 ms and 10.8 kB for 1.3 dB.
        small = picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)
        encoded = io.BytesIO()
        small.save(encoded, "WEBP", quality=_THUMBNAIL_QUALITY, method=0)
        return encoded.getvalue()

    def _decode(self, file: _File, detail: int) -> DecodedImage:
        try:
            return self._decode_as_it_is(file, detail)
        except _FINAL:
            raise
        except Exception as error:  # decoders' errors for damaged files have no common base
            for other in self._other_ways(file):
                try:
                    return self._decode_as_it_is(other, detail)
                except _FINAL:
                    raise
                except Exception:
                    continue
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                raise MemoryError from error
            raise _failure(file, error) from error

    def _decode_as_it_is(self, file: _File, detail: int) -> DecodedImage:
        if file.kind.name in codecs.OPTIONAL and file.kind.name not in codecs.load():
            raise codecs.lacking(file.kind)
        match file.kind.name:
            case "JXL":
                return self._decode_jpeg_xl(file, detail)
            case "RAW":
                return self._decode_raw(file, detail)
            case _:
                return self._open(file, detail)

    def _other_ways(self, file: _File) -> Iterator[_File]:
        """Yield the file without what viewers ignore, after it could not be decoded as it is."""
        data, kind = file.data, file.kind
        held = file.held_bytes + len(data)
        match kind.name:
            case "JPEG":
                if ended := self._ended_jpeg(file):
                    yield replace(file, data=ended, held_bytes=held)
            case "PNG" | "GIF":
                yield replace(file, is_cut=True)
            case "WEBP":
                if whole := tails.whole_webp(data):
                    yield replace(file, data=whole, held_bytes=held)
            case "BMP" | "TIFF":
                yield replace(file, data=tails.padded(data), held_bytes=held)
        # Pillow refuses metadata that it cannot read or finds too large.
        if (bare := without_metadata(data, kind)) != data:
            yield replace(file, data=bare, held_bytes=held)

    def _ended_jpeg(self, file: _File) -> bytes | None:
        def decode(data: bytes, detail: int) -> Image.Image:
            # Beside the other picture that it is compared with.
            held = file.held_bytes + self._max_pixels // 16 * 4
            return self._open(replace(file, data=data, held_bytes=held), detail).picture

        try:
            return tails.ended_jpeg(file.data, decode)
        except _FINAL:
            raise
        except Exception:  # its end is not all that is wrong
            return None

    def _open(self, file: _File, detail: int) -> DecodedImage:
        self._check_unopened(file)
        try:
            with self._opened(file) as image:
                return self._read(image, file, detail)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._too_many_pixels() from error

    def _opened(self, file: _File) -> ImageFile.ImageFile:
        return Image.open(io.BytesIO(file.data), formats=[file.kind.name])

    def _check_unopened(self, file: _File) -> None:
        """Check what would already cost too much while the file is opened."""
        if file.kind.name == "WEBP" and (size := costs.webp_canvas(file.data[:30])):
            self._check_size(size)
            self._admit(costs.webp_bytes(size, file.all_bytes, self._model_side))

    def _decode_jpeg_xl(self, file: _File, detail: int) -> DecodedImage:
        size = costs.jxl_size(file.data)
        if size is None:
            raise ValueError("no picture in the file")
        self._check_size(size)
        self._admit(costs.jxl_bytes(size, file.all_bytes, self._model_side))
        picture = codecs.jpeg_xl(file.data)
        if isinstance(picture, bytes):
            return self._decode_inner(picture, file, detail)
        # Upright, whatever its metadata says; so its sides may have changed places.
        self._check_size(picture.size)
        return DecodedImage(to_rgb(picture), *picture.size, file.kind.media_type)

    def _decode_raw(self, file: _File, detail: int) -> DecodedImage:
        self._admit(costs.raw_bytes(file.all_bytes, self._model_side))
        preview = codecs.raw_preview(file.data, file.kind)
        outer = replace(file, orientation=preview.orientation)
        if isinstance(preview.picture, bytes):
            decoded = self._decode_inner(preview.picture, outer, detail)
        else:
            self._check_size(preview.picture.size)
            decoded = self._read(preview.picture, outer, detail)
        picture, (width, height) = decoded.picture, preview.size
        if (picture.width > picture.height) != (width > height):  # the sensor lies on its side
            width, height = height, width
        return replace(decoded, width=width, height=height)

    def _decode_inner(self, data: bytes, outer: _File, detail: int) -> DecodedImage:
        """Decode the JPEG in another file."""
        kind = ImageFormat("JPEG", outer.kind.media_type)
        return self._decode(_File(data, kind, outer.all_bytes, outer.orientation), detail)

    def _scans(self, image: Image.Image, data: bytes) -> int:
        scans = costs.jpeg_scans(image, data, _MAX_SCANS)
        if scans > _MAX_SCANS:
            raise too_costly(
                f"the JPEG has {scans} scans, the limit is {_MAX_SCANS}", "scans", _MAX_SCANS
            )
        return scans

    def _read(self, image: Image.Image, file: _File, detail: int) -> DecodedImage:
        size = image.size
        self._check_size(size)
        if (chunk := costs.tiff_chunk_pixels(image)) > self._max_pixels:
            raise self._too_many_pixels(f"tiles or strips of {chunk} pixels")
        is_tiff = image.format == "TIFF"
        scans = self._scans(image, file.data) if file.kind.name == "JPEG" else 0
        if isinstance(image, ImageFile.ImageFile):
            image.draft(None, (detail, detail))
        needed = partial(
            costs.decoding_bytes,
            image,
            file.all_bytes + file.is_cut * size[0] * size[1] * 2,  # of each two copies
            size[0] * size[1],
            scans=scans,
            model_side=self._model_side,
        )
        # Loading a TIFF turns it upright; then its `size` is the upright one.
        self._admit(needed(turned=is_tiff and _orientation(image, file) in _TURNS))
        if file.is_cut and isinstance(image, ImageFile.ImageFile):
            image = tails.load_what_is_there(image, self._opened(file))
        else:
            image.load()
        orientation = _orientation(image, file)
        if orientation in _TURNS:  # in other formats it may follow the pixels
            self._admit(needed(turned=True))
        picture = to_rgb(image)
        for turn in _TURNS.get(orientation, ()):
            picture = picture.transpose(turn)
        if is_tiff:
            size = picture.size
        elif orientation in _SIDEWAYS:
            size = size[::-1]
        return DecodedImage(picture, *size, file.kind.media_type)

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


def _failure(file: _File, error: Exception) -> InvalidArgument:
    """Return the error for the sender of an image that could not be decoded."""
    kind = file.kind
    if kind.name not in (RAW, "JXL") and isinstance(error, UnidentifiedImageError):
        error = _own_error(file.data, kind) or error
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
        Image.OPEN[kind.name][0](io.BytesIO(data), b"")
    except Exception as error:
        return error
    return None


def _orientation(image: Image.Image, file: _File) -> int:
    """Return the EXIF orientation of a loaded image; if it has none, that of its file."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, file.orientation)
    except Exception:  # damaged metadata does not make the image unusable
        return file.orientation
    return value if isinstance(value, int) else file.orientation


def describe_unsupported(data: bytes) -> str:
    """Say for an error message what bytes of an unsupported format seem to be."""
    if data[4:8] == b"ftyp":
        return "the bytes are a video"
    head = data[:64].lstrip().lower()
    for magic, name in _UNSUPPORTED:
        if head.startswith(magic.lower()):
            return f"the bytes are {name}"
    return "the bytes are not an image that this worker reads"
