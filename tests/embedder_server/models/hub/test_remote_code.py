"""A model whose code comes with its weights, loaded from a pinned revision."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import load_hub_model
from tests.embedder_server.models import tiny_models
from tests.embedder_server.models.tiny_models import SIDE, TEXTS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL_CODE = """
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


    class OwnConfig(PretrainedConfig):
        model_type = "own_clip"

        def __init__(self, projection_dim=16, text_config=None, **kwargs):
            super().__init__(**kwargs)
            self.projection_dim = projection_dim
            self.text_config = text_config or {}


    class OwnClip(PreTrainedModel):
        config_class = OwnConfig

        def __init__(self, config):
            super().__init__(config)
            self.words = torch.nn.Embedding(1000, config.projection_dim)
            self.patches = torch.nn.Conv2d(3, config.projection_dim, 8, stride=8)
            self.logit_scale = torch.nn.Parameter(torch.tensor(3.0))
            self.post_init()

        def get_text_features(self, input_ids, attention_mask):
            mask = attention_mask.unsqueeze(2).to(self.words.weight.dtype)
            return (self.words(input_ids) * mask).sum(1) / mask.sum(1)

        def get_image_features(self, pixel_values):
            return self.patches(pixel_values).relu().mean((2, 3))
"""


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A folder as a hub download at a commit leaves it, the code among its files."""
    folder = tmp_path / "models--somebody--own-clip" / "snapshots" / COMMIT
    tiny_models.clip(folder)  # for its tokenizer and preprocessor
    (folder / "modeling_own.py").write_text(textwrap.dedent(MODEL_CODE))
    config = {
        "model_type": "own_clip",
        "architectures": ["OwnClip"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModel": "modeling_own.OwnClip",
        },
        "projection_dim": 16,
        "text_config": {"max_position_embeddings": 24, "pad_token_id": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(5)
    weights = {
        "words.weight": torch.randn(1000, 16, generator=generator),
        "patches.weight": torch.randn(16, 3, 8, 8, generator=generator),
        "patches.bias": torch.randn(16, generator=generator),
        "logit_scale": torch.tensor(3.0),
    }
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_pinned_models_own_code_computes_its_vectors(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = load_hub_model(
        ModelChoice(
            str(pinned),
            "cpu",
            1,
            revision=COMMIT,
            cache_dir=tmp_path / "cache",
            trust_remote_code=True,
        )
    )
    assert model.info.runtime == "torch"
    assert model.info.revision == COMMIT
    assert model.info.logit_scale == pytest.approx(np.exp(3.0))

    texts = [text for text in TEXTS if text]
    vectors = model.embed_texts([model.tokenize(text) for text in texts])
    from safetensors.torch import load_file

    weights = load_file(pinned / "model.safetensors")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(pinned)
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        expected = weights["words.weight"][ids].mean(0).numpy()
        assert cosine(vector, expected) > 0.9999

    picture = Image.new("RGB", (SIDE, SIDE), (200, 30, 90))
    [image] = model.embed_images([model.preprocess(picture)])
    assert image.shape == (16,)
    assert np.isfinite(image).all()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
