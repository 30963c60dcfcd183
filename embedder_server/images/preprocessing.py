"""Turn images into a model's pixels as its `preprocessor_config.json` says, with Pillow and numpy.

Gives the same result as transformers' image processors without needing transformers, and never
holds more of a resized image than the model sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from embedder_server.types import Crop, FloatArray, ModelLoadError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What an image processor of transformers assumes where its file says nothing, by the beginning of
# its name. Everybody else's defaults are CLIP's.
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_ASSUMED: dict[str, dict[str, Any]] = {
    "EfficientNet": {
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
        "include_top": True,
    },
    "Tipsv2": {
        "size": {"height": 448, "width": 448},
        "resample": Image.Resampling.BILINEAR,
        "do_normalize": False,
    },
    "ViT": {"resample": Image.Resampling.BILINEAR, **_HALF},
}
# Steps that we do not take.
_UNSUPPORTED = ("do_pad", "do_flip_channel_order", "include_top")
# If resizing would give more than this many times the pixels that the model sees, resize only the
# part inside the crop: an image of 1 x 20,000 would otherwise become one of a billion pixels. The
# edges then differ a little from the reference, so do not do it for ordinary panoramas.
MAX_EXCESS = 64


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Preprocessing to one size. Sizes are `(height, width)` in pixels."""

    size: tuple[int, int] | None  # to resize to without keeping the shape; None keeps it
    shortest_edge: int  # after resizing, if the shape is kept
    crop: tuple[int, int] | None  # cut from the middle
    # Round half of the excess to even, as torchvision does; otherwise round down, as transformers
    # does. One pixel of difference changes the vector.
    crop_rounds: bool = False
    resample: int = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = OPENAI_MEAN  # of each channel, for values in 0..1
    std: tuple[float, ...] = OPENAI_STD
    scale: float = 1 / 255  # turns a byte into a value in 0..1

    @property
    def side(self) -> int:
        """Longest side of what the model sees, in pixels."""
        return max(self.crop or self.size or (self.shortest_edge,))

    def pixels(self, image: Image.Image) -> FloatArray:
        """Return float32 `[3, height, width]` for one RGB image of any size."""
        return normalised(self._resized(image), self.mean, self.std, self.scale)

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.size is not None:
            new_width, new_height = self.size[1], self.size[0]
        else:
            long = int(self.shortest_edge * max(width, height) / min(width, height))
            new_width, new_height = (
                (self.shortest_edge, long) if width <= height else (long, self.shortest_edge)
            )
        if self.crop is None:
            return image.resize((new_width, new_height), self.resample)
        crop_height, crop_width = self.crop
        top, left = self._before(new_height - crop_height), self._before(new_width - crop_width)
        if new_width * new_height > MAX_EXCESS * crop_width * crop_height:
            x, y = width / new_width, height / new_height
            box = (
                max(0.0, left * x),
                max(0.0, top * y),
                min(width, (left + crop_width) * x),
                min(height, (top + crop_height) * y),
            )
            return image.resize((crop_width, crop_height), self.resample, box=box)
        resized = image.resize((new_width, new_height), self.resample)
        # Where the image is smaller than the crop, Pillow adds black.
        return resized.crop((left, top, left + crop_width, top + crop_height))

    def _before(self, excess: int) -> int:
        return round(excess / 2) if self.crop_rounds else excess // 2


@dataclass(frozen=True, slots=True)
class PatchRecipe:
    """SigLIP 2's preprocessing of images of any shape (NaFlex): a list of patches with positions.

    A patch's position vector is interpolated from the model's square grid of position vectors.
    Interpolation is linear, so the recipe computes weights of the grid's rows and columns. Then the
    network is one fixed graph, where the reference loops over the images of a batch. `resample` to
    `scale` are as in `ImageRecipe`.
    """

    patch: int  # side of a patch, in pixels
    most: int  # patches in the result; missing ones are padding
    grid: int  # side of the model's grid of position vectors
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255

    @property
    def side(self) -> int:
        """Side of the square with as many pixels as the model sees."""
        return int(math.sqrt(self.most) * self.patch)

    def pixels(self, image: Image.Image) -> FloatArray:
        """Return float32 `[most, patch * patch * 3 + 2 * grid + 1]` for one RGB image.

        Each row is a patch: its pixels (row by row, RGB together), the weights of the grid's rows
        and columns for its position, and 1 for a patch or 0 for padding.
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


def read_image_recipe(config: Mapping[str, Any]) -> ImageRecipe:
    """Return the recipe in a `preprocessor_config.json` of transformers or of jina-clip.

    Raises:
        ModelLoadError: It needs a step that is not supported.
    """
    if "resize_mode" in config:
        return _jina_recipe(config)
    config = {**_assumed(config), **config}
    for step in _UNSUPPORTED:
        if config.get(step):
            raise _unsupported(f"{step}: true")
    size = config.get("size", 224)
    crop = _height_width(config.get("crop_size", 224)) if config.get("do_center_crop") else None
    squashed: tuple[int, int] | None = None
    edge = 0
    if not config.get("do_resize", True):
        raise _unsupported("do_resize: false")
    if isinstance(size, int):  # before 2022: a square for SigLIP, else the shorter side
        squashed, edge = (None, size) if crop else ((size, size), 0)
    elif "shortest_edge" in size and "longest_edge" not in size:
        edge = int(size["shortest_edge"])
    elif "height" in size and "width" in size:
        squashed = _height_width(size)
    else:
        raise _unsupported(f"size: {size}")
    if squashed is None and crop is None:
        raise _unsupported("shortest_edge without do_center_crop")
    normalise = config.get("do_normalize", True)
    mean = tuple(config.get("image_mean", OPENAI_MEAN)) if normalise else (0.0, 0.0, 0.0)
    if config.get("rescale_offset"):  # the values are in -1..1 before they are normalised
        mean = tuple(value + 1.0 for value in mean)
    return ImageRecipe(
        size=squashed,
        shortest_edge=edge,
        crop=crop,
        resample=_filter(config.get("resample", Image.Resampling.BICUBIC)),
        mean=mean,
        std=tuple(config.get("image_std", OPENAI_STD)) if normalise else (1.0, 1.0, 1.0),
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1,
    )


def _assumed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values that the image processor of a configuration assumes."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    return next((values for start, values in _ASSUMED.items() if name.startswith(start)), {})


def _jina_recipe(config: Mapping[str, Any]) -> ImageRecipe:
    size = config["size"]
    height, width = _height_width(size) if not isinstance(size, list) else (size[0], size[-1])
    mode = config["resize_mode"]
    if mode not in ("shortest", "squash"):
        raise _unsupported(f"resize_mode: {mode}")
    keep_shape = mode == "shortest"
    return ImageRecipe(
        size=None if keep_shape else (height, width),
        shortest_edge=min(height, width) if keep_shape else 0,
        crop=(height, width) if keep_shape else None,
        crop_rounds=True,
        resample=_filter(config.get("interpolation", "bicubic")),
        mean=tuple(config.get("mean", OPENAI_MEAN)),
        std=tuple(config.get("std", OPENAI_STD)),
    )


def _height_width(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return int(size["height"]), int(size["width"])


def _filter(value: int | str) -> int:
    if isinstance(value, str):
        if value not in _FILTERS:
            raise _unsupported(f"interpolation: {value}")
        return int(_FILTERS[value])
    return int(value)


def _unsupported(what: str) -> ModelLoadError:
    return ModelLoadError(f"preprocessor_config.json needs {what}, which is not supported")


def patch_grid(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Return the height and width in patches that SigLIP 2 resizes an image to, nearly in shape.

    The same bisection as in transformers, with the same rounding. `height`, `width` and `patch` are
    in pixels; the result has at most `most` patches.
    """

    def side(scale: float, length: int) -> int:
        return max(1, math.ceil(length * scale / patch))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        if side(scale, height) * side(scale, width) <= most:
            low = scale
        else:
            high = scale
    return side(low, height), side(low, width)


def interpolation(source: int, target: int) -> FloatArray:
    """Return float32 `[target, source]`: antialiased linear resampling as a matrix.

    Equals torch's `interpolate(mode="bilinear", antialias=True, align_corners=False)` along one
    axis. Each row sums to 1.
    """
    scale = source / target
    support = max(1.0, scale)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def normalised(
    image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...], scale: float
) -> FloatArray:
    """Return float32 `[3, height, width]`: `(byte * scale - mean) / std` of each channel."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    factor = np.array([scale / s for s in std], dtype=np.float32)[:, None, None]
    shift = np.array([m / s for m, s in zip(mean, std, strict=True)], dtype=np.float32)
    result = np.multiply(pixels, factor, order="C")
    result -= shift[:, None, None]
    return result


def kept_share(crop: Crop | None) -> float:
    """Return the smaller share of a side that a crop keeps: a smaller one needs more detail."""
    return 1.0 if crop is None else min(crop.right - crop.left, crop.bottom - crop.top)


def cropped(picture: Image.Image, crop: Crop | None) -> Image.Image:
    """Cut out the crop; round its edges outwards to whole pixels."""
    if crop is None:
        return picture
    width, height = picture.size
    # From the decoded size, which draft mode may have made smaller than the file's.
    left = min(width - 1, math.floor(crop.left * width))
    top = min(height - 1, math.floor(crop.top * height))
    right = max(left + 1, math.ceil(crop.right * width))
    bottom = max(top + 1, math.ceil(crop.bottom * height))
    return picture.crop((left, top, min(width, right), min(height, bottom)))
