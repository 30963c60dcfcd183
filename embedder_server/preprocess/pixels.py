"""Pictures of any pixel type to 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_WHITE = (255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB: transparency on white, deep pixels scaled, not clipped."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return image.copy()  # detached from the file
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied modes only to their plain twins.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    rgba = (image.convert(plain) if plain else image).convert("RGBA")
    picture = Image.new("RGB", rgba.size, _WHITE)
    picture.paste(rgba, mask=rgba)
    return picture


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return a grey picture of 16-bit, 32-bit or float pixels as 8-bit grey.

    16-bit pixels are scaled by their type, so that the same grey stays the same whatever else is
    in the picture. Wider types have no agreed white; there the picture's own range is spread.
    """
    pixels = np.asarray(image)
    if image.mode.startswith("I;16") or (pixels.min() >= 0 and _is_sixteen_bit(image, pixels)):
        scaled = pixels.astype(np.float32) / 257.0
    else:
        finite = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = finite.min(), finite.max()
        scaled = (finite - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _is_sixteen_bit(image: Image.Image, pixels: npt.NDArray[Any]) -> bool:
    return image.mode == "I" and pixels.max() <= 65_535
