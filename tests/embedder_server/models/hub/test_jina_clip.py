"""jina-clip from ONNX files shaped like the published ones."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.runtimes.onnx import cpu_precisions
from embedder_server.texts.batches import Padding
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models

TEXTS = ("a cat", "two dogs on the beach at night", "the old red boat", "coffee", "a red dog")
RUNTIMES = ("onnxruntime", *(("openvino",) if cpu_precisions() else ()))


def load(folder: Path, runtime: str = "onnxruntime") -> DualEncoder:
    cache = folder.parent / "cache"
    return load_hub_model(ModelChoice(str(folder), "cpu", 2, runtime=runtime, cache_dir=cache))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("masked", [True, False])
def test_texts_share_a_batch_only_as_far_as_padding_changes_nothing(
    tmp_path: Path, masked: bool, runtime: str
) -> None:
    tiny_models.jina(tmp_path / "jina", masked=masked)
    model = load(tmp_path / "jina", runtime)
    assert model._towers._batches.padding is (Padding.LONGEST if masked else Padding.NONE)
    texts = [model.tokenize(text) for text in TEXTS]
    together = model.embed_texts(texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.embed_texts([text])[0], row, atol=1e-5)


def test_a_text_network_that_fails_at_17_tokens_is_refused_with_the_revision_to_use(
    tmp_path: Path,
) -> None:
    tiny_models.jina(tmp_path / "jina", longest=16)
    with pytest.raises(ModelLoadError, match=r"40 tokens.*903aaac"):
        load(tmp_path / "jina")


@pytest.mark.parametrize("suffix", ["_int8", "_quantized", "_q4", "_uint8", "_bnb4", "_fp16"])
def test_only_the_published_float32_files_are_used(tmp_path: Path, suffix: str) -> None:
    tiny_models.jina(tmp_path / "jina", suffix=suffix)
    with pytest.raises(ModelLoadError, match=f"text_model{suffix}.onnx.*never used"):
        load(tmp_path / "jina")


def test_int8_is_made_from_the_float_files(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    info = load(tmp_path / "jina", "onnxruntime-int8").info
    assert info.dtype == "int8"
    assert "cosine to float32" in info.runtime_choice


def test_images_are_cut_from_the_middle_and_embedded(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    model = load(tmp_path / "jina")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    whole, middle = Image.fromarray(pixels), Image.fromarray(pixels[16:48])
    np.testing.assert_array_equal(model.preprocess(whole), model.preprocess(middle))
    assert model.embed_images([model.preprocess(whole)]).shape == (1, 12)


def test_version_1_has_one_length_and_version_2_has_matryoshkas(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "v1")
    tiny_models.jina(tmp_path / "v2", version=2)
    assert load(tmp_path / "v1").info.supported_dimensions == ()
    assert load(tmp_path / "v2").info.supported_dimensions == (1024, 768, 512, 256, 128, 64)


def test_version_2s_one_graph_serves_both_towers(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "v2", version=2)
    model = load(tmp_path / "v2", "auto")
    texts = model.embed_texts([model.tokenize(text) for text in TEXTS])
    assert texts.shape == (len(TEXTS), 1024)
    assert np.linalg.norm(texts[0] - texts[1]) > 0.1
    image = model.preprocess(Image.new("RGB", (50, 40), "red"))
    assert model.embed_images([image, image]).shape == (2, 1024)


def test_tokenizer_settings_in_the_file_do_not_pad_texts(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    model = load(tmp_path / "jina")
    assert model.tokenize("a cat").ids.tolist()[0] == 2
    assert len(model.tokenize("a cat").ids) == 4


def test_the_logit_scale_is_the_one_training_began_with(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    assert load(tmp_path / "jina").info.logit_scale == pytest.approx(math.exp(2.6592))


def test_a_missing_vision_file_is_an_unfinished_download(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    (tmp_path / "jina" / "onnx" / "vision_model.onnx").unlink()
    with pytest.raises(ModelLoadError, match="not downloaded completely"):
        load(tmp_path / "jina")


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    pointer = tmp_path / "jina" / "onnx" / "text_model.onnx"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n")
    with pytest.raises(ModelLoadError, match="git lfs pull"):
        load(tmp_path / "jina")


def test_a_cut_off_network_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    file = tmp_path / "jina" / "onnx" / "vision_model.onnx"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ModelLoadError, match=r"vision_model\.onnx"):
        load(tmp_path / "jina")


def test_no_remote_code_of_the_repository_is_asked_for(tmp_path: Path) -> None:
    tiny_models.jina(tmp_path / "jina")
    load(tmp_path / "jina")
    assert "transformers_modules" not in sys.modules
