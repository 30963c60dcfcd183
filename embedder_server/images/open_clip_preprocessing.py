"""Turn images into a model's pixels as open_clip's `preprocess_cfg` says, with Pillow and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from embedder_server.images.preprocessing import (
    MAX_EXCESS,
    OPENAI_MEAN,
    OPENAI_STD,
    ImageRecipe,
    normalised,
)
from embedder_server.types import FloatArray, ModelLoadError

_DEFAULTS: dict[str, Any] = {
    "mode": "RGB",
    "mean": OPENAI_MEAN,
    "std": OPENAI_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # random in training only
}


@dataclass(frozen=True, slots=True)
class FittedRecipe:
    """Preprocessing that keeps the image's shape and fits it to a rectangle.

    `longest`: the whole image, with bars of `fill` beside it. Otherwise it covers the rectangle,
    and what is outside is cut off. `size` is `(height, width)` in pixels; `mean`, `std` and
    `resample` are as in `ImageRecipe`.
    """

    size: tuple[int, int]
    longest: bool
    fill: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: None = None  # as `ImageRecipe` without one: the pixels have the size `size`

    @property
    def side(self) -> int:
        """Longest side of what the model sees, in pixels."""
        return max(self.size)

    def pixels(self, image: Image.Image) -> FloatArray:
        """Return float32 `[3, height, width]` for one RGB image of any size."""
        return normalised(self._fitted(image), self.mean, self.std, 1 / 255)

    def _fitted(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        ratios = image.height / height, image.width / width
        ratio = max(ratios) if self.longest else min(ratios)
        # The reference fails where a side is rounded to 0.
        tall = max(1, round(image.height / ratio))
        wide = max(1, round(image.width / ratio))
        top, left = _before(tall - height), _before(wide - width)
        if tall * wide > MAX_EXCESS * height * width:  # see `MAX_EXCESS`
            box = (
                max(0.0, left * ratio),
                max(0.0, top * ratio),
                min(image.width, (left + width) * ratio),
                min(image.height, (top + height) * ratio),
            )
            return image.resize((width, height), self.resample, box=box)
        resized = image.resize((wide, tall), self.resample)
        fitted = Image.new("RGB", (width, height), (self.fill,) * 3)
        fitted.paste(resized, (-left, -top))
        return fitted


def _before(excess: int) -> int:
    """Return what is cut off before the middle; negative: the bar that is added there."""
    return round(excess / 2) if excess > 0 else -(-excess // 2)


def read_open_clip_recipe(
    config: Mapping[str, Any], size: int | Sequence[int]
) -> ImageRecipe | FittedRecipe:
    """Return the recipe of a `preprocess_cfg`; what it lacks is as in open_clip.

    Args:
        config: The configuration.
        size: What the network takes: the side of a square, or height and width, in pixels.

    Raises:
        ModelLoadError: It needs a step that open_clip does not have.
    """
    config = {**_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    sides = (size, size) if isinstance(size, int) else (size[0], size[-1])
    height, width = int(sides[0]), int(sides[1])
    mode, interpolation = config["resize_mode"], config["interpolation"]
    if config["mode"] != "RGB":
        raise _unsupported(f"mode: {config['mode']}")
    if mode not in ("shortest", "longest", "squash"):
        raise _unsupported(f"resize_mode: {mode}")
    if interpolation not in _FILTERS:
        raise _unsupported(f"interpolation: {interpolation}")
    resample = int(_FILTERS[interpolation])
    mean, std = _three(config["mean"]), _three(config["std"])
    if mode == "squash":
        return ImageRecipe((height, width), 0, None, resample=resample, mean=mean, std=std)
    if mode == "shortest" and height == width:
        return ImageRecipe(
            None, height, (height, width), crop_rounds=True, resample=resample, mean=mean, std=std
        )
    if mode == "shortest":
        resample = int(Image.Resampling.BICUBIC)  # open_clip reads no interpolation here
    fill = int(config["fill_color"])
    return FittedRecipe((height, width), mode == "longest", fill, resample, mean, std)


def _three(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, (int, float)) else tuple(map(float, value))


def _unsupported(what: str) -> ModelLoadError:
    return ModelLoadError(f"the preprocess_cfg needs {what}, which is not supported")
