"""SigLIP 2's pictures of any shape (NaFlex): a list of patches, each with its place.

A patch's position is interpolated from the model's square grid of position vectors. Interpolation
is linear, so it is done here as weights of the grid's rows and columns: then the network is one
fixed graph, where the reference loops over the pictures of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from embedder_server.images.recipe import normalised, patch_grid
from embedder_server.types import FloatArray


@dataclass(frozen=True, slots=True)
class PatchRecipe:
    """SigLIP 2's preprocessing.

    Attributes:
        patch: Side of a patch, in pixels.
        most: Patches in a picture; fewer are filled up.
        grid: Side of the model's grid of position vectors.
        resample: Pillow's filter.
        mean: Of each channel, of values in 0..1.
        std: Of each channel, of values in 0..1.
        scale: What makes a byte a value in 0..1.
    """

    patch: int
    most: int
    grid: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255

    @property
    def side(self) -> int:
        """Side of the square with as many pixels as the model sees."""
        return int(math.sqrt(self.most) * self.patch)

    def pixels(self, image: Image.Image) -> FloatArray:
        """Return float32 `[most, patch * patch * 3 + 2 * grid + 1]` for one RGB picture.

        Each row is a patch: its pixels (row by row, RGB together), the weights of the grid's rows
        and columns that make its position, and 1 for a patch or 0 for filling.
        """
        rows, columns = patch_grid(image.height, image.width, self.patch, self.most)
        resized = image.resize((columns * self.patch, rows * self.patch), self.resample)
        pixels = normalised(resized, self.mean, self.std, self.scale)
        patches = pixels.reshape(3, rows, self.patch, columns, self.patch).transpose(1, 3, 2, 4, 0)
        count, width = rows * columns, 3 * self.patch**2
        result = np.zeros((self.most, width + 2 * self.grid + 1), dtype=np.float32)
        result[:count, :width] = patches.reshape(count, width)
        result[:count, width : width + self.grid] = np.repeat(
            interpolation(self.grid, rows), columns, axis=0
        )
        result[:count, width + self.grid : -1] = np.tile(
            interpolation(self.grid, columns), (rows, 1)
        )
        result[:count, -1] = 1
        return result


def interpolation(source: int, target: int) -> FloatArray:
    """Return float32 `[target, source]`: antialiased linear resampling as a matrix.

    The same as torch's `interpolate(mode="bilinear", antialias=True, align_corners=False)` along
    one axis; each row sums to 1.
    """
    scale = source / target
    support = max(1.0, scale)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
