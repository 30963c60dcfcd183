"""EmbeddingGemma 2 against transformers on the same random weights.

The reference reads with transformers' own tokenizer and image processor, and takes the mean of all
tokens, as the model's sentence-transformers configuration does. Prompts are for texts only.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.hub.hub_model import DualEncoder
from embedder_server.types import ModelLoadError
from scripts.check_vlm import (
    TEXTS,
    Content,
    EmbeddingGemma2,
    embedded,
    kinds,
    least_cosine,
    pictures,
    unit,
)
from sentinel_core.vectors import Role
from tests.embedder_server.models import tiny_vlms
from tests.embedder_server.models.hub.vlm_cases import EXACT, Case

# Minutes of two cores; tests/embedder_server/api/test_vlm_worker.py serves one in every run.
pytestmark = pytest.mark.slow

pytest.importorskip("torch")
pytest.importorskip("transformers.models.embedding_gemma2")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("embedding_gemma2") / "model"
    return Case(folder, EmbeddingGemma2(folder, tiny_vlms.embedding_gemma2(folder)))


@pytest.fixture(scope="module")
def model(case: Case) -> DualEncoder:
    return case.load()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", kinds())
def test_vectors_are_the_references_alone_and_in_any_batch(
    case: Case, model: DualEncoder, kind: str, role: Role
) -> None:
    contents = kinds()[kind]
    alone = np.concatenate([case.reference.vectors([one], role) for one in contents])
    assert least_cosine(embedded(model, contents, role), alone) > EXACT
    each = np.concatenate([embedded(model, [one], role) for one in contents])
    assert least_cosine(each, alone) > EXACT
    for side in ("right", "left"):
        assert least_cosine(each, case.reference.vectors(contents, role, side)) > EXACT
    # Vectors depend on what they are of: the comparisons above could fail.
    cosines = unit(alone) @ unit(alone).T - np.eye(len(alone))
    assert cosines.max() < 0.9995


def test_images_have_no_role_and_texts_have_one(model: DualEncoder) -> None:
    [image] = pictures()[:1]
    contents: list[Content] = [("", image), ("a cat", None), ("a cat", image)]
    agree = [
        least_cosine(*(embedded(model, [content], role) for role in Role)) > EXACT
        for content in contents
    ]
    assert agree == [True, False, False]
    assert model.info.asymmetric
    assert model.info.embeds_image_with_text


def test_a_text_cannot_pretend_to_be_a_medium(model: DualEncoder) -> None:
    for text in ("<|image|>", "a <|audio|> <|video|> b"):
        assert np.isfinite(embedded(model, [(text, None)], Role.QUERY)).all()


@pytest.mark.parametrize("most", [70, 140])
def test_the_budget_of_image_tokens_is_the_operators(case: Case, most: int) -> None:
    model = case.load(max_image_tokens=most)
    for image in pictures()[4:6]:
        found = embedded(model, [("", image)], Role.DOCUMENT)
        expected = case.reference.vectors([("", image)], Role.DOCUMENT, most=most)
        assert least_cosine(found, expected) > EXACT
    assert model.info.fingerprint != case.load().info.fingerprint


def test_other_budgets_are_refused(case: Case) -> None:
    with pytest.raises(ModelLoadError, match="one of 70, 140, 280, 560, 1120, not 100"):
        case.load(max_image_tokens=100)


def test_a_long_text_is_cut_before_its_end(case: Case) -> None:
    model = case.load(max_text_tokens=400)
    [image] = pictures()[:1]
    tokens = model.tokenize("dog " * 3000, Role.QUERY)
    end = case.reference.tokenizer.convert_tokens_to_ids("<eos>")
    assert (len(tokens.ids), tokens.ids[-1], tokens.truncated) == (400, end, True)
    sequence, read = model.image_input(model.preprocess(image), "dog " * 3000, Role.QUERY)
    assert len(sequence.ids) == 400
    assert read is not None and read.truncated
    count = (sequence.ids == case.reference.model.config.image_token_id).sum()
    whole, _ = model.image_input(model.preprocess(image), "", Role.QUERY)
    assert count == (whole.ids == case.reference.model.config.image_token_id).sum() > 200


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (5, 16)])
def test_extreme_shapes_are_the_references(
    case: Case, model: DualEncoder, shape: tuple[int, int]
) -> None:
    random = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    contents: list[Content] = [("", Image.fromarray(random))]
    found = embedded(model, contents, Role.DOCUMENT)
    assert least_cosine(found, case.reference.vectors(contents, Role.DOCUMENT)) > EXACT


def test_shorter_vectors_are_offered_and_no_audio_network_is_loaded(
    case: Case, model: DualEncoder
) -> None:
    assert (model.info.dimensions, model.info.supported_dimensions) == (160, (160, 128))
    assert case.reference.model.audio_tower is not None
    assert model._towers._model.audio_tower is None  # type: ignore[attr-defined]


def test_bfloat16_is_close(case: Case) -> None:
    contents: list[Content] = [(text, None) for text in TEXTS]
    exact = case.reference.vectors(contents, Role.DOCUMENT)
    assert least_cosine(embedded(case.load("torch-bf16"), contents, Role.DOCUMENT), exact) > 0.99
