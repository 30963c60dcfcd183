"""Convert decoded images to 8-bit sRGB: profiles applied, transparency on white, greys scaled."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_WHITE = (255, 255, 255)
# Wider greys are converted this many pixels at a time.
_BAND_PIXELS = 1 << 16
# Of CMYK printers, the largest that are common, have 3 MB.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
# The profile's name for the values of a mode.
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# Colours that a profile changes by no more than this are those of sRGB, rounded in another way.
_SAME = 2
_SRGB = ImageCms.createProfile("sRGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to sRGB: transparency on white; 16-bit pixels scaled, not clipped."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    elif image.has_transparency_data:
        image = _on_white(image)
    elif image.mode not in _SPACES:
        image = image.convert("RGB")
    if profile and image.mode in _SPACES:
        transform = _to_srgb(bytes(profile), image.mode)
        if transform is not None:
            return ImageCms.applyTransform(image, transform) or image
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied modes to their plain modes only.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    image = image if image.mode == plain else image.convert(plain)
    grey = plain == "LA"
    layer = image if grey else image.convert("RGBA")
    picture = Image.new("L" if grey else "RGB", layer.size, 255 if grey else _WHITE)
    picture.paste(layer.convert("L") if grey else layer, mask=layer)
    return picture


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts an image with this profile; None if nothing needs to, or can."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        return None if _is_srgb(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a broken profile does not cost the picture


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = (
        levels[None]
        if mode == "L"
        else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    )
    colours = Image.fromarray(grid)
    converted = ImageCms.applyTransform(colours, transform)
    if converted is None:
        return True
    difference = np.asarray(converted, np.int16) - np.asarray(colours.convert("RGB"), np.int16)
    return bool(np.abs(difference).max() <= _SAME)


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
    for top, pixels in bands(image):
        if sixteen_bits:
            scaled = pixels.astype(np.float32) / 257.0
        else:
            factor = 255.0 / (high - low) if high > low else 0.0
            scaled = (_finite(pixels) - low) * factor
        grey.paste(Image.fromarray(np.rint(scaled).astype(np.uint8)), (0, top))
    return grey


def _value_range(image: Image.Image) -> tuple[float, float]:
    lows, highs = [], []
    for _, pixels in bands(image):
        finite = _finite(pixels)
        lows.append(finite.min())
        highs.append(finite.max())
    return float(min(lows)), float(max(highs))


def _finite(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def bands(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the image in bands of rows, each with its first row: arrays of it all cost much."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(image.height, top + rows))
        yield top, np.asarray(image.crop(box))
