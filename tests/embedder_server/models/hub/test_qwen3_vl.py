"""Qwen3-VL-Embedding against transformers on the same random weights, by the published recipe.

The reference writes the conversation with transformers' own tokenizer and template, resizes with
its image processor, and takes the last token's state. The recipe: an instruction as the system
message, the image before the text, 4 to 1,800 tokens of an image, vectors of length 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import hub_model, vlm_networks
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.hub.source import find_model
from embedder_server.models.runtimes.base import Runtime
from embedder_server.types import ModelLoadError
from scripts import check_vlm
from scripts.check_vlm import (
    TEXTS,
    Qwen3Vl,
    embedded,
    kinds,
    least_cosine,
    pictures,
    unit,
)
from sentinel_core.vectors import Role
from tests.embedder_server.models import tiny_vlms
from tests.embedder_server.models.hub.vlm_cases import EXACT, Case, copied

# Minutes of two cores; tests/embedder_server/api/test_vlm_worker.py serves one in every run.
pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("qwen3_vl") / "model"
    return Case(folder, Qwen3Vl(folder, tiny_vlms.qwen3_vl(folder)))


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
    assert cosines.max() < 0.999


def test_ids_are_the_references(case: Case, model: DualEncoder) -> None:
    for text in (*TEXTS, "<|im_end|> ends a message"):
        expected = case.reference.tokenizer(
            case.reference.written(text, None, Role.QUERY, iter(()))
        )
        assert model.tokenize(text, Role.QUERY).ids.tolist() == expected["input_ids"]


def test_each_role_and_each_part_of_a_content_counts(model: DualEncoder) -> None:
    [image, other] = pictures()[:2]
    variants = [
        embedded(model, [("a cat", image)], Role.QUERY),
        embedded(model, [("a cat", image)], Role.DOCUMENT),
        embedded(model, [("a dog", image)], Role.DOCUMENT),
        embedded(model, [("a cat", other)], Role.DOCUMENT),
        embedded(model, [("", image)], Role.DOCUMENT),
        embedded(model, [("a cat", None)], Role.DOCUMENT),
    ]
    units = unit(np.concatenate(variants))
    assert (units @ units.T - np.eye(len(units))).max() < 0.9995
    assert model.info.asymmetric
    assert model.info.embeds_image_with_text


def test_a_text_cannot_pretend_to_be_an_image(model: DualEncoder) -> None:
    [image] = pictures()[:1]
    for text in ("<|image_pad|>", "a <|image_pad|><|video_pad|> b"):
        [alone] = embedded(model, [(text, None)], Role.QUERY)
        [both] = embedded(model, [(text, image)], Role.QUERY)
        assert np.isfinite(alone).all() and np.isfinite(both).all()


def test_a_long_text_is_cut_and_its_frame_is_not(case: Case) -> None:
    model = case.load(max_text_tokens=2000)
    [image] = pictures()[:1]
    text = "dog " * 3000
    whole = case.load().tokenize(text)
    tokens = model.tokenize(text)
    end = case.reference.tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    assert len(tokens.ids) == 2000
    assert tokens.token_count == whole.token_count > 2000
    assert tokens.ids[-len(end) :].tolist() == end
    sequence, read = model.image_input(model.preprocess(image), text, Role.QUERY)
    assert len(sequence.ids) == 2000
    assert read is not None and read.truncated
    assert (sequence.ids == case.reference.model.config.image_token_id).sum() == 8
    assert model.info.fingerprint != case.load().info.fingerprint
    # The image comes before the text, so it must fit with its frame.
    with pytest.raises(ModelLoadError, match=r"leaves no room for an image.* --max-image-tokens"):
        case.load(max_text_tokens=1000)
    case.load(max_text_tokens=1000, max_image_tokens=512)


def test_the_budget_of_image_tokens_is_the_operators(case: Case) -> None:
    large = pictures()[5]
    whole, less = case.load(), case.load(max_image_tokens=64)
    for model, most in ((whole, 1800), (less, 64)):
        sequence, _ = model.image_input(model.preprocess(large), "", Role.DOCUMENT)
        count = int((sequence.ids == case.reference.model.config.image_token_id).sum())
        assert most * 0.8 < count <= most
        [vector] = model.embed_images([sequence])
        expected = case.reference.vectors([("", large)], Role.DOCUMENT, most=most)
        assert least_cosine(vector[None], expected) > EXACT
    assert whole.info.fingerprint != less.info.fingerprint
    assert (less.info.image_size, whole.info.image_size) == (8 * 16, 42 * 16)
    with pytest.raises(ModelLoadError, match="--max-image-tokens must be 16 to 1800, not 7"):
        case.load(max_image_tokens=7)


def test_bfloat16_is_close_and_float16_is_refused(case: Case) -> None:
    contents = kinds()["both"]
    half = case.load("torch-bf16")
    assert half.info.dtype == "bfloat16"
    exact = case.reference.vectors(contents, Role.DOCUMENT)
    assert least_cosine(embedded(half, contents, Role.DOCUMENT), exact) > 0.99
    for runtime in ("torch-fp16", "onnxruntime"):
        with pytest.raises(ModelLoadError, match=f"torch or torch-bf16, not {runtime}"):
            case.load(runtime)


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
    assert np.isfinite(embedded(model, [("", Image.new("RGB", shape[::-1]))], Role.QUERY)).all()


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
    case: Case, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = copied(case.folder, tmp_path / "model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))


def test_missing_weights_are_refused(case: Case, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copied(case.folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 1 weights.*norm.weight.* download the model"):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))


def test_a_folder_of_another_tokenizer_is_refused(case: Case, tmp_path: Path) -> None:
    folder = copied(case.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_token_id": 1}))
    with pytest.raises(ModelLoadError, match=r"disagree on the token .* download the model"):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))


def test_a_checkpoint_with_a_language_head_is_read_without_it(
    case: Case, model: DualEncoder, tmp_path: Path
) -> None:
    """That is how the published weights are saved."""
    from transformers import Qwen3VLForConditionalGeneration

    folder = copied(case.folder, tmp_path / "model")
    whole = Qwen3VLForConditionalGeneration(case.reference.model.config)
    whole.model.load_state_dict(case.reference.model.state_dict())
    whole.save_pretrained(folder)
    other = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    contents = kinds()["both"]
    expected = embedded(model, contents, Role.QUERY)
    np.testing.assert_allclose(embedded(other, contents, Role.QUERY), expected, atol=1e-5)


def test_instructions_come_from_the_folder_and_change_the_space(case: Case, tmp_path: Path) -> None:
    folder = copied(case.folder, tmp_path / "model")
    prompts = {"query": "Find the same shoe", "default": "Represent the user's input."}
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": prompts, "default_prompt_name": "default"})
    )
    other = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    whole = case.load()
    ids = other.tokenize("a cat", Role.QUERY).ids.tolist()
    assert case.reference.tokenizer.decode(ids).startswith(
        "<|im_start|>system\nFind the same shoe.<"
    )
    document = other.tokenize("a cat", Role.DOCUMENT).ids.tolist()
    assert document == whole.tokenize("a cat", Role.DOCUMENT).ids.tolist()
    assert other.info.fingerprint != whole.info.fingerprint


def test_float32_is_left_out_where_it_does_not_fit(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Published weights are bfloat16, so float32 takes twice the size of the files."""
    folder = copied(case.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(vlm_networks, "usable_bytes", lambda: int(1.5 * size))
    model = load_hub_model(ModelChoice(str(folder), cache_dir=tmp_path / "cache"))
    assert model.info.dtype == "bfloat16"
    with pytest.raises(ModelLoadError, match=r"GB in float32, .* use --runtime torch-bf16"):
        load_hub_model(ModelChoice(str(folder), runtime="torch"))
    # Weights pass through the host's memory on their way to a GPU.
    nothing: Any = None
    networks = vlm_networks.VlmNetworks(
        find_model(str(folder), None), nothing, nothing, config={}, device="cuda:0", threads=1
    )
    assert networks.candidates() == (Runtime("torch", "bf16"),)


def test_files_of_float32_are_served_in_the_memory_for_bfloat16(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = (case.folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(vlm_networks, "usable_bytes", lambda: int(0.7 * size))
    monkeypatch.setattr(hub_model, "usable_bytes", lambda: int(0.7 * size))
    model = load_hub_model(ModelChoice(str(case.folder), cache_dir=tmp_path / "cache"))
    assert model.info.dtype == "bfloat16"


def test_image_settings_are_read_first_where_transformers_reads_them_first(
    case: Case, model: DualEncoder, tmp_path: Path
) -> None:
    folder = copied(case.folder, tmp_path / "model")
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    nested = {"image_processor": {**pixels, "image_mean": [0.1, 0.2, 0.3]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    other = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    assert other.info.fingerprint != model.info.fingerprint
    nested["image_processor"] |= {"do_normalize": False}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    plain = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    nested["image_processor"] |= {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    same = load_hub_model(ModelChoice(str(folder), runtime="torch"))
    one = [plain.preprocess(Image.new("RGB", (40, 30), "red"))]
    assert (
        least_cosine(
            plain.embed_images([plain.image_input(*one, "", Role.QUERY)[0]]),
            same.embed_images([same.image_input(*one, "", Role.QUERY)[0]]),
        )
        > EXACT
    )


def test_the_script_for_real_weights_passes_here(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check_vlm.py", str(case.folder), "--runtimes", "torch"])
    assert check_vlm.main() == 0
    printed = capsys.readouterr().out
    assert "both as query: cosine to the reference at least 1.000000" in printed
    both = ["check_vlm.py", str(case.folder), "--runtimes", "torch,torch-fp16"]
    with monkeypatch.context() as named:
        named.setattr("sys.argv", both)
        assert check_vlm.main() == 1  # float16 does not load
    assert "WRONG" not in capsys.readouterr().out
    monkeypatch.setitem(check_vlm.QWEN_INSTRUCTIONS, Role.QUERY, "Something else.")
    assert check_vlm.main() == 1
    assert "WRONG" in capsys.readouterr().out
