"""The few transforms of torchvision that open_clip uses, for machines without torchvision.

On a Pillow image, torchvision's own are calls of Pillow, too. Other names exist and do nothing.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

_MODULES = (
    "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
    "torchvision.ops", "torchvision.ops.misc", "torchvision.datasets", "torchvision.utils",
)  # fmt: skip


class InterpolationMode(enum.Enum):
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    NEAREST = Image.Resampling.NEAREST
    LANCZOS = Image.Resampling.LANCZOS
    HAMMING = Image.Resampling.HAMMING
    BOX = Image.Resampling.BOX


def resize(image: Image.Image, size: Any, interpolation: InterpolationMode) -> Image.Image:
    if isinstance(size, int):
        short, long = sorted(image.size)
        other = int(size * long / short)
        size = (other, size) if image.width <= image.height else (size, other)
    return image.resize((size[1], size[0]), interpolation.value)


def pad(image: Image.Image, padding: Sequence[int], fill: int = 0) -> Image.Image:
    return ImageOps.expand(image, tuple(padding), (fill,) * 3)


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))


def get_dimensions(image: Image.Image) -> list[int]:
    return [3, image.height, image.width]


def to_tensor(image: Image.Image) -> Any:
    import torch

    return torch.from_numpy(np.array(image, dtype=np.float32).transpose(2, 0, 1) / 255)


class Compose:
    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    def __init__(self, size: Any, interpolation: InterpolationMode) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        return resize(image, self.size, self.interpolation)


class CenterCrop:
    def __init__(self, size: Sequence[int]) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
        return crop(image, top, left, height, width)


class ToTensor:
    pass


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, pixels: Any) -> Any:
        import torch

        mean, std = (torch.tensor(value)[:, None, None] for value in (self.mean, self.std))
        return (pixels - mean) / std


class _Module(ModuleType):
    """A module that has every name; those that are not here are empty classes."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = globals().get(name) or sys.modules.get(f"{self.__name__}.{name}")
        return found or type(name, (), {})


@contextmanager
def installed() -> Iterator[None]:
    """Let modules be imported that import torchvision; leave it alone where there is a real one."""
    if util.find_spec("torchvision") is not None:
        _declare_missing_operators()
        yield
        return
    sys.modules.update({name: _Module(name) for name in _MODULES})
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]


def _declare_missing_operators() -> None:
    """Let a torchvision for CUDA be imported without CUDA, which its transforms do not need."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        globals()["_library"] = library  # alive as long as its operators are used
