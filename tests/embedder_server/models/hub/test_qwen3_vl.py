"""Qwen3-VL-Embedding against transformers on the same random weights, by the published recipe.

The reference writes the conversation with transformers' own tokenizer and template, resizes with
its image processor, and takes the last token's state. The recipe: an instruction as the system
message, the image before the text, 4 to 1,800 tokens of an image, vectors of length 1.
"""

from __future__ import annotations

import dataclasses
import json
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
    copied,
    least_cosine,
    ours,
    pictures,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

INSTRUCTIONS = {
    Role.QUERY: "Retrieve images or text relevant to the user's query.",
    Role.DOCUMENT: "Represent the user's input.",
}


@dataclasses.dataclass
class Reference:
    """A folder, the transformers model that was written into it, and transformers' readers."""

    folder: Path
    model: Any
    tokenizer: Any
    images: Any

    def load(self, runtime: str = "torch", **choice: Any) -> DualEncoder:
        cache = self.folder.with_name("cache")
        return load_hub_model(
            ModelChoice(str(self.folder), "cpu", 2, runtime=runtime, cache_dir=cache, **choice)
        )

    def vectors(
        self, contents: Sequence[Content], role: Role, side: str = "right", most: int = 1800
    ) -> FloatArray:
        pixels: dict[str, Any] = {}
        texts = [self._conversation(content, role) for content in contents]
        pictures = [image for _, image in contents if image is not None]
        if pictures:
            area = tiny_vlms.UNIT**2
            size = {"shortest_edge": 4 * area, "longest_edge": most * area}
            pixels = dict(self.images(pictures, size=size, return_tensors="pt"))
            counts = iter(pixels["image_grid_thw"].prod(dim=1) // tiny_vlms.MERGE**2)
            pad = "<|image_pad|>"
            texts = [text.replace(pad, pad * int(next(counts))) if pad in text else text
                     for text in texts]  # fmt: skip
        self.tokenizer.padding_side = side
        read = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        ids, mask = read["input_ids"], read["attention_mask"]
        if pixels:
            pixels["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=mask, **pixels).last_hidden_state
        last = mask.shape[1] - 1 - mask.flip(dims=[1]).argmax(dim=1)
        return np.asarray(hidden[torch.arange(len(ids)), last].numpy())

    def _conversation(self, content: Content, role: Role) -> str:
        text, image = content
        parts: list[dict[str, str]] = [{"type": "image"}] if image is not None else []
        if text:
            parts.append({"type": "text", "text": text})
        system = {"role": "system", "content": [{"type": "text", "text": INSTRUCTIONS[role]}]}
        return str(
            self.tokenizer.apply_chat_template(
                [system, {"role": "user", "content": parts}],
                tokenize=False,
                add_generation_prompt=True,
            )
        )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder = tmp_path_factory.mktemp("qwen3_vl") / "model"
    model = tiny_vlms.qwen3_vl(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<|endoftext|>")
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    yield Reference(folder, model, tokenizer, Qwen2VLImageProcessorPil.from_pretrained(folder))


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
    assert cosines.max() < 0.999


def test_ids_are_the_references(reference: Reference, model: DualEncoder) -> None:
    for text in (*TEXTS, "<|im_end|> ends a message"):
        expected = reference.tokenizer(reference._conversation((text, None), Role.QUERY))
        assert model.tokenize(text, Role.QUERY).ids.tolist() == expected["input_ids"]


def test_each_role_and_each_part_of_a_content_counts(model: DualEncoder) -> None:
    [image, other] = pictures()[:2]
    variants = [
        ours(model, [("a cat", image)], Role.QUERY),
        ours(model, [("a cat", image)], Role.DOCUMENT),
        ours(model, [("a dog", image)], Role.DOCUMENT),
        ours(model, [("a cat", other)], Role.DOCUMENT),
        ours(model, [("", image)], Role.DOCUMENT),
        ours(model, [("a cat", None)], Role.DOCUMENT),
    ]
    units = unit(np.concatenate(variants))
    assert (units @ units.T - np.eye(len(units))).max() < 0.9995
    assert model.info.asymmetric
    assert model.info.embeds_image_with_text


def test_a_text_cannot_pretend_to_be_an_image(model: DualEncoder) -> None:
    [image] = pictures()[:1]
    for text in ("<|image_pad|>", "a <|image_pad|><|video_pad|> b"):
        [alone] = ours(model, [(text, None)], Role.QUERY)
        [both] = ours(model, [(text, image)], Role.QUERY)
        assert np.isfinite(alone).all() and np.isfinite(both).all()


def test_a_long_text_is_cut_and_its_frame_is_not(reference: Reference) -> None:
    model = reference.load(max_text_tokens=2000)
    [image] = pictures()[:1]
    text = "dog " * 3000
    whole = reference.load().tokenize(text)
    tokens = model.tokenize(text)
    end = reference.tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    assert len(tokens.ids) == 2000
    assert tokens.token_count == whole.token_count > 2000
    assert tokens.ids[-len(end) :].tolist() == end
    sequence, read = model.image_input(model.preprocess(image), text, Role.QUERY)
    assert len(sequence.ids) == 2000
    assert read is not None and read.truncated
    assert (sequence.ids == reference.model.config.image_token_id).sum() == 8
    assert model.info.fingerprint != reference.load().info.fingerprint
    # The image comes before the text, so it must fit with its frame.
    with pytest.raises(ModelLoadError, match=r"leaves no room for an image.* --max-image-tokens"):
        reference.load(max_text_tokens=1000)
    reference.load(max_text_tokens=1000, max_image_tokens=512)


def test_the_budget_of_image_tokens_is_the_operators(reference: Reference) -> None:
    large = pictures()[5]
    whole, less = reference.load(), reference.load(max_image_tokens=64)
    for model, most in ((whole, 1800), (less, 64)):
        sequence, _ = model.image_input(model.preprocess(large), "", Role.DOCUMENT)
        count = int((sequence.ids == reference.model.config.image_token_id).sum())
        assert most * 0.8 < count <= most
        [vector] = model.embed_images([sequence])
        expected = reference.vectors([("", large)], Role.DOCUMENT, most=most)
        assert least_cosine(vector[None], expected) > EXACT
    assert whole.info.fingerprint != less.info.fingerprint
    assert (less.info.image_size, whole.info.image_size) == (8 * 16, 42 * 16)
    with pytest.raises(ModelLoadError, match="--max-image-tokens must be 16 to 1800, not 7"):
        reference.load(max_image_tokens=7)


def test_bfloat16_is_close_and_float16_is_refused(reference: Reference) -> None:
    contents = KINDS["both"]
    half = reference.load("torch-bf16")
    assert half.info.dtype == "bfloat16"
    exact = reference.vectors(contents, Role.DOCUMENT)
    assert least_cosine(ours(half, contents, Role.DOCUMENT), exact) > 0.99
    for runtime in ("torch-fp16", "onnxruntime"):
        with pytest.raises(ModelLoadError, match=f"torch or torch-bf16, not {runtime}"):
            reference.load(runtime)


def test_shorter_vectors_are_offered(model: DualEncoder) -> None:
    assert (model.info.dimensions, model.info.supported_dimensions) == (96, (96, 64))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (5, 16)])
def test_extreme_shapes_are_embedded_within_the_budget(
    model: DualEncoder, shape: tuple[int, int]
) -> None:
    """The reference refuses sides of a ratio above 200."""
    pixels = model.preprocess(Image.new("RGB", shape[::-1], "teal"))
    assert pixels.shape[0] % tiny_vlms.UNIT == pixels.shape[1] % tiny_vlms.UNIT == 0
    assert 4 <= pixels.shape[0] * pixels.shape[1] // tiny_vlms.UNIT**2 <= 1800
    assert np.isfinite(ours(model, [("", Image.new("RGB", shape[::-1]))], Role.QUERY)).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chat_template.jinja", None, "has no chat_template.jinja: download the model again"),
        ("chat_template.jinja", "{{ messages", "cannot be rendered .* download the model"),
        ("chat_template.jinja", "hello", "does not show a text once .* download the model"),
        ("preprocessor_config.json", '{"image_mean": [0.5', "is damaged"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    reference: Reference, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = copied(reference.folder, tmp_path / "model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))


def test_a_folder_of_another_tokenizer_is_refused(reference: Reference, tmp_path: Path) -> None:
    folder = copied(reference.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_token_id": 1}))
    with pytest.raises(ModelLoadError, match=r"disagree on the token .* download the model"):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))


def test_a_checkpoint_with_a_language_head_is_read_without_it(
    reference: Reference, model: DualEncoder, tmp_path: Path
) -> None:
    """That is how the published weights are saved."""
    from transformers import Qwen3VLForConditionalGeneration

    folder = copied(reference.folder, tmp_path / "model")
    whole = Qwen3VLForConditionalGeneration(reference.model.config)
    whole.model.load_state_dict(reference.model.state_dict())
    whole.save_pretrained(folder)
    other = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    contents = KINDS["both"]
    expected = ours(model, contents, Role.QUERY)
    np.testing.assert_allclose(ours(other, contents, Role.QUERY), expected, atol=1e-5)


def test_instructions_come_from_the_folder_and_change_the_space(
    reference: Reference, tmp_path: Path
) -> None:
    folder = copied(reference.folder, tmp_path / "model")
    prompts = {"query": "Find the same shoe", "default": "Represent the user's input."}
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": prompts, "default_prompt_name": "default"})
    )
    other = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    whole = reference.load()
    ids = other.tokenize("a cat", Role.QUERY).ids.tolist()
    assert reference.tokenizer.decode(ids).startswith("<|im_start|>system\nFind the same shoe.<")
    document = other.tokenize("a cat", Role.DOCUMENT).ids.tolist()
    assert document == whole.tokenize("a cat", Role.DOCUMENT).ids.tolist()
    assert other.info.fingerprint != whole.info.fingerprint
