"""HEIC, AVIF, JPEG XL and raw files: read as other pictures are, within the same limits."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from embedder_server.images import codecs, costs
from embedder_server.images.costs import MemoryNeeded
from embedder_server.images.decoder import ImageDecoder
from sentinel_core.errors import InvalidArgument
from tests.embedder_server import raw_files
from tests.embedder_server.images.test_decoder_pool import MIB, Pools, pools, prepare, reason
from tests.embedder_server.pictures import encode, flat, halves, noise

__all__ = ["pools"]  # a fixture

codecs.load()  # the plugins write, too
KINDS = ("HEIF", "AVIF", "JXL")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
SIZE = (160, 96)
PREVIEW = encode(halves((320, 200)), "JPEG")


@pytest.fixture
def decoder() -> ImageDecoder:
    return ImageDecoder(max_bytes=4_000_000, max_pixels=100_000_000, model_side=32)


def near(picture: Image.Image, x: int, colour: tuple[int, ...], tolerance: int = 16) -> bool:
    pixel = picture.getpixel((x, picture.height // 2))
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def deep_heic(picture: Image.Image, bits: int = 10) -> bytes:
    pixels = np.asarray(picture).astype(np.uint16) * 257
    file = io.BytesIO()
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    pillow_heif.from_bytes("RGB;16", picture.size, pixels.tobytes()).save(file, quality=90)
    return file.getvalue()


def clear(size: tuple[int, int] = SIZE) -> Image.Image:
    """Left half transparent black, right half opaque blue."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (size[0] // 2, 0, *size))
    return image


def jxl_of_jpeg(tmp_path: Any, **options: Any) -> bytes:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(halves(SIZE), "JPEG", quality=95, **options))
    with Image.open(path, formats=["JPEG"]) as image:
        return encode(image, "JXL", lossless_jpeg=True)


@pytest.mark.parametrize(
    ("make", "media_type", "left"),
    [
        pytest.param(lambda: encode(halves(SIZE), "HEIF"), "image/heic", RED, id="heic"),
        pytest.param(
            lambda: encode(halves(SIZE), "HEIF", tile_size=64), "image/heic", RED, id="grid heic"
        ),
        pytest.param(lambda: deep_heic(halves(SIZE)), "image/heic", RED, id="10-bit heic"),
        pytest.param(lambda: deep_heic(halves(SIZE), 12), "image/heic", RED, id="12-bit heic"),
        pytest.param(lambda: encode(clear(), "HEIF"), "image/heic", WHITE, id="clear heic"),
        pytest.param(
            lambda: encode(halves(SIZE), "HEIF", save_all=True, append_images=[flat(size=SIZE)]),
            "image/heic", RED, id="heic with two pictures",
        ),
        pytest.param(lambda: encode(halves(SIZE), "AVIF"), "image/avif", RED, id="avif"),
        pytest.param(lambda: encode(clear(), "AVIF"), "image/avif", WHITE, id="clear avif"),
        pytest.param(
            lambda: encode(
                halves(SIZE), "AVIF", save_all=True, append_images=[flat("lime", SIZE)]
            ),
            "image/avif", RED, id="animated avif",
        ),
        pytest.param(lambda: encode(halves(SIZE), "JXL"), "image/jxl", RED, id="jxl"),
        pytest.param(
            lambda: encode(halves(SIZE), "JXL", lossless=True), "image/jxl", RED, id="lossless jxl"
        ),
        pytest.param(
            lambda: encode(halves(SIZE), "JXL", use_container=True),
            "image/jxl", RED, id="jxl in a container",
        ),
        pytest.param(lambda: encode(clear(), "JXL"), "image/jxl", WHITE, id="clear jxl"),
    ],
)  # fmt: skip
def test_pictures_are_read(
    decoder: ImageDecoder, make: Callable[[], bytes], media_type: str, left: tuple[int, ...]
) -> None:
    data = make()
    decoded = decoder.decode(data)
    assert (decoded.width, decoded.height) == decoded.picture.size == SIZE
    assert (decoded.media_type, decoded.picture.mode) == (media_type, "RGB")
    assert near(decoded.picture, 30, left)
    assert near(decoded.picture, 130, BLUE)
    with Image.open(io.BytesIO(decoder.thumbnail(data, decoded, 80)), formats=["WEBP"]) as small:
        assert small.size == (80, 48)
    assert decoder.decode(data + b"more" * 20).picture.tobytes() == decoded.picture.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_greys_are_read(decoder: ImageDecoder, kind: str) -> None:
    decoded = decoder.decode(encode(flat(128, SIZE, "L"), kind))
    assert near(decoded.picture, 30, (128,) * 3, 3)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_is_applied_once(decoder: ImageDecoder, kind: str, orientation: int) -> None:
    """Writers say it in the container and leave it in EXIF; only one of them may count."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decoder.decode(encode(halves(SIZE), kind, exif=exif.tobytes()))
    expected = decoder.decode(encode(halves(SIZE), "JPEG", exif=exif.tobytes()))
    assert decoded.picture.size == (decoded.width, decoded.height) == expected.picture.size
    a, b = (np.asarray(one.picture, np.int16) for one in (decoded, expected))
    assert np.abs(a - b).mean() < 12


def test_a_jpeg_in_a_jpeg_xl_is_decoded_as_that_jpeg(decoder: ImageDecoder, tmp_path: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decoder.decode(jxl_of_jpeg(tmp_path, exif=exif))
    assert (decoded.width, decoded.height) == decoded.picture.size == (96, 160)
    assert decoded.media_type == "image/jxl"


RAWS = {
    "dng": (lambda turn: raw_files.dng(PREVIEW, (320, 200), turn), "image/x-adobe-dng"),
    "nef": (lambda turn: raw_files.nef(PREVIEW, turn), "image/x-nikon-nef"),
    "arw": (lambda turn: raw_files.arw(PREVIEW, turn), "image/x-sony-arw"),
    "cr2": (lambda turn: raw_files.cr2(PREVIEW, (320, 200), turn), "image/x-canon-cr2"),
}


@pytest.mark.parametrize("name", RAWS)
@pytest.mark.parametrize(("turn", "first"), [(1, RED), (3, BLUE), (6, RED), (8, BLUE)])
def test_raw_files_are_read_by_their_previews(
    decoder: ImageDecoder, name: str, turn: int, first: tuple[int, ...]
) -> None:
    make, media_type = RAWS[name]
    data = make(turn)
    decoded = decoder.decode(data)
    assert decoded.media_type == media_type
    sideways = turn in (6, 8)
    assert (decoded.picture.width < decoded.picture.height) == sideways
    picture = decoded.picture.rotate(90, expand=True) if sideways else decoded.picture
    assert near(picture, 5, first)
    # The photo's own size, not that of the preview.
    assert (decoded.width, decoded.height) == (
        raw_files.SENSOR[::-1] if sideways else raw_files.SENSOR
    )
    assert decoder.thumbnail(data, decoded, 64).startswith(b"RIFF")


def test_a_preview_of_plain_pixels_is_read(decoder: ImageDecoder) -> None:
    decoded = decoder.decode(raw_files.dng(halves((64, 40)).tobytes(), (64, 40), 6, plain=True))
    assert decoded.picture.size == (40, 64)
    assert near(decoded.picture.rotate(90, expand=True), 5, RED)


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        pytest.param(
            lambda: raw_files.dng(None), "IMAGE_FORMAT_UNSUPPORTED", "no preview", id="no preview"
        ),
        pytest.param(
            lambda: b"IIRO\x08\0\0\0" + bytes(500), "IMAGE_FORMAT_UNSUPPORTED", "LibRaw", id="junk"
        ),
        pytest.param(
            lambda: raw_files.dng(PREVIEW[:1500], (320, 200)),
            "IMAGE_DECODE_FAILED", "x-adobe-dng file is truncated", id="half a preview",
        ),
        pytest.param(
            lambda: encode(noise(SIZE), "HEIF")[:-3000],
            "IMAGE_DECODE_FAILED", "image/heic file is truncated", id="cut heic",
        ),
        pytest.param(
            lambda: encode(noise(SIZE), "AVIF")[:-3000],
            "IMAGE_DECODE_FAILED", "image/avif file is truncated", id="cut avif",
        ),
        pytest.param(
            lambda: encode(noise(SIZE), "JXL")[:-3000],
            "IMAGE_DECODE_FAILED", "image/jxl file is truncated", id="cut jxl",
        ),
        pytest.param(
            lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "IMAGE_DECODE_FAILED", "damaged", id="no boxes",
        ),
        pytest.param(lambda: b"\xff\x0a", "IMAGE_DECODE_FAILED", "damaged", id="no jxl"),
        pytest.param(
            lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90),
            "IMAGE_DECODE_FAILED", "damaged", id="boxes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_reason(
    decoder: ImageDecoder, make: Callable[[], bytes], reason: str, words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        decoder.decode(make())
    assert caught.value.reason == reason


def claiming(kind: str, width: int, height: int) -> bytes:
    """A picture whose header says that it has another size."""
    data = encode(halves(SIZE), kind)
    if kind == "JXL":  # 30 bits a side, no ratio
        fields = [(0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30)]
        bits = at = 0
        for value, count in fields:
            bits |= value << at
            at += count
        return b"\xff\x0a" + bits.to_bytes(10, "little") + data[5:]
    start = data.index(b"ispe") + 8
    return data[:start] + struct.pack(">II", width, height) + data[start + 8 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "reason"),
    [((10_001, 10_000), "IMAGE_TOO_MANY_PIXELS"), ((70_000, 100), "IMAGE_SIDE_TOO_LONG")],
)
def test_costly_pictures_are_refused_by_their_header(
    decoder: ImageDecoder, kind: str, size: tuple[int, int], reason: str
) -> None:
    start = time.process_time()
    with pytest.raises(InvalidArgument) as caught:
        decoder.decode(claiming(kind, *size))
    # Their libraries have limits of their own for a side.
    assert caught.value.reason == reason or (size[0] > 65_535 and kind != "JXL")
    assert time.process_time() - start < 0.2


@pytest.mark.parametrize("cuts", [[], [1], [2], [3], [4], [0, 3], [11]])
def test_the_size_of_a_jpeg_xl_in_parts_is_that_of_its_decoder(cuts: list[int]) -> None:
    stream = encode(halves((3000, 2000)), "JXL")
    assert stream.startswith(b"\xff\x0a")
    file = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I", 20) + b"ftypjxl \0\0\0\0jxl "
    ends = [*cuts, len(stream)]
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        last = 0x80000000 if end == len(stream) else 0
        file += struct.pack(">I4sI", 12 + end - start, b"jxlp", number | last) + stream[start:end]
    picture = codecs.jpeg_xl(file)
    assert isinstance(picture, Image.Image)
    assert costs.jxl_size(file) == picture.size == (3000, 2000)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_asked_for_before_decoding(kind: str) -> None:
    asked = []

    def admit(size: int) -> None:
        asked.append(size)
        raise MemoryNeeded(size)

    decoder = ImageDecoder(max_bytes=4_000_000, max_pixels=100_000_000, model_side=32, admit=admit)
    with pytest.raises(MemoryNeeded):
        decoder.decode(encode(flat(size=(1000, 1000)), kind))
    [size] = asked
    assert 8_000_000 <= size - costs._OVERHEAD_BYTES <= 40_000_000


@pytest.mark.parametrize("name", ["HEIF", "JXL", "RAW"])
def test_a_small_install_says_what_to_install(
    decoder: ImageDecoder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = raw_files.dng(PREVIEW, (320, 200)) if name == "RAW" else encode(halves(), name)
    monkeypatch.setitem(codecs._MODULES, name, "no_such_module")
    extra = "jxl" if name == "JXL" else "photos"
    with pytest.raises(InvalidArgument, match=rf"pip install '\.\[{extra}\]'") as caught:
        decoder.decode(data)
    assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert decoder.decode(encode(halves(), "AVIF")).media_type == "image/avif"


def test_a_broken_install_says_what_to_install(
    decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "load", frozenset)
    for kind, words in (("HEIF", r"\[photos\]"), ("AVIF", "Pillow with AVIF")):
        with pytest.raises(InvalidArgument, match=words):
            decoder.decode(encode(halves(), kind))


async def test_what_is_asked_for_is_enough(pools: Pools) -> None:
    """In the processes that decode, whose memory is limited to what the header says."""
    pool = await pools.make(max_bytes=64 * MIB)
    large = halves((1000, 800))
    files = [
        *(encode(picture, kind) for picture in (halves(SIZE), large) for kind in KINDS),
        *(encode(clear(large.size), kind) for kind in KINDS),
        encode(large, "HEIF", chroma=444),
        encode(large, "HEIF", tile_size=512),
        deep_heic(large),
        encode(large, "AVIF", speed=10, subsampling="4:4:4"),
        encode(noise((600, 500)), "JXL", lossless=True, effort=1),
        *(make(6) for make, _ in RAWS.values()),
        raw_files.dng(encode(large, "JPEG"), large.size),
        encode(noise((600, 500)), "PNG")[:-900],
        encode(noise((1200, 900)), "JPEG")[:-2],
        encode(noise((1200, 900)), "JPEG", progressive=True)[:-2],
    ]
    outcomes = await asyncio.gather(*(reason(pool, data, thumbnail_side=64) for data in files))
    assert outcomes == ["ok"] * len(files)
    assert pools.ended == {}
    assert pools.memory.used == 0


async def test_a_bitstream_larger_than_its_header_harms_nobody(pools: Pools) -> None:
    pool = await pools.make()
    liars = []
    for kind in ("HEIF", "AVIF"):
        data = encode(flat("red", (1800, 1800)), kind)
        at = data.index(b"ispe") + 8
        liars.append(data[:at] + struct.pack(">II", 64, 64) + data[at + 8 :])
    grid = encode(noise((600, 500)), "HEIF", tile_size=256)
    at = grid.index(b"ispe") + 8
    liars.append(grid[:at] + struct.pack(">II", 8192, 8192) + grid[at + 8 :])
    good = encode(halves(SIZE), "HEIF")
    outcomes = await asyncio.gather(*(reason(pool, data) for data in (*liars, good)))
    assert outcomes[-1] == "ok"
    assert set(outcomes) <= {"ok", "IMAGE_DECODE_FAILED", "IMAGE_TOO_COSTLY"}
    assert pools.ended["died"] == pools.ended["time"] == 0
    assert await reason(pool, good) == "ok"


def mutated(data: bytes, seed: int) -> bytes:
    make = random.Random(seed)
    changed = bytearray(data)
    match seed % 4:
        case 0:  # anywhere
            for _ in range(make.choice((1, 3, 20))):
                changed[make.randrange(len(data))] = make.randrange(256)
        case 1:  # in the header
            for _ in range(3):
                changed[make.randrange(min(len(data), 600))] = make.randrange(256)
        case 2:
            del changed[make.randrange(len(data)) :]
        case _:
            at = make.randrange(len(data))
            del changed[at : at + make.randrange(50)]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["HEIF", "grid", "AVIF", "JXL", "lossless", "dng", "nef", "cr2"])
async def test_damaged_files_get_a_vector_or_a_reason(pools: Pools, kind: str) -> None:
    pool = await pools.make(max_seconds=20)
    if kind in RAWS:
        data = RAWS[kind][0](6)
    else:
        options = {"grid": {"tile_size": 64}, "lossless": {"lossless": True}}.get(kind, {})
        name = {"grid": "HEIF", "lossless": "JXL"}.get(kind, kind)
        data = encode(noise(SIZE), name, **options)
    damaged = (mutated(data, seed) for seed in range(80))
    outcomes = Counter(await asyncio.gather(*(reason(pool, one) for one in damaged)))
    assert set(outcomes) <= {
        "ok", "IMAGE_DECODE_FAILED", "IMAGE_FORMAT_UNSUPPORTED", "IMAGE_TOO_MANY_PIXELS",
        "IMAGE_SIDE_TOO_LONG", "IMAGE_TOO_COSTLY", "IMAGE_EMPTY",
    }  # fmt: skip
    assert pools.ended["died"] == pools.ended["time"] == 0
    assert (await prepare(pool, data)).facts.width > 0
