"""Resize images for vision-language models: any shape, within a budget of tokens.

One token stands for a square of pixels. The result is bytes, a quarter of what float32 takes; the
network's own file makes patches of them, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

# Qwen's reference refuses longer images; they are squashed to this ratio of their sides.
_MAX_RATIO = 200


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Resizes an image, nearly in shape, to whole tokens. Sizes are `(height, width)` in pixels.

    Attributes:
        unit: Side of the square that becomes one token, in pixels.
        most: Most tokens of an image.
        least: A smaller image is enlarged to about this many tokens.
        fills: Whether every image is resized to about `most` tokens, and not only larger ones.
    """

    unit: int
    most: int
    least: int = 1
    fills: bool = False
    resample: int = Image.Resampling.BICUBIC

    @property
    def side(self) -> int:
        """Side of the square with as many pixels as the model sees."""
        return max(1, math.isqrt(self.most)) * self.unit

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return uint8 `[height, width, 3]` for one RGB image; both sides are whole tokens."""
        height, width = self.size(image.height, image.width)
        return np.array(image.resize((width, height), self.resample), dtype=np.uint8)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens a resized image has."""
        return (height // self.unit) * (width // self.unit)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return what an image of this size is resized to, as the family's reference does."""
        return self._filled(height, width) if self.fills else self._kept(height, width)

    def _kept(self, height: int, width: int) -> tuple[int, int]:
        """As Qwen's `smart_resize`: about the image's own size, if that is within the budget."""
        unit = self.unit
        shortest = math.ceil(max(height, width) / _MAX_RATIO)
        height, width = max(height, shortest), max(width, shortest)
        new_height = max(unit, round(height / unit) * unit)
        new_width = max(unit, round(width / unit) * unit)
        if new_height * new_width > self.most * unit**2:
            factor = math.sqrt(height * width / (self.most * unit**2))
            new_height = max(unit, math.floor(height / factor / unit) * unit)
            new_width = max(unit, math.floor(width / factor / unit) * unit)
        elif new_height * new_width < self.least * unit**2:
            factor = math.sqrt(self.least * unit**2 / (height * width))
            new_height = math.ceil(height * factor / unit) * unit
            new_width = math.ceil(width * factor / unit) * unit
        return new_height, new_width

    def _filled(self, height: int, width: int) -> tuple[int, int]:
        """As Gemma 4's processor: the largest size of this shape within the budget."""
        unit = self.unit
        factor = math.sqrt(self.most * unit**2 / (height * width))
        rows, columns = math.floor(factor * height / unit), math.floor(factor * width / unit)
        if rows == 0:
            rows, columns = 1, min(width // height, self.most)
        elif columns == 0:
            rows, columns = min(height // width, self.most), 1
        return rows * unit, columns * unit
