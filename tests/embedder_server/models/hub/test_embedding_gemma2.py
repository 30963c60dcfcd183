"""EmbeddingGemma 2 against transformers on the same random weights.

The reference reads with transformers' own tokenizer and image processor, and takes the mean of all
tokens, as the model's sentence-transformers configuration does. Prompts are for texts only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.types import FloatArray, ModelLoadError
from scripts.check_model import unit
from sentinel_core.vectors import Role
from tests.embedder_server.models import tiny_vlms
from tests.embedder_server.models.hub.vlm_cases import (
    EXACT,
    KINDS,
    TEXTS,
    Content,
    least_cosine,
    ours,
    pictures,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.18")

PROMPTS = {
    Role.QUERY: "task: search result | query: ",
    Role.DOCUMENT: "title: none | text: ",
}


@dataclasses.dataclass
class Reference:
    """A folder, the transformers model that was written into it, and transformers' readers."""

    folder: Path
    model: Any
    tokenizer: Any
    images: Any

    def load(self, runtime: str = "torch", **choice: Any) -> DualEncoder:
        return load_hub_model(ModelChoice(str(self.folder), "cpu", 2, runtime=runtime, **choice))

    def vectors(
        self, contents: Sequence[Content], role: Role, side: str = "right", most: int = 70
    ) -> FloatArray:
        pixels: dict[str, Any] = {}
        pictures = [image for _, image in contents if image is not None]
        counts: Iterator[int] = iter(())
        if pictures:
            read = dict(self.images(pictures, max_soft_tokens=most, return_tensors="pt"))
            counts = iter(map(int, read.pop("num_soft_tokens_per_image")))
            pixels = read
        texts = []
        for text, image in contents:
            parts = [PROMPTS[role] + text] if text else []
            if image is not None:
                parts.append(f"<|image>{'<|image|>' * next(counts)}<image|>")
            texts.append(" ".join(parts))
        self.tokenizer.padding_side = side
        read = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        ids, mask = read["input_ids"], read["attention_mask"]
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=mask, **pixels).last_hidden_state
        weights = mask.unsqueeze(2)
        return np.asarray(((hidden * weights).sum(dim=1) / weights.sum(dim=1)).numpy())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    folder = tmp_path_factory.mktemp("embedding_gemma2") / "model"
    model = tiny_vlms.embedding_gemma2(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>"
    )
    processor = Gemma4ImageProcessorPil(patch_size=tiny_vlms.PATCH, max_soft_tokens=70)
    yield Reference(folder, model, tokenizer, processor)


@pytest.fixture(scope="module")
def model(reference: Reference) -> DualEncoder:
    return reference.load()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_references_alone_and_in_any_batch(
    reference: Reference, model: DualEncoder, kind: str, role: Role
) -> None:
    contents = KINDS[kind]
    alone = np.concatenate([reference.vectors([one], role) for one in contents])
    assert least_cosine(ours(model, contents, role), alone) > EXACT
    each = np.concatenate([ours(model, [one], role) for one in contents])
    assert least_cosine(each, alone) > EXACT
    for side in ("right", "left"):
        assert least_cosine(each, reference.vectors(contents, role, side)) > EXACT
    # Vectors depend on what they are of: the comparisons above could fail.
    cosines = unit(alone) @ unit(alone).T - np.eye(len(alone))
    assert cosines.max() < 0.9995


def test_images_have_no_role_and_texts_have_one(model: DualEncoder) -> None:
    [image] = pictures()[:1]
    contents: list[Content] = [("", image), ("a cat", None), ("a cat", image)]
    agree = [
        least_cosine(*(ours(model, [content], role) for role in Role)) > EXACT
        for content in contents
    ]
    assert agree == [True, False, False]
    assert model.info.asymmetric
    assert model.info.embeds_image_with_text


def test_a_text_cannot_pretend_to_be_a_medium(model: DualEncoder) -> None:
    for text in ("<|image|>", "a <|audio|> <|video|> b"):
        assert np.isfinite(ours(model, [(text, None)], Role.QUERY)).all()


@pytest.mark.parametrize("most", [140, 280])
def test_the_budget_of_image_tokens_is_the_operators(reference: Reference, most: int) -> None:
    model = reference.load(max_image_tokens=most)
    for image in pictures()[4:6]:
        found = ours(model, [("", image)], Role.DOCUMENT)
        expected = reference.vectors([("", image)], Role.DOCUMENT, most=most)
        assert least_cosine(found, expected) > EXACT
    assert model.info.fingerprint != reference.load().info.fingerprint


def test_other_budgets_are_refused(reference: Reference) -> None:
    with pytest.raises(ModelLoadError, match="one of 70, 140, 280, 560, 1120, not 100"):
        reference.load(max_image_tokens=100)


def test_a_long_text_is_cut_before_its_end(reference: Reference) -> None:
    model = reference.load(max_text_tokens=120)
    [image] = pictures()[:1]
    tokens = model.tokenize("dog " * 3000, Role.QUERY)
    end = reference.tokenizer.convert_tokens_to_ids("<eos>")
    assert (len(tokens.ids), tokens.ids[-1], tokens.truncated) == (120, end, True)
    sequence, read = model.image_input(model.preprocess(image), "dog " * 3000, Role.QUERY)
    assert len(sequence.ids) == 120
    assert read is not None and read.truncated
    count = (sequence.ids == reference.model.config.image_token_id).sum()
    whole, _ = model.image_input(model.preprocess(image), "", Role.QUERY)
    assert count == (whole.ids == reference.model.config.image_token_id).sum() > 50


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (5, 16)])
def test_extreme_shapes_are_the_references(
    reference: Reference, model: DualEncoder, shape: tuple[int, int]
) -> None:
    random = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    contents: list[Content] = [("", Image.fromarray(random))]
    found = ours(model, contents, Role.DOCUMENT)
    assert least_cosine(found, reference.vectors(contents, Role.DOCUMENT)) > EXACT


def test_shorter_vectors_are_offered_and_no_audio_network_is_loaded(
    reference: Reference, model: DualEncoder
) -> None:
    assert (model.info.dimensions, model.info.supported_dimensions) == (160, (160, 128))
    assert reference.model.audio_tower is not None
    assert model._towers._model.audio_tower is None  # type: ignore[attr-defined]


def test_bfloat16_is_close(reference: Reference) -> None:
    contents: list[Content] = [(text, None) for text in TEXTS]
    exact = reference.vectors(contents, Role.DOCUMENT)
    assert least_cosine(ours(reference.load("torch-bf16"), contents, Role.DOCUMENT), exact) > 0.99
