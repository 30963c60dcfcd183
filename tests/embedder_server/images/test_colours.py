"""Colour profiles: pictures get the colours that their files mean, whatever the format."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from embedder_server.images import codecs, colours
from embedder_server.images.decoder import ImageDecoder
from tests.embedder_server import profiles
from tests.embedder_server.pictures import encode, flat, halves

codecs.load()  # the plugins write, too
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def decoder() -> ImageDecoder:
    return ImageDecoder(max_bytes=40_000_000, max_pixels=100_000_000, model_side=32)


def middle(decoder: ImageDecoder, data: bytes) -> tuple[int, ...]:
    picture = decoder.decode(data).picture
    pixel = picture.getpixel((picture.width // 4, picture.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


def near(pixel: tuple[int, ...], colour: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("HEIF", {"quality": 95, "chroma": 444}),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ],
)
def test_exchanged_primaries_exchange_the_colours(
    decoder: ImageDecoder, kind: str, options: dict[str, object]
) -> None:
    data = encode(halves((80, 40)), kind, icc_profile=profiles.swapped(), **options)
    assert near(middle(decoder, data), BLUE)
    plain = encode(halves((80, 40)), kind, icc_profile=profiles.srgb(), **options)
    assert near(middle(decoder, plain), RED)


@pytest.mark.parametrize("mode", ["P", "RGBA", "1", "L"])
def test_pictures_of_other_modes_have_profiles_too(decoder: ImageDecoder, mode: str) -> None:
    picture = halves((80, 40)).convert(mode)
    pixel = middle(decoder, encode(picture, "PNG", icc_profile=profiles.swapped()))
    # A profile of colours means nothing in a picture of greys.
    grey = mode in ("1", "L")
    assert near(pixel, middle(decoder, encode(picture, "PNG")) if grey else BLUE)


def test_display_p3_of_phones_is_converted(decoder: ImageDecoder) -> None:
    picture = flat((200, 80, 60), (64, 64))
    data = encode(picture, "JPEG", quality=100, icc_profile=profiles.display_p3())
    # The same light in sRGB, by the formulas of both.
    assert near(middle(decoder, data), (215, 71, 51), 4)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_greys_have_profiles_too(decoder: ImageDecoder, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((40, 80), 128 * 257, np.uint16))
    else:
        picture = flat(128 if mode == "L" else (128, 255), (80, 40), mode)
    data = encode(picture, "PNG", icc_profile=profiles.grey(1.0))
    assert near(middle(decoder, data), (188,) * 3, 3)
    assert near(middle(decoder, encode(picture, "PNG")), (128,) * 3, 1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_printers_inks_are_converted(decoder: ImageDecoder, kind: str) -> None:
    picture = flat((255, 0, 0, 0), (80, 40), "CMYK")
    assert near(middle(decoder, encode(picture, kind)), (0, 255, 255), 12)
    red, green, blue = middle(decoder, encode(picture, kind, icc_profile=profiles.cmyk()))
    assert red > 180 and green < 120 and blue < 120


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: b"no profile", id="junk"),
        pytest.param(lambda: profiles.swapped()[:200], id="cut"),
        pytest.param(lambda: profiles.swapped() + bytes(colours.MAX_PROFILE_BYTES), id="huge"),
        pytest.param(profiles.cmyk, id="of another space"),
        pytest.param(lambda: profiles.swapped()[:128] + b"\xff" * 400, id="a billion tags"),
    ],
)
def test_a_profile_that_is_of_no_use_is_ignored(
    decoder: ImageDecoder, make: Callable[[], bytes]
) -> None:
    picture = halves((80, 40))
    data = encode(picture, "TIFF", icc_profile=make())
    assert decoder.decode(data).picture.tobytes() == picture.tobytes()


def test_files_in_srgb_keep_every_pixel(decoder: ImageDecoder) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    data = encode(picture, "PNG", icc_profile=profiles.srgb())
    assert decoder.decode(data).picture.tobytes() == picture.tobytes()


def test_thumbnails_have_the_converted_colours(decoder: ImageDecoder) -> None:
    data = encode(halves((80, 40)), "JPEG", icc_profile=profiles.swapped())
    thumbnail = decoder.thumbnail(data, decoder.decode(data), 40)
    with Image.open(io.BytesIO(thumbnail), formats=["WEBP"]) as image:
        pixel = image.convert("RGB").getpixel((10, 10))
    assert isinstance(pixel, tuple)
    assert near(pixel, BLUE, 20)
