"""The decoders that a worker may lack: of HEIC, AVIF and JPEG XL, and of previews in raw files.

They come with the extras `photos` and `jxl`, except AVIF, which Pillow has nearly everywhere. A
worker without one of them refuses its format and says what to install. Each runs in one thread: a
decoder process is counted as one core, and the stacks and arenas of threads would count as the
image's memory.
"""

from __future__ import annotations

import functools
import io
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from PIL import AvifImagePlugin, Image, features

from sentinel_core.errors import InvalidArgument
from sentinel_core.image_formats import RAW, ImageFormat

_MODULES = {"HEIF": "pillow_heif", "JXL": "pillow_jxl", RAW: "rawpy"}
_EXTRAS = {"HEIF": "photos", RAW: "photos", "JXL": "jxl"}
OPTIONAL = frozenset({*_MODULES, "AVIF"})
# How LibRaw says to turn a picture, as an EXIF orientation.
_ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}


@dataclass(frozen=True, slots=True)
class RawPreview:
    """The largest preview in a raw file.

    Attributes:
        picture: A JPEG file, or pixels.
        size: Of the photo itself, in pixels, as the sensor lies.
        orientation: As in EXIF; for a preview that does not know its own.
    """

    picture: bytes | Image.Image
    size: tuple[int, int]
    orientation: int


@functools.cache
def load() -> frozenset[str]:
    """Import the decoders that are installed; return the names of their formats.

    The template of decoder processes calls it, so that every fork has them.
    """
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    usable = {"AVIF"} if features.check("avif") else set()
    for name, module in _MODULES.items():
        with suppress(ImportError):
            loaded = import_module(module)
            usable.add(name)
            if name == "HEIF":
                # Only the picture itself: no thumbnails, depth maps, gain maps or other layers.
                loaded.register_heif_opener(
                    thumbnails=False, depth_images=False, aux_images=False, decode_threads=0
                )
    return frozenset(usable)


def check_installed(kind: ImageFormat) -> None:
    """Raise IMAGE_FORMAT_UNSUPPORTED if the format's decoder is not installed; import nothing."""
    if kind.name in _MODULES and not _is_installed(_MODULES[kind.name]):
        raise lacking(kind)


@functools.cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def lacking(kind: ImageFormat) -> InvalidArgument:
    """Return the error of an image whose decoder this worker lacks."""
    extra = _EXTRAS.get(kind.name)
    what = f"pip install '.[{extra}]' in Sentinel's folder" if extra else "install Pillow with AVIF"
    return InvalidArgument(
        "IMAGE_FORMAT_UNSUPPORTED",
        f"this worker has no decoder for {kind.media_type}: {what} where the worker runs, or send "
        "a JPEG",
    )


def raw_preview(data: bytes, kind: ImageFormat) -> RawPreview:
    """Return the preview in a camera's raw file; nothing else of the file is decoded.

    Raises:
        InvalidArgument: IMAGE_FORMAT_UNSUPPORTED, because it has none that can be read.
        Exception: Whatever LibRaw says about a damaged file.
    """
    import rawpy  # noqa: PLC0415 - a part of the extra

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes, preview = raw.sizes, raw.extract_thumb()
    except rawpy.LibRawUnsufficientMemoryError as error:
        raise MemoryError from error
    except rawpy.LibRawFileUnsupportedError as error:
        raise _unreadable(kind, "is of a camera that LibRaw does not know, or damaged") from error
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError) as error:
        raise _unreadable(kind, "has no preview inside that workers read") from error
    picture = preview.data if isinstance(preview.data, bytes) else Image.fromarray(preview.data)
    orientation = _ORIENTATION_OF_FLIP.get(sizes.flip, 1)
    return RawPreview(picture, (sizes.width, sizes.height), orientation)


def _unreadable(kind: ImageFormat, why: str) -> InvalidArgument:
    return InvalidArgument(
        "IMAGE_FORMAT_UNSUPPORTED",
        f"the {kind.media_type} file {why}; develop it and send it as a JPEG",
    )


def jpeg_xl(data: bytes) -> bytes | Image.Image:
    """Return the first frame of a JPEG XL file, upright; or the JPEG file that it was made of."""
    from pillow_jxl import Decoder  # noqa: PLC0415 - a part of the extra

    is_jpeg, info, pixels, profile, _ = Decoder(num_threads=0)(data)
    if is_jpeg:
        return bytes(pixels)
    image = Image.frombytes(info.mode, (info.width, info.height), bytes(pixels))
    if profile:
        image.info["icc_profile"] = bytes(profile)
    return image
