"""Images that people search with: shown small, refused with a reason."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image

from sentinel_app.uploads import ImageRefused, preview
from tests import photos

PICTURE = photos.photo("rocket").read_bytes()


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"plain text, named .png", "not a readable image"),
        (PICTURE[:5_000], "not a readable image"),
        (bytes(50 * 1024 * 1024), "50 MB"),
    ],
)
def test_a_picture_to_search_with_is_checked(data: bytes, says: str) -> None:
    with pytest.raises(ImageRefused, match=says):
        preview(data, 64)


def test_a_preview_is_small_and_upright(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (400, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "x.jpg", exif=exif)
    with Image.open(io.BytesIO(preview((tmp_path / "x.jpg").read_bytes(), 64))) as shown:
        assert shown.size == (32, 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_many_pixels_is_taken_up_to_our_own_limit() -> None:
    with Image.open(io.BytesIO(preview(png(10_000, 9_500), 64))) as shown:  # Pillow warns at 89.5
        assert shown.size == (64, 61)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_500), (20_000, 10_000)])  # Pillow refuses at 179
def test_one_of_too_many_pixels_is_refused_as_such(size: tuple[int, int]) -> None:
    with pytest.raises(ImageRefused, match="too many pixels"):
        preview(png(*size), 64)


def test_one_of_too_many_pixels_is_refused_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageRefused, match="too many pixels"):
            preview(png(10_000, 10_500), 64)
