from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from embedder_server.images import codecs
from embedder_server.in_process import ImageFile, InProcessEmbedder, describe_model
from embedder_server.settings import EmbedderSettings
from sentinel_core.errors import InvalidArgument
from tests.embedder_server import profiles, raw_files
from tests.embedder_server.pictures import encode, flat
from tests.photos import photo

codecs.load()  # the plugins write, too


def _no_failure(error: BaseException) -> None:
    raise error


async def test_text_and_images_are_embedded_with_thumbnails() -> None:
    settings = EmbedderSettings(_env_file=None, threads=1, decode_processes=1)
    embedder = InProcessEmbedder(settings)
    with pytest.raises(RuntimeError, match="start"):
        await embedder.embed(["a cat"], timeout_s=30)
    await embedder.start(_no_failure)
    try:
        picture = ImageFile(encode(flat("red", size=(300, 200)), "PNG"))
        text, image, broken = await embedder.embed(
            ["a cat", picture, ImageFile(b"no image")], timeout_s=30, thumbnail_side=64
        )
    finally:
        await embedder.close()
    assert isinstance(text.outcome, np.ndarray)
    assert text.outcome.shape == (embedder.info.dimensions,)
    assert np.linalg.norm(text.outcome) == pytest.approx(1, abs=1e-5)
    assert image.image is not None
    assert image.image.thumbnail[8:12] == b"WEBP"
    assert isinstance(broken.outcome, InvalidArgument)
    assert describe_model(settings) == embedder.info


async def test_a_picture_has_one_vector_in_every_format() -> None:
    with Image.open(photo("coffee"), formats=["PNG"]) as image:
        coffee = image.convert("RGB")
    jpeg = encode(coffee, "JPEG", quality=92)
    # The same light, written with other primaries.
    red, green, blue = coffee.split()
    swapped = Image.merge("RGB", (blue, green, red))
    files = [
        encode(coffee, "PNG"),
        jpeg,
        encode(coffee, "HEIF", quality=85),
        encode(coffee, "HEIF", quality=85, tile_size=256),
        encode(coffee, "AVIF", quality=85, speed=10),
        encode(coffee, "JXL", quality=92, effort=1),
        raw_files.dng(jpeg, coffee.size),
        encode(swapped, "PNG", icc_profile=profiles.swapped()),
        jpeg[:-20],
    ]
    embedder = InProcessEmbedder(EmbedderSettings(_env_file=None, threads=1, decode_processes=1))
    await embedder.start(_no_failure)
    try:
        found = await embedder.embed([ImageFile(data) for data in files], timeout_s=60)
    finally:
        await embedder.close()
    vectors = np.stack([one.outcome for one in found])  # none is an error
    assert (vectors @ vectors[0]).min() > 0.99
