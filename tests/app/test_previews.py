"""Images that people search with or open: shown small, refused with a reason, never in the way."""

from __future__ import annotations

import ast
import io
import resource
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

from sentinel_app import preview_process, previews
from sentinel_app.preview_process import MAX_DECODED_BYTES, decoded_bytes
from sentinel_app.previews import ImageRefused, Preview, cut, preview
from sentinel_client import Box
from tests import photos
from tests.embedder_server import profiles

PICTURE = photos.photo("rocket").read_bytes()
ENDLESS_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


def opened(view: Preview) -> Image.Image:
    return Image.open(io.BytesIO(view.shown), formats=["JPEG", "WEBP"])


def small_webp(side: int) -> bytes:
    """A lossless WebP of one colour: some 40 bytes, whatever its size."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", lossless=True)
    data = bytearray(out.getvalue())
    bits = int.from_bytes(data[21:25], "little")
    bits = bits & ~0xFFFFFFF | (side - 1) | (side - 1) << 14
    data[21:25] = bits.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"plain text, named .png", "not a readable image"),
        (PICTURE[:5_000], "not a readable image"),
        (bytes(50 * 1024 * 1024), "50 MB"),
        # Pillow would start Ghostscript for it, which runs its endless loop.
        (ENDLESS_EPS, "not a readable image"),
        # Also formats that do no harm today: only those that workers read.
        (b"P6 2 2 255 " + bytes(12), "not a readable image"),
    ],
)
def test_a_picture_to_search_with_is_checked(data: bytes, says: str) -> None:
    with pytest.raises(ImageRefused, match=says):
        preview(data, 64)


def test_a_preview_is_small_and_upright_and_tells_of_the_picture(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (400, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "x.jpg", exif=exif)
    view = preview((tmp_path / "x.jpg").read_bytes(), 64)
    assert opened(view).size == (32, 64)
    assert (view.format, view.width, view.height) == ("JPEG", 400, 200)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("JPEG", 4), ("PNG", 90), ("WEBP", 20), ("GIF", 9), ("BMP", 500), ("TIFF", 500)],
)
def test_a_missing_end_is_tolerated_as_by_workers(kind: str, missing: int) -> None:
    out = io.BytesIO()
    with Image.open(io.BytesIO(PICTURE)) as image:
        image.convert("RGB").save(out, kind)
        size = image.size
    view = preview(out.getvalue()[:-missing], 64)
    assert (view.format, view.width, view.height) == (kind, *size)
    half = out.getvalue()[: len(out.getvalue()) // 2]
    with pytest.raises(ImageRefused, match="not a readable"):
        preview(half, 64)


def test_colours_are_those_of_the_thumbnail() -> None:
    deep, wide, clear = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("I;16", (20, 20), 0x8080).save(deep, "PNG")
    assert opened(preview(deep.getvalue(), 64)).getpixel((9, 9)) == (128, 128, 128)
    # With red and blue swapped, so that nobody overlooks the profile.
    red = Image.new("RGB", (20, 20), (255, 0, 0))
    red.save(wide, "JPEG", icc_profile=profiles.swapped(), quality=95)
    shown = opened(preview(wide.getvalue(), 64)).getpixel((9, 9))
    assert isinstance(shown, tuple)
    assert shown[0] < 40
    assert shown[2] > 215
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(clear, "PNG", icc_profile=profiles.swapped())
    with opened(preview(clear.getvalue(), 64)) as view:
        assert view.info["icc_profile"]


def test_what_is_clear_stays_clear() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(out, "PNG")
    view = preview(out.getvalue(), 64)
    assert view.shown_type == "image/webp"
    assert opened(view).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_a_part_is_cut_from_the_preview() -> None:
    halves = Image.new("RGB", (200, 100), "red")
    halves.paste("blue", (100, 0, 200, 100))
    out = io.BytesIO()
    halves.save(out, "PNG")
    part = cut(preview(out.getvalue(), 640), Box(left=0.5), 64)
    with Image.open(io.BytesIO(part), formats=["JPEG"]) as image:
        assert image.size == (64, 64)
        red, _, blue = image.getpixel((32, 32))  # type: ignore[misc]
        assert blue > 200 > red + 100


def test_a_picture_of_many_pixels_is_taken_up_to_our_own_limit() -> None:
    assert opened(preview(png(10_000, 9_500), 64)).size == (64, 61)  # Pillow warns at 89.5


@pytest.mark.parametrize("size", [(10_000, 10_500), (20_000, 10_000)])  # Pillow refuses at 179
def test_one_of_too_many_pixels_is_refused_as_such(size: tuple[int, int]) -> None:
    with pytest.raises(ImageRefused, match="too many pixels"):
        preview(png(*size), 64)


def test_forty_bytes_that_decode_to_gigabytes_are_refused_by_their_header() -> None:
    bomb = small_webp(10_000)
    assert len(bomb) < 60
    # With the limit on processor time, this would also end after 5 s of decoding.
    with pytest.raises(ImageRefused, match="takes 1,526 MB of memory"):
        preview(bomb, 640)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("WEBP", "RGB", {"lossless": True}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ],
)
def test_no_decoder_takes_more_memory_than_its_header_says(
    tmp_path: Path, kind: str, mode: str, options: dict[str, object]
) -> None:
    side = 2_500
    path = tmp_path / "image"
    Image.new(mode, (side, side)).save(path, kind, **options)
    with Image.open(path, formats=[kind]) as image:
        claimed = decoded_bytes(image, 640)
    code = (
        "import resource, sys; from sentinel_app import preview_process as p;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024;"
        "p.Image.init(); data = sys.stdin.buffer.read(); before = peak();"
        "p.decode(data, 640); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=path.read_bytes(), capture_output=True, check=True
    )
    fixed = 24 * 2**20  # copies of 1,280 pixels, and libraries
    assert int(done.stdout) <= claimed + fixed


def test_a_decoder_that_does_not_end_is_killed_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # In place of the decoder: one that never ends for one image, and is ours for the others.
    script = tmp_path / "decoder"
    script.write_text(
        f'#!/bin/sh\nread -r first\n[ "$first" = endless ] && exec sleep 600\n'
        f"exec {sys.executable} -m sentinel_app.preview_process 64 < {photos.photo('rocket')}\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(previews.sys, "executable", str(script))
    monkeypatch.setattr(previews, "_MAX_SECONDS", 8.0)
    refusals: list[str] = []

    def endless() -> None:
        try:
            preview(b"endless\n", 64)
        except ImageRefused as error:
            refusals.append(str(error))

    stuck = threading.Thread(target=endless)
    stuck.start()
    preview(PICTURE, 64)
    assert stuck.is_alive()  # the other one was served beside it
    stuck.join(60)
    assert "takes too long to decode" in refusals[0]


def test_the_process_itself_has_limits() -> None:
    code = (
        "import resource; from sentinel_app import preview_process as p; p._limit_process();"
        "print(*(resource.getrlimit(n)[0] for n in (resource.RLIMIT_CPU, resource.RLIMIT_AS)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    cpu, space = map(int, done.stdout.split())
    assert cpu == preview_process._MAX_CPU_S
    assert space == preview_process._MAX_ADDRESS_SPACE
    assert resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY  # not ours


def test_a_process_that_is_killed_refuses_its_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews.sys, "executable", "false")
    with pytest.raises(ImageRefused, match="breaks the decoder"):
        preview(PICTURE, 64)
    monkeypatch.undo()
    started = time.monotonic()
    assert preview(PICTURE, 64).format == "JPEG"
    assert time.monotonic() - started < 60
    assert MAX_DECODED_BYTES < 2**28


def test_every_image_that_we_open_has_named_formats() -> None:
    # Without names, Pillow opens what it can, PostScript among it. Streamlit's `image` does that.
    root = Path(__file__).parents[2]
    found = 0
    for folder in ("benchmarks", "bulk_indexer", "clients", "deploy", "embedder_server", "scripts"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                called = ast.unparse(node.func)
                if called == "Image.open":
                    found += 1
                    assert any(one.arg == "formats" for one in node.keywords), (path, node.lineno)
                assert called != "st.image", (path, node.lineno)
    assert found >= 5
