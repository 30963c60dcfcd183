"""`--max-text-tokens`: long texts cost less, short ones keep their vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedder_server.models.base import EmbeddingModel
from embedder_server.models.registry import DEFAULT_MODEL, load_model
from embedder_server.settings import EmbedderSettings
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models

LONG = "two dogs on the beach at night near the old red boat and many people"
Load = Callable[[int], EmbeddingModel]


@pytest.fixture(scope="module", params=["clip", "siglip", "jina", DEFAULT_MODEL])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    scratch = tmp_path_factory.mktemp("models")
    name = request.param
    if name != DEFAULT_MODEL:
        if name != "jina":
            pytest.importorskip("torch")
        getattr(tiny_models, name)(scratch / name)
        name = str(scratch / name)

    def load(limit: int) -> EmbeddingModel:
        return load_model(_settings(name, scratch / "cache", limit).model_choice)

    return load


def _settings(name: str, cache: Path, limit: int) -> EmbedderSettings:
    return EmbedderSettings(
        _env_file=None,
        model=name,
        threads=1,
        runtime="onnxruntime",
        cache_dir=cache,
        max_text_tokens=limit,
    )


def vector(model: EmbeddingModel, text: str) -> np.ndarray:
    [row] = model.embed_texts([model.tokenize(text)])
    return row / np.linalg.norm(row)


def test_only_texts_over_the_limit_get_other_vectors(load: Load) -> None:
    own, limited = load(0), load(10)
    assert limited.info.max_text_tokens == 10 < own.info.max_text_tokens
    tokens = limited.tokenize(LONG)
    assert (len(tokens.ids), tokens.truncated) == (10, True)
    assert tokens.token_count == own.tokenize(LONG).token_count
    np.testing.assert_allclose(vector(limited, "a cat"), vector(own, "a cat"), atol=1e-6)
    assert abs(vector(limited, LONG) - vector(own, LONG)).max() > 1e-3


def test_the_fingerprint_names_a_limit_below_the_model_s_own(load: Load) -> None:
    own = load(0).info
    assert load(own.max_text_tokens).info == own
    assert len({own.fingerprint, load(9).info.fingerprint, load(10).info.fingerprint}) == 3


@pytest.mark.parametrize("limit", [1, 7, 9000])
def test_a_limit_the_model_cannot_have_is_refused(load: Load, limit: int) -> None:
    with pytest.raises(ModelLoadError, match=rf"--max-text-tokens must be 8 to \d+.*not {limit}"):
        load(limit)
