"""Every family against the transformers reference on the same random weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import hub_model
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.hub.source import find_model
from embedder_server.models.runtimes import onnx, selection
from embedder_server.models.runtimes.onnx import cpu_precisions
from embedder_server.models.runtimes.torch import device_name
from embedder_server.texts.batches import Padding
from embedder_server.texts.tokenizer import canonical
from embedder_server.types import FloatArray, ModelLoadError
from scripts.check_model import transformers_images, transformers_texts, unit
from tests.embedder_server.models import tiny_families, tiny_models
from tests.embedder_server.models.tiny_models import TEXTS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FAMILIES = ("clip", "siglip", "siglip2_fixed", "siglip2", "chinese_clip", *tiny_families.NAMES)
# For what does not depend on the family.
TWO = ("clip", "siglip2")
SIGLIPS = ("siglip", "siglip2_fixed", "siglip2")
RUNTIMES = ("onnxruntime", "torch", *(("openvino",) if cpu_precisions() else ()))
# Of every family, each runtime takes minutes: one of them in every run.
EACH = [
    one if one == "onnxruntime" else pytest.param(one, marks=pytest.mark.slow) for one in RUNTIMES
]
SHAPES = ((40, 60), (97, 33), (200, 200), (32, 32), (5, 90), (1, 1))
EXACT = 0.9999


@dataclasses.dataclass
class Reference:
    """A folder and the transformers model that was written into it."""

    family: str
    folder: Path
    cache: Path
    model: Any

    def load(self, runtime: str = "onnxruntime") -> DualEncoder:
        return load_hub_model(
            ModelChoice(str(self.folder), "cpu", 2, runtime=runtime, cache_dir=self.cache)
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        # TIPSv2 has no special tokens: of an empty text, which the engine refuses, nothing is left.
        return TEXTS if self.family != "tipsv2" else tuple(text for text in TEXTS if text)

    def texts(self, texts: Sequence[str]) -> FloatArray:
        return transformers_texts(find_model(str(self.folder), None), self.model, texts)

    def images(self, pictures: Sequence[Image.Image]) -> FloatArray:
        return transformers_images(find_model(str(self.folder), None), self.model, pictures)


@pytest.fixture(scope="module", params=FAMILIES)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    family: str = request.param
    folder = tmp_path_factory.mktemp(family)
    made_by = tiny_families if family in tiny_families.NAMES else tiny_models
    make: Callable[[Path], Any] = getattr(made_by, family)
    yield Reference(family, folder / "model", folder / "cache", make(folder / "model"))


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in SHAPES
    ]


def least_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    return float(np.einsum("ij,ij->i", unit(ours), unit(theirs)).min())


@pytest.mark.parametrize("runtime", EACH)
def test_text_vectors_are_the_references(reference: Reference, runtime: str) -> None:
    model = reference.load(runtime)
    ours = model.embed_texts([model.tokenize(text) for text in reference.sentences])
    assert least_cosine(ours, reference.texts(reference.sentences)) >= EXACT


@pytest.mark.parametrize("runtime", EACH)
def test_image_vectors_are_the_references(reference: Reference, runtime: str) -> None:
    model = reference.load(runtime)
    ours = model.embed_images([model.preprocess(picture) for picture in pictures()])
    assert least_cosine(ours, reference.images(pictures())) >= EXACT


def test_vectors_of_different_inputs_differ_enough_for_the_comparison_to_mean_something(
    reference: Reference,
) -> None:
    for vectors in (reference.texts(TEXTS[:2]), reference.images(pictures()[:2])):
        assert float(vectors[0] @ vectors[1]) < 0.99


@pytest.mark.parametrize("runtime", EACH)
def test_an_item_alone_has_the_vector_it_has_in_a_batch(reference: Reference, runtime: str) -> None:
    model = reference.load(runtime)
    texts = [model.tokenize(text) for text in reference.sentences]
    images = [model.preprocess(picture) for picture in pictures()]
    for embed, items in ((model.embed_texts, texts), (model.embed_images, images)):
        together = embed(items)  # type: ignore[operator]
        alone = np.concatenate([embed([item]) for item in items])  # type: ignore[operator]
        assert least_cosine(alone, together) >= 0.99999


def test_a_long_text_is_cut_where_the_reference_cuts_it(reference: Reference) -> None:
    model = reference.load()
    text = "an old red boat near the river " * 40
    tokens = model.tokenize(text)
    assert len(tokens.ids) == model.info.max_text_tokens
    assert tokens.truncated
    assert least_cosine(model.embed_texts([tokens]), reference.texts((text,))) >= EXACT


def test_scale_bias_and_activation_are_the_models_own(reference: Reference) -> None:
    info = reference.load().info
    if reference.family in ("align", "tipsv2"):
        expected = 1 / float(reference.model.temperature.detach())
    else:
        expected = float(reference.model.logit_scale.detach().exp())
    assert info.logit_scale == pytest.approx(expected, rel=1e-6)
    sigmoid = reference.family in SIGLIPS
    assert info.sigmoid is sigmoid
    assert info.logit_bias == (float(reference.model.logit_bias.detach()) if sigmoid else 0.0)


def test_all_float_runtimes_share_a_fingerprint_and_int8_has_its_own(reference: Reference) -> None:
    infos = [reference.load(runtime).info for runtime in RUNTIMES]
    assert len({info.fingerprint for info in infos}) == 1
    int8 = reference.load("onnxruntime-int8")
    assert int8.info.fingerprint != infos[0].fingerprint
    assert "cosine to float32 at least 0.99" in int8.info.runtime_choice
    ours = int8.embed_texts([int8.tokenize(text) for text in reference.sentences])
    assert least_cosine(ours, reference.texts(reference.sentences)) > 0.99


@pytest.mark.parametrize("reference", TWO, indirect=True)
def test_auto_says_what_it_measured_and_keeps_the_vectors(reference: Reference) -> None:
    model = reference.load("auto")
    assert model.info.runtime in model.info.runtime_choice
    assert "x" in model.info.runtime_choice
    ours = model.embed_texts([model.tokenize(text) for text in reference.sentences])
    assert least_cosine(ours, reference.texts(reference.sentences)) >= 0.999


@pytest.mark.parametrize("reference", TWO, indirect=True)
def test_the_log_says_which_runtime_was_chosen_and_why(
    reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "embedder_server.models.hub.hub_model"):
        info = reference.load("auto").info
    if cpu_precisions():  # then torch, which takes seconds to import, is none of the candidates
        assert "torch" not in info.runtime_choice
    [record] = [one for one in caplog.records if one.message == "runtime"]
    assert (record.runtime, record.why) == (info.runtime, info.runtime_choice)


@pytest.mark.parametrize("reference", TWO, indirect=True)
def test_the_choice_is_made_for_the_workers_device_and_threads(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def choose(*arguments: Any, **named: Any) -> selection.ChosenRuntime:
        told.update(named)
        return selection.choose(*arguments, **named)

    monkeypatch.setattr(hub_model, "choose", choose)
    reference.load("auto")
    assert told == {"device": "cpu", "threads": 2}


def test_a_gpu_has_the_name_that_torch_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda:1": "NVIDIA L4"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert device_name("cuda:1") == "NVIDIA L4"
    with pytest.raises(ModelLoadError, match="cuda:0 to cuda:1"):
        device_name("cuda:2")


@pytest.mark.parametrize("reference", TWO, indirect=True)
def test_without_openvino_torch_in_bfloat16_is_tried_on_a_cpu(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "cpu_precisions", tuple)
    choice = reference.load("auto").info.runtime_choice
    assert "openvino" not in choice
    assert re.search(r"torch-bf16 [\d.]+x, cosine 0\.\d+", choice), choice


@pytest.mark.parametrize("reference", TWO, indirect=True)
def test_bfloat16_on_torch_stays_close(reference: Reference) -> None:
    model = reference.load("torch-bf16")
    ours = model.embed_texts([model.tokenize(text) for text in reference.sentences])
    assert least_cosine(ours, reference.texts(reference.sentences)) >= 0.995
    assert model.info.dtype == "bfloat16"


def test_openais_old_configuration_with_end_token_2_is_read_as_transformers_does(
    tmp_path: Path,
) -> None:
    model = tiny_models.clip(tmp_path / "model", eos_token_id=2)
    reference = Reference("clip", tmp_path / "model", tmp_path / "cache", model)
    ours = reference.load()
    vectors = ours.embed_texts([ours.tokenize(text) for text in TEXTS])
    assert least_cosine(vectors, reference.texts(TEXTS)) >= EXACT


def test_clip_without_tokenizer_json_is_read_from_vocab_and_merges(tmp_path: Path) -> None:
    model = tiny_models.clip(tmp_path / "model")
    reference = Reference("clip", tmp_path / "model", tmp_path / "cache", model)
    expected = [reference.load().tokenize(text).ids.tolist() for text in TEXTS]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.backend_tokenizer.model.save(str(tmp_path / "model"))
    (tmp_path / "model" / "tokenizer.json").unlink()
    ours = reference.load()
    assert [ours.tokenize(text).ids.tolist() for text in TEXTS] == expected


def test_siglip_rows_are_always_filled_up(reference: Reference) -> None:
    batches = reference.load()._towers._batches
    assert (batches.padding is Padding.MAX_LENGTH) is (reference.family in SIGLIPS)


@pytest.mark.parametrize("reference", SIGLIPS, indirect=True)
def test_of_siglip_2_only_the_case_of_a_text_is_changed(reference: Reference) -> None:
    ids = [reference.load().tokenize(text).ids.tolist() for text in ("Two DOGS!", "two dogs!")]
    bare = reference.load().tokenize("two dogs").ids.tolist()
    assert ids[0] == ids[1]
    assert (ids[0] == bare) is (reference.family == "siglip")  # which drops punctuation


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("siglip2_fixed", ["padding_side"]),
        ("siglip2", ["padding_side"]),
        ("siglip2", ["padding_side", "tokenizer_class"]),
    ],
)
@pytest.mark.parametrize("side", ["left", None])
def test_rows_of_gemmas_tokens_are_filled_up_on_the_side_where_transformers_does_it(
    tmp_path: Path, family: str, missing: list[str], side: str | None
) -> None:
    model = getattr(tiny_models, family)(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for key in missing:
        settings.pop(key)
    file.write_text(json.dumps(settings | ({"padding_side": side} if side else {})))
    reference = Reference(family, tmp_path / "model", tmp_path / "cache", model)
    ours = reference.load()
    vectors = ours.embed_texts([ours.tokenize(text) for text in TEXTS])
    assert least_cosine(vectors, reference.texts(TEXTS)) >= EXACT


@pytest.mark.parametrize("reference", ["siglip"], indirect=True)
def test_siglips_text_is_read_as_its_own_tokenizer_reads_it(reference: Reference) -> None:
    tokenizer = transformers.SiglipTokenizer.from_pretrained(reference.folder)
    model = reference.load()
    for text in (*TEXTS, " It's  a\tMIXED_bag (really)! ", "¿Qué?"):
        assert canonical(text) == tokenizer.canonicalize_text(text)
        # Of a blank at the beginning, transformers makes a token of its own: it looks too early.
        ids = tokenizer(text.strip(), truncation=True, max_length=16)["input_ids"]
        assert model.tokenize(text).ids.tolist() == ids
