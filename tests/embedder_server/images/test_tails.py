"""Files that end a little too early, or go on too long, are read. Half an image never is."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from embedder_server.images.decoder import ImageDecoder
from sentinel_core.errors import InvalidArgument
from tests.embedder_server.pictures import encode, halves, noise
from tests.embedder_server.profiles import swapped
from tests.photos import photo


@pytest.fixture
def decoder() -> ImageDecoder:
    return ImageDecoder(max_bytes=4_000_000, max_pixels=100_000_000, model_side=300)


@pytest.fixture(scope="module")
def coffee() -> Image.Image:
    with Image.open(photo("coffee"), formats=["PNG"]) as image:
        return image.convert("RGB")


def difference(a: Image.Image, b: Image.Image) -> float:
    """Return the share of pixels that are visibly different."""
    return float((np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max(-1) > 40).mean())


KINDS = {
    "baseline": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "4:4:4": ("JPEG", {"subsampling": 0}),
    "restarts": ("JPEG", {"restart_marker_rows": 1}),
    "many restarts": ("JPEG", {"restart_marker_blocks": 3}),
    "progressive restarts": ("JPEG", {"progressive": True, "restart_marker_rows": 2}),
    "grey": ("JPEG", {}),
    "png": ("PNG", {}),
    "palette png": ("PNG", {}),
    "interlaced gif": ("GIF", {"interlace": 1}),
    "gif": ("GIF", {"interlace": 0}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
}


def made(coffee: Image.Image, name: str) -> bytes:
    kind, options = KINDS[name]
    mode = {"grey": "L", "palette png": "P"}.get(name, "RGB")
    return encode(coffee.convert(mode), kind, **options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("missing", [1, 2, 3, 20])
def test_a_few_bytes_may_be_missing(
    decoder: ImageDecoder, coffee: Image.Image, name: str, missing: int
) -> None:
    data = made(coffee, name)
    whole, cut = decoder.decode(data), decoder.decode(data[:-missing])
    assert (cut.width, cut.height, cut.media_type) == (whole.width, whole.height, whole.media_type)
    assert difference(cut.picture, whole.picture) < 0.02


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.75, 0.9])
def test_much_may_not(decoder: ImageDecoder, coffee: Image.Image, name: str, share: float) -> None:
    data = made(coffee, name)
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(data[: int(len(data) * share)])
    assert caught.value.reason == "IMAGE_DECODE_FAILED"


@pytest.mark.parametrize("progressive", [False, True])
def test_half_a_jpeg_of_one_colour_is_half_a_jpeg(decoder: ImageDecoder, progressive: bool) -> None:
    """A white sky fills the upper half; what is below it nobody knows."""
    image = Image.new("RGB", (3000, 2000), "white")
    image.paste(noise((3000, 300)), (0, 1700))
    data = encode(image, "JPEG", progressive=progressive)
    for size in (len(data) // 20, len(data) // 4, len(data) // 2):
        with pytest.raises(InvalidArgument):
            decoder.decode(data[:size])


def test_what_is_missing_costs_neither_turn_nor_profile(decoder: ImageDecoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(halves((400, 300)), "JPEG", exif=exif)[:-3]
    assert decoder.decode(data).picture.size == (300, 400)
    data = encode(halves((400, 300)), "JPEG", icc_profile=swapped())[:-3]
    red, _, blue = decoder.decode(data).picture.getpixel((50, 50))
    assert blue > 200
    assert red < 50


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param("baseline", b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 300, id="motion photo"),
        pytest.param("progressive", b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 300, id="and a late one"),
        pytest.param("baseline", bytes(5000), id="zeros after a jpeg"),
        pytest.param("png", b"junk" * 100, id="png"),
        pytest.param("gif", b"junk" * 100, id="gif"),
        pytest.param("webp", b"junk" * 100, id="webp"),
        pytest.param("bmp", b"junk" * 100, id="bmp"),
        pytest.param("tiff", b"junk" * 100, id="tiff"),
    ],
)
def test_more_may_follow(
    decoder: ImageDecoder, coffee: Image.Image, name: str, more: bytes
) -> None:
    data = made(coffee, name)
    assert decoder.decode(data + more).picture.tobytes() == decoder.decode(data).picture.tobytes()


@pytest.mark.parametrize("change", [-101, -9, 1, 8, 1000, 2**31])
def test_a_webp_may_say_a_wrong_length(
    decoder: ImageDecoder, coffee: Image.Image, change: int
) -> None:
    data = made(coffee, "webp")
    wrong = data[:4] + struct.pack("<I", len(data) - 8 + change) + data[8:]
    assert decoder.decode(wrong).picture.tobytes() == decoder.decode(data).picture.tobytes()


def test_a_gif_needs_its_first_frame_only(decoder: ImageDecoder, coffee: Image.Image) -> None:
    first = made(coffee, "gif")
    data = encode(coffee, "GIF", save_all=True, append_images=[coffee.rotate(90)])
    picture = decoder.decode(data[: len(first) + 2000]).picture
    assert difference(picture, decoder.decode(first).picture) < 0.02


def test_a_png_may_lack_its_end_or_have_wrong_checksums(
    decoder: ImageDecoder, coffee: Image.Image
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(coffee, "PNG", exif=exif)
    whole = decoder.decode(data).picture.tobytes()
    assert decoder.decode(data[:-12]).picture.tobytes() == whole
    start = data.index(b"eXIf")
    end = start + 4 + int.from_bytes(data[start - 4 : start], "big")
    wrong = data[:end] + bytes(4) + data[end + 4 :]
    # The turn is lost with it; the picture is not.
    assert decoder.decode(wrong).picture.size == coffee.size


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda data: b"\0\0" + data, id="bytes before it"),
        pytest.param(lambda data: data[:200], id="header only"),
        pytest.param(lambda data: data[: data.index(b"\xff\xda") + 6], id="half a scan header"),
        pytest.param(lambda data: data[:2] + data, id="two beginnings"),
    ],
)
def test_what_no_viewer_opens_is_refused(
    decoder: ImageDecoder, coffee: Image.Image, make: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(InvalidArgument):
        decoder.decode(make(made(coffee, "baseline")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmps_of_every_depth_are_read(
    decoder: ImageDecoder, coffee: Image.Image, mode: str
) -> None:
    data = encode(coffee.convert(mode), "BMP")
    assert decoder.decode(data).picture.size == coffee.size
    no_sizes = data[:2] + bytes(4) + data[6:34] + bytes(4) + data[38:]  # some programs write none
    assert decoder.decode(no_sizes).picture.tobytes() == decoder.decode(data).picture.tobytes()


def test_a_phones_pictures_with_others_behind_them_are_read(
    decoder: ImageDecoder, coffee: Image.Image
) -> None:
    """A gain map, a second view: the first picture counts."""
    file = io.BytesIO()
    coffee.save(file, "MPO", save_all=True, append_images=[coffee.convert("L")])
    data = file.getvalue()
    whole = decoder.decode(data).picture
    assert difference(whole, decoder.decode(encode(coffee, "JPEG")).picture) == 0
    assert decoder.decode(data[:-5000]).picture.tobytes() == whole.tobytes()
