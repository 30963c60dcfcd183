"""Every odd image is read right, every bad one is refused with its reason."""

from __future__ import annotations

import io
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from embedder_server.images import costs
from embedder_server.images.colours import to_rgb
from embedder_server.images.costs import MemoryNeeded
from embedder_server.images.decoder import ImageDecoder
from sentinel_core.errors import InvalidArgument
from tests.embedder_server.hostile_pictures import (
    float_tiff,
    lossless_webp,
    png_with,
    scans_jpeg,
    strip_tiff,
    tile_tiff,
)
from tests.embedder_server.pictures import encode, flat, halves, noise, png_of, rotated_jpeg

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def decoder() -> ImageDecoder:
    return ImageDecoder(max_bytes=4_000_000, max_pixels=100_000_000, model_side=32)


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def animated_gif() -> bytes:
    frames = [flat("red"), flat("blue"), flat("lime")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def animated_webp() -> bytes:
    frames = [flat("red"), flat("blue")]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def palette_transparent_png() -> bytes:
    """Left half transparent black, right half opaque blue."""
    image = Image.new("P", (40, 20), 0)
    image.putpalette([0, 0, 0, 0, 0, 255] + [0] * 762)
    image.paste(1, (20, 0, 40, 20))
    return encode(image, "PNG", transparency=0)


def half_transparent(mode: str) -> Image.Image:
    """Left half transparent black, right half opaque."""
    opaque = {"RGBA": (0, 0, 255, 255), "LA": (0, 255)}[mode]
    image = Image.new(mode, (40, 20), (0,) * len(opaque))
    image.paste(opaque, (20, 0, 40, 20))
    return image


def colour_key_png() -> bytes:
    return encode(halves(), "PNG", transparency=(255, 0, 0))


def sixteen_bit(kind: str, value: int) -> bytes:
    return encode(Image.fromarray(np.full((20, 40), value, np.uint16)), kind)


def wide_grey_tiff(dtype: type, low: float, high: float) -> bytes:
    pixels = np.full((20, 40), low, dtype)
    pixels[:, 20:] = high
    return encode(Image.fromarray(pixels), "TIFF")


def multi_picture_jpeg() -> bytes:
    return encode(flat("red"), "MPO", save_all=True, append_images=[flat("blue")])


def upright_tiff() -> bytes:
    return encode(halves(), "TIFF", tiffinfo={274: 6})


@pytest.mark.parametrize(
    ("make", "media_type", "left", "right"),
    [
        pytest.param(lambda: encode(halves(), "JPEG"), "image/jpeg", RED, BLUE, id="jpeg"),
        pytest.param(lambda: encode(halves(), "PNG"), "image/png", RED, BLUE, id="png"),
        pytest.param(
            lambda: encode(halves(), "WEBP", lossless=True), "image/webp", RED, BLUE, id="webp"
        ),
        pytest.param(lambda: encode(halves(), "GIF"), "image/gif", RED, BLUE, id="gif"),
        pytest.param(lambda: encode(halves(), "BMP"), "image/bmp", RED, BLUE, id="bmp"),
        pytest.param(lambda: encode(halves(), "TIFF"), "image/tiff", RED, BLUE, id="tiff"),
        pytest.param(
            lambda: encode(halves(), "TIFF", compression="tiff_lzw"),
            "image/tiff", RED, BLUE, id="tiff lzw",
        ),
        pytest.param(
            lambda: encode(halves(), "JPEG", progressive=True),
            "image/jpeg", RED, BLUE, id="progressive jpeg",
        ),
        pytest.param(animated_gif, "image/gif", RED, RED, id="animated gif: first frame"),
        pytest.param(animated_webp, "image/webp", RED, RED, id="animated webp: first frame"),
        pytest.param(multi_picture_jpeg, "image/jpeg", RED, RED, id="phone's multi-picture jpeg"),
        pytest.param(
            lambda: encode(halves().convert("CMYK"), "JPEG", quality=95),
            "image/jpeg", RED, BLUE, id="cmyk jpeg, Adobe-inverted",
        ),
        pytest.param(
            lambda: encode(halves().convert("CMYK"), "TIFF"),
            "image/tiff", RED, BLUE, id="cmyk tiff",
        ),
        pytest.param(palette_transparent_png, "image/png", WHITE, BLUE, id="palette transparency"),
        pytest.param(
            lambda: encode(half_transparent("RGBA")), "image/png", WHITE, BLUE, id="rgba on white"
        ),
        pytest.param(
            lambda: encode(half_transparent("RGBA"), "WEBP", lossless=True),
            "image/webp", WHITE, BLUE, id="rgba webp",
        ),
        pytest.param(
            lambda: encode(half_transparent("LA")), "image/png", WHITE, (0, 0, 0), id="la on white"
        ),
        pytest.param(colour_key_png, "image/png", WHITE, BLUE, id="colour key"),
        pytest.param(
            lambda: encode(halves().convert("1", dither=Image.Dither.NONE)),
            "image/png", (0, 0, 0), (0, 0, 0), id="1 bit",
        ),
        pytest.param(
            lambda: sixteen_bit("PNG", 32896), "image/png", (128,) * 3, (128,) * 3, id="16-bit png"
        ),
        pytest.param(
            lambda: sixteen_bit("TIFF", 32896),
            "image/tiff", (128,) * 3, (128,) * 3, id="16-bit tiff",
        ),
        pytest.param(
            lambda: wide_grey_tiff(np.int32, -5, 1_000_000),
            "image/tiff", (0,) * 3, (255,) * 3, id="32-bit tiff",
        ),
        pytest.param(
            lambda: wide_grey_tiff(np.float32, 0.25, 0.75),
            "image/tiff", (0,) * 3, (255,) * 3, id="float tiff",
        ),
    ],
)  # fmt: skip
def test_odd_images_are_read_right(
    decoder: ImageDecoder,
    make: Callable[[], bytes],
    media_type: str,
    left: tuple[int, int, int],
    right: tuple[int, int, int],
) -> None:
    decoded = decoder.decode(make())
    assert decoded.picture.mode == "RGB"
    assert (decoded.width, decoded.height) == (40, 20)
    assert decoded.media_type == media_type
    assert near(decoded.picture.getpixel((5, 10)), left)
    assert near(decoded.picture.getpixel((35, 10)), right)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(decoder: ImageDecoder, orientation: int) -> None:
    decoded = decoder.decode(rotated_jpeg(orientation))
    sideways = orientation >= 5
    assert (decoded.width, decoded.height) == ((20, 40) if sideways else (40, 20))
    assert decoded.picture.size == (decoded.width, decoded.height)
    first, last = (10, 4), (10, 35)
    if not sideways:
        first, last = (4, 10), (35, 10)
    # Where the camera's left edge is once the picture stands upright.
    left_comes_first = orientation in (1, 4, 5, 6)
    expected = (RED, BLUE) if left_comes_first else (BLUE, RED)
    assert near(decoded.picture.getpixel(first), expected[0], 12)
    assert near(decoded.picture.getpixel(last), expected[1], 12)


def test_tiff_orientation_is_applied_once(decoder: ImageDecoder) -> None:
    decoded = decoder.decode(upright_tiff())
    assert (decoded.width, decoded.height) == decoded.picture.size == (20, 40)
    assert near(decoded.picture.getpixel((10, 4)), RED)


def test_damaged_exif_does_not_cost_the_picture(decoder: ImageDecoder) -> None:
    data = encode(halves(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decoder.decode(data).picture.size == (40, 20)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: b"", "IMAGE_EMPTY", id="empty"),
        pytest.param(lambda: bytes(4_000_001), "IMAGE_TOO_LARGE", id="too many bytes"),
        pytest.param(lambda: png_of(20_000, 10_000), "IMAGE_TOO_MANY_PIXELS", id="200 MP png"),
        pytest.param(
            lambda: png_of(60_000, 10_000), "IMAGE_TOO_MANY_PIXELS", id="600 MP: Pillow's error"
        ),
        pytest.param(lambda: b"%PDF-1.7 cat.jpg", "IMAGE_FORMAT_UNSUPPORTED", id="pdf"),
        pytest.param(lambda: b"<svg xmlns=''/>", "IMAGE_FORMAT_UNSUPPORTED", id="svg"),
        pytest.param(lambda: b"<!DOCTYPE html>404", "IMAGE_FORMAT_UNSUPPORTED", id="html"),
        pytest.param(lambda: b"just some text", "IMAGE_FORMAT_UNSUPPORTED", id="text"),
        pytest.param(
            lambda: b"\0\0\0\x18ftypmp42" + bytes(40), "IMAGE_FORMAT_UNSUPPORTED", id="video"
        ),
        pytest.param(
            lambda: encode(flat(), "ICO"), "IMAGE_FORMAT_UNSUPPORTED", id="format off the list"
        ),
        pytest.param(lambda: b"/9j/4AAQSkZJRg", "IMAGE_FORMAT_UNSUPPORTED", id="base64"),
        *(
            pytest.param(
                lambda kind=kind, share=share: truncated(kind, share),
                "IMAGE_DECODE_FAILED",
                id=f"{kind} cut at {share}",
            )
            for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
            for share in (0.02, 0.5, 0.9)
        ),
        pytest.param(
            lambda: encode(noise((200, 200)), "JPEG", progressive=True)[:-2000],
            "IMAGE_DECODE_FAILED", id="progressive jpeg cut",
        ),
        pytest.param(lambda: b"\xff\xd8\xff" + b"x" * 99, "IMAGE_DECODE_FAILED", id="jpeg start"),
        pytest.param(
            lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), "IMAGE_DECODE_FAILED", id="png start"
        ),
    ],
)  # fmt: skip
def test_bad_images_are_refused(
    decoder: ImageDecoder, make: Callable[[], bytes], reason: str
) -> None:
    data = make()
    start = time.perf_counter()
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(data)
    assert caught.value.reason == reason
    assert time.perf_counter() - start < 0.5  # refused by the header, not after decoding


def truncated(kind: str, share: float) -> bytes:
    data = encode(noise((200, 200)), kind)
    return data[: int(len(data) * share)]


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        pytest.param(lambda: bytes(4_000_001), "4000000", id="bytes"),
        pytest.param(lambda: png_of(20_000, 10_000), "100000000", id="pixels"),
    ],
)
def test_limits_are_told(decoder: ImageDecoder, make: Callable[[], bytes], limit: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(make())
    assert caught.value.metadata == {"limit": limit}


def test_pixel_limit_is_exact_and_independent_of_pillows(decoder: ImageDecoder) -> None:
    # Above the 89 MP at which Pillow would warn by default.
    assert decoder.decode(png_of(10_000, 10_000)).picture.size == (10_000, 10_000)
    with pytest.raises(InvalidArgument, match="10001 x 10000"):
        decoder.decode(png_of(10_001, 10_000))


def test_warnings_as_errors_change_no_reason(decoder: ImageDecoder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidArgument) as caught:
            decoder.decode(png_of(20_000, 10_000))
    assert caught.value.reason == "IMAGE_TOO_MANY_PIXELS"


def test_large_jpegs_are_decoded_small_but_never_below_twice_the_model(
    decoder: ImageDecoder,
) -> None:
    decoded = decoder.decode(encode(noise((1000, 600)), "JPEG"))
    assert (decoded.width, decoded.height) == (1000, 600)
    assert 64 <= min(decoded.picture.size) < 128


def test_same_bytes_same_pixels_on_many_threads(decoder: ImageDecoder) -> None:
    data = encode(noise((640, 480)), "JPEG")
    with ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(decoder.decode, [data] * 32))
    assert len({one.picture.tobytes() for one in decoded}) == 1


@pytest.mark.parametrize("side", [16, 64, 300, 1024])
def test_thumbnails(decoder: ImageDecoder, side: int) -> None:
    data = encode(noise((800, 400)), "JPEG")
    thumbnail = decoder.thumbnail(data, decoder.decode(data), side)
    image = Image.open(io.BytesIO(thumbnail))
    assert image.format == "WEBP"
    assert image.size == (min(side, 800), min(side, 800) // 2)
    assert thumbnail == decoder.thumbnail(data, decoder.decode(data), side)


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_extreme_shapes(decoder: ImageDecoder, size: tuple[int, int]) -> None:
    data = encode(flat(size=size), "PNG")
    decoded = decoder.decode(data)
    assert decoded.picture.size == size
    assert max(Image.open(io.BytesIO(decoder.thumbnail(data, decoded, 64))).size) <= 64


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: png_of(100_000_000, 1), "IMAGE_SIDE_TOO_LONG", id="wide png"),
        pytest.param(lambda: png_of(1, 65_536), "IMAGE_SIDE_TOO_LONG", id="high png"),
        pytest.param(lambda: tile_tiff(10_001), "IMAGE_TOO_MANY_PIXELS", id="tile of 100 MP"),
        pytest.param(lambda: lossless_webp(10_001), "IMAGE_TOO_MANY_PIXELS", id="webp"),
        pytest.param(lambda: scans_jpeg(800, 100), "IMAGE_TOO_COSTLY", id="101 scans"),
    ],
)
def test_costly_images_are_refused_by_their_header(
    decoder: ImageDecoder, make: Callable[[], bytes], reason: str
) -> None:
    data = make()
    start = time.process_time()
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(data)
    assert caught.value.reason == reason
    assert time.process_time() - start < 0.2


def test_a_side_may_be_as_long_as_that_of_a_jpeg(decoder: ImageDecoder) -> None:
    assert decoder.decode(png_of(65_535, 1)).picture.size == (65_535, 1)


def test_a_hundred_scans_are_decoded_whatever_the_metadata_looks_like(
    decoder: ImageDecoder,
) -> None:
    data = scans_jpeg(64, 99, metadata=b"\xff\xda" * 400)
    assert decoder.decode(data).picture.size == (64, 64)


def test_metadata_between_scans_hides_none(decoder: ImageDecoder) -> None:
    data = scans_jpeg(64, 101)
    first = data.index(b"\xff\xda")
    # A comment that claims to go on over the scans of a decoder that counts otherwise.
    for junk in (b"\xff\xfe\0\x04\xff\xd9", b"\xff\xff\xff", b"\0\0\0", b"\xff\0", b"\xff\xd0"):
        with pytest.raises(InvalidArgument) as caught:
            decoder.decode(data[:first] + junk + data[first:])
        assert caught.value.reason == "IMAGE_TOO_COSTLY", junk


@pytest.mark.parametrize(
    ("make", "bytes_per_pixel"),
    [
        # Never less than the picture itself and what it becomes; rarely more than ten times.
        pytest.param(lambda: float_tiff(1000), 4 + 5, id="float32 tiff and its strip"),
        pytest.param(
            lambda: strip_tiff((1000, 1000), samples=1, bits=16, rows=10), 2 + 4, id="16 bits"
        ),
        pytest.param(lambda: tile_tiff(1000), 1, id="tile"),
        pytest.param(lambda: lossless_webp(1000), 4 * 4, id="webp and its canvases"),
        pytest.param(lambda: scans_jpeg(1000, 9), 2, id="coefficients of a draft"),
        pytest.param(lambda: encode(noise((1000, 1000)), "PNG"), 4, id="rgb png"),
        pytest.param(lambda: encode(flat("red", (1000, 1000)), "GIF"), 1 + 4, id="gif"),
    ],
)
def test_memory_is_asked_for_before_decoding(
    make: Callable[[], bytes], bytes_per_pixel: int
) -> None:
    asked = []

    def admit(size: int) -> None:
        asked.append(size)
        raise MemoryNeeded(size)

    decoder = ImageDecoder(max_bytes=4_000_000, max_pixels=100_000_000, model_side=32, admit=admit)
    with pytest.raises(MemoryNeeded):
        decoder.decode(make())
    [size] = asked
    assert bytes_per_pixel * 1_000_000 <= size - costs._OVERHEAD_BYTES <= 40_000_000


BOMB = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(b"zTXt", b"Comment\0\0" + BOMB, id="zTXt"),
        pytest.param(b"iTXt", b"Comment\0\x01\0\0\0" + BOMB, id="iTXt"),
        pytest.param(b"iCCP", b"profile\0\0" + BOMB, id="iCCP"),
        pytest.param(b"iCCP", b"profile\0\x07" + BOMB, id="unknown compression"),
        pytest.param(b"zTXt", b"Comment\0\x07" + BOMB, id="unknown compression of text"),
        pytest.param(b"gAMA", b"\0", id="short gamma"),
        pytest.param(b"cHRM", b"\0", id="short chromaticities"),
        pytest.param(b"pHYs", b"\0", id="short resolution"),
        pytest.param(b"sRGB", b"", id="empty sRGB"),
        pytest.param(b"acTL", b"\0", id="short animation"),
    ],
)
def test_metadata_of_a_png_never_costs_the_picture(
    decoder: ImageDecoder, kind: bytes, body: bytes
) -> None:
    picture = encode(halves(), "PNG", exif=_turned())
    decoded = decoder.decode(png_with(kind, body, picture))
    assert decoded.picture.size == (20, 40)
    assert decoded.picture.tobytes() == decoder.decode(picture).picture.tobytes()


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        pytest.param(0xE0, b"JFIF", id="short JFIF"),
        pytest.param(0xE2, b"ICC_PROFILE\0", id="short profile"),
        pytest.param(0xE2, b"MPF\0junk", id="junk of several pictures"),
        pytest.param(0xED, b"Photoshop 3.0\x008BIM\x03\xed\x05", id="short Photoshop"),
        pytest.param(0xEE, b"Adobe", id="short Adobe"),
        pytest.param(0xFE, b"", id="empty comment"),
    ],
)
def test_metadata_of_a_jpeg_never_costs_the_picture(
    decoder: ImageDecoder, marker: int, body: bytes
) -> None:
    picture = rotated_jpeg(6)
    segment = bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
    decoded = decoder.decode(picture[:2] + segment + picture[2:])
    assert decoded.picture.size == (20, 40)
    assert decoded.picture.tobytes() == decoder.decode(picture).picture.tobytes()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: strip_tiff((20, 10), samples=1, bits=64, sample_format=3), id="float64"
        ),
        pytest.param(lambda: strip_tiff((20, 10), samples=5, bits=8), id="5 bands"),
        pytest.param(lambda: strip_tiff((20, 10), samples=9, bits=8), id="9 bands"),
        pytest.param(
            lambda: strip_tiff((20, 10), samples=3, bits=32, sample_format=3), id="float rgb"
        ),
    ],
)
def test_pixels_that_nobody_reads_are_not_called_damaged(
    decoder: ImageDecoder, make: Callable[[], bytes]
) -> None:
    with pytest.raises(InvalidArgument, match="convert it to RGB") as caught:
        decoder.decode(make())
    assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        pytest.param(lambda: bytes(4_000_001), "--max-image-bytes", id="bytes"),
        pytest.param(lambda: png_of(12_000, 9_000), "--max-image-pixels", id="108 megapixels"),
    ],
)
def test_refusals_name_the_setting(
    decoder: ImageDecoder, make: Callable[[], bytes], setting: str
) -> None:
    with pytest.raises(InvalidArgument, match=setting):
        decoder.decode(make())


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_greys_are_converted_band_by_band_as_in_one_piece(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    pixels = (rng.random((97, 31)) * 60_000 - (dtype is np.float32) * 30_000).astype(dtype)
    if dtype is np.int32:
        pixels *= 1000
    if dtype is np.float32:
        pixels[3, 4], pixels[90, 1] = np.nan, np.inf
    image = Image.fromarray(pixels)
    whole = np.asarray(to_rgb(image))
    monkeypatch.setattr("embedder_server.images.colours._BAND_PIXELS", 100)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)
    assert whole.min() == 0 or dtype is np.uint16
    assert whole.max() == 255 or dtype is np.uint16
