"""How often a caption finds its picture: 404 captioned cut-out photos of Debian's Tux Paint.

    apt-get install tuxpaint-stamps-default
    pytest -m quality -s tests/embedder_server/models/builtin/test_retrieval_quality.py

R@k is the share of distinct captions with at least one right picture among the first k.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.registry import DEFAULT_MODEL, load_model
from embedder_server.types import FloatArray

STAMPS = Path("/usr/share/tuxpaint/stamps")
# Folders of drawings and signs; what remains are photographs, nearly all.
NOT_PHOTOS = {"cartoon", "symbols", "flags", "roadsigns"}
BATCH = 32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quality,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not STAMPS.is_dir(), reason=f"no {STAMPS}: apt-get install tuxpaint-stamps-default"
    ),
]


def captioned_stamps() -> Iterator[tuple[Path, str]]:
    for picture in sorted(STAMPS.rglob("*.png")):
        text = picture.with_suffix(".txt")
        if NOT_PHOTOS & set(picture.relative_to(STAMPS).parts) or not text.exists():
            continue
        # The first line is English, the others are translations.
        caption = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
        if caption:
            yield picture, caption


def open_on_white(path: Path) -> Image.Image:
    with Image.open(path) as image:
        layer = image.convert("RGBA")
    background = Image.new("RGBA", layer.size, "white")
    background.alpha_composite(layer)
    return background.convert("RGB")


def unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def embed_pictures(model: EmbeddingModel, pictures: list[Path]) -> FloatArray:
    batches = []
    for start in range(0, len(pictures), BATCH):
        chunk = pictures[start : start + BATCH]
        batches.append(model.embed_images([model.preprocess(open_on_white(p)) for p in chunk]))
    return unit(np.concatenate(batches))


def test_captions_find_their_stamps(capsys: pytest.CaptureFixture[str]) -> None:
    stamps = list(captioned_stamps())
    captions = sorted({caption for _, caption in stamps})
    assert (len(stamps), len(captions)) == (404, 377)
    model = load_model(ModelChoice(DEFAULT_MODEL, "cpu", 2))
    images = embed_pictures(model, [picture for picture, _ in stamps])
    queries = unit(model.embed_texts([model.tokenize(caption) for caption in captions]))
    right = np.array([[caption == of for _, of in stamps] for caption in captions])
    order = np.argsort(-(queries @ images.T), axis=1, kind="stable")
    first_hit = np.take_along_axis(right, order, axis=1).argmax(axis=1)
    recall = {k: float((first_hit < k).mean()) for k in (1, 5, 10)}
    with capsys.disabled():
        print("\nstamps: " + "  ".join(f"R@{k} {value:.3f}" for k, value in recall.items()))
    assert recall[10] >= 0.45
