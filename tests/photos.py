"""Real photos, from the wheels of scikit-image and scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def _folder(package: str) -> Path:
    """Return the folder of a package without importing it: sklearn takes seconds."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"pip install {package}"
    return Path(spec.origin).parent


_SKIMAGE = _folder("skimage") / "data"
_SKLEARN = _folder("sklearn") / "datasets" / "images"

_NAMES = """
    astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png
    grass.png gravel.png horse.png hubble_deep_field.jpg moon.png motorcycle_left.png page.png
    retina.jpg rocket.jpg
"""


def all_photos() -> list[Path]:
    """Return every photo, sorted by name."""
    return sorted([*(_SKIMAGE / name for name in _NAMES.split()), *_SKLEARN.glob("*.jpg")])


def photo(name: str) -> Path:
    """Return one photo by the stem of its file name, for example `chelsea`."""
    return next(path for path in all_photos() if path.stem == name)
