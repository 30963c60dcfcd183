from __future__ import annotations

import numpy as np
import pytest

from embedder_server.in_process import ImageFile, InProcessEmbedder, describe_model
from embedder_server.settings import EmbedderSettings
from sentinel_core.errors import InvalidArgument
from tests.embedder_server.pictures import encode, flat


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
