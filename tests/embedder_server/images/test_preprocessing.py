"""Pictures and texts of any kind, at a bounded cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.images import preprocessing
from embedder_server.images.preprocessing import (
    ImageRecipe,
    PatchRecipe,
    interpolation,
    patch_grid,
    read_image_recipe,
)
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TextTokenizer, TokenizedText, read_tokenizer
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models

CROP = ImageRecipe(size=None, shortest_edge=32, crop=(32, 32))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (3, 4_000)])
def test_extreme_shapes_cost_no_more_memory_than_the_model_sees(size: tuple[int, int]) -> None:
    patches = PatchRecipe(8, 16, 4, 2, (0.5,) * 3, (0.5,) * 3)
    squash = ImageRecipe(size=(32, 32), shortest_edge=0, crop=None)
    for preparing in (CROP, squash, patches):
        pixels = preparing.pixels(Image.new("RGB", size, "red"))  # type: ignore[attr-defined]
        assert np.isfinite(pixels).all()
    assert CROP.pixels(Image.new("RGB", size, "red")).shape == (3, 32, 32)


def test_resizing_only_what_the_crop_keeps_gives_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocessing, "MAX_EXCESS", 8)
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (40, 600, 3), dtype=np.uint8))
    whole = image.resize((480, 32), Image.Resampling.BICUBIC).crop((224, 0, 256, 32))
    ours = CROP._resized(image)
    difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(whole, dtype=int))
    assert difference.max() <= 1


@pytest.mark.parametrize("size", [(1200, 30), (30, 1200), (600, 40)])
def test_panoramas_have_exactly_the_pixels_of_the_whole_resized(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    width, height = (int(32 * length / min(size)) for length in size)
    left, top = (width - 32) // 2, (height - 32) // 2
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    expected = whole.crop((left, top, left + 32, top + 32))
    np.testing.assert_array_equal(np.asarray(CROP._resized(image)), np.asarray(expected))


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"shortest_edge": 224, "longest_edge": 400}, "do_center_crop": True},
        {"size": {"shortest_edge": 224}},
        {"do_resize": False},
        {"size": 224, "resize_mode": "longest"},
        {"size": 224, "resize_mode": "shortest", "interpolation": "random"},
    ],
)
def test_a_recipe_that_we_cannot_follow_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match="not supported"):
        read_image_recipe(config)


def test_sizes_written_as_numbers_are_read_as_transformers_reads_them() -> None:
    clip = read_image_recipe({"size": 224, "crop_size": 224, "do_center_crop": True})
    assert (clip.size, clip.shortest_edge, clip.crop) == (None, 224, (224, 224))
    assert read_image_recipe({"size": 384, "do_center_crop": False}).size == (384, 384)
    assert read_image_recipe({"size": {"height": 256, "width": 256}}).side == 256


@pytest.mark.parametrize("target", [1, 3, 4, 7, 16, 40])
def test_interpolation_weights_are_torchs(target: int) -> None:
    torch = pytest.importorskip("torch")
    grid = torch.randn(1, 2, 16, 16)
    theirs = torch.nn.functional.interpolate(
        grid, size=(target, 5), mode="bilinear", antialias=True, align_corners=False
    )
    rows, columns = interpolation(16, target), interpolation(16, 5)
    np.testing.assert_allclose(rows @ grid[0].numpy() @ columns.T, theirs[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(480, 640), (1, 20_000), (33, 7), (1000, 1000), (1, 1)])
def test_patch_grids_are_transformers(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")
    theirs = module.get_image_size_for_max_num_patches(*size, 16, 256)
    assert patch_grid(*size, 16, 256) == (theirs[0] // 16, theirs[1] // 16)


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    tiny_models.jina(tmp_path)
    return TextTokenizer(read_tokenizer(tmp_path, {})[0], 64)


@pytest.mark.parametrize(
    "text",
    ["a red cat " * 10_000, "x" * 100_000, " " * 100_000, "猫" * 100_000, "a" + "\n" * 99_999],
)
def test_a_hundred_thousand_characters_are_cut_quickly(tokenizer: TextTokenizer, text: str) -> None:
    started = time.perf_counter()
    tokens = tokenizer.tokenize(text)
    assert time.perf_counter() - started < 2  # a bound on disaster, not a measurement
    assert len(tokens.ids) <= 64
    assert tokens.ids[-1] == 3  # the closing token survives the cut


def test_a_text_that_opens_with_blanks_is_still_read(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.tokenize(" " * 50_000 + "a cat")
    assert tokens.ids.tolist() == tokenizer.tokenize("a cat").ids.tolist()
    assert not tokens.truncated


def texts(*lengths: int) -> list[TokenizedText]:
    return [TokenizedText(np.arange(1, n + 1, dtype=np.int64), n) for n in lengths]


@pytest.mark.parametrize("padding", list(Padding))
def test_every_text_is_in_exactly_one_batch(padding: Padding) -> None:
    batches = list(TextBatches(padding, 0, 70).split(texts(3, 60, 5, 3, 20)))
    assert sorted(int(row) for rows, _, _ in batches for row in rows) == [0, 1, 2, 3, 4]
    for rows, ids, mask in batches:
        assert ids.shape == mask.shape == (len(rows), ids.shape[1])
        assert (ids[mask == 0] == 0).all()


def test_texts_of_unequal_length_never_meet_where_padding_is_read() -> None:
    for _, _, mask in TextBatches(Padding.NONE, 0, 70).split(texts(3, 60, 5, 3, 20)):
        assert mask.all()


def test_rows_may_be_filled_up_at_their_beginning() -> None:
    [(_, ids, mask)] = TextBatches(Padding.MAX_LENGTH, 9, 4, pad_left=True).split(texts(2))
    assert ids.tolist() == [[9, 9, 1, 2]]
    assert mask.tolist() == [[0, 0, 1, 1]]
