"""open_clip checkpoints against open_clip itself on the same random weights."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.images.open_clip_preprocessing import read_open_clip_recipe
from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.runtimes.onnx import cpu_precisions
from embedder_server.texts.batches import Padding
from embedder_server.types import FloatArray, ModelLoadError
from tests.embedder_server.models import open_clip_models
from tests.embedder_server.models.open_clip_models import KINDS, Reference
from tests.embedder_server.models.tiny_models import TEXTS

RUNTIMES = ("onnxruntime", *(("openvino",) if cpu_precisions() else ()))
SHAPES = ((40, 60), (97, 33), (200, 200), (32, 32), (5, 90), (1, 1), (71, 133))
LONG = "an old red boat near the river " * 40
# What open_clip mends or drops before it tokenizes.
ODD = (
    "  It's  a\tMIXED_bag (really)! ", "&amp;quot;a dog&amp;quot; &lt;3", "“curly” don\u2019t",
    "ﬁsh", "schÃ¶n", "a_b-c d.e", "\n", "½ ①２", "it's they'll I'M",
)  # fmt: skip
EXACT = 0.9999


# Their networks differ least from those of the others.
LESS_DIFFERENT = ("clipa", "convnext", "dfn", "mobileclip2_b", "resnet", "worldwide")
PARAMETERS = [
    pytest.param(kind, marks=[pytest.mark.slow] * (kind in LESS_DIFFERENT)) for kind in KINDS
]


@pytest.fixture(scope="module", params=PARAMETERS)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    yield open_clip_models.write(request.param, tmp_path_factory.mktemp("open_clip") / "model")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return open_clip_models.write("vit", tmp_path_factory.mktemp("vit") / "model")


def load(reference: Reference, runtime: str = "onnxruntime") -> DualEncoder:
    folder = reference.folder
    cache = folder.parent / "cache"
    return load_hub_model(ModelChoice(str(folder), "cpu", 2, runtime=runtime, cache_dir=cache))


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(5)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in SHAPES
    ]


def least_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    ours, theirs = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (ours, theirs))
    return float(np.einsum("ij,ij->i", ours, theirs).min())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_vectors_are_the_references(reference: Reference, runtime: str) -> None:
    model = load(reference, runtime)
    texts = (*TEXTS, *ODD, LONG)
    ours = model.embed_texts([model.tokenize(text) for text in texts])
    assert least_cosine(ours, reference.texts(texts)) >= EXACT
    ours = model.embed_images([model.preprocess(picture) for picture in pictures()])
    assert least_cosine(ours, reference.images(pictures())) >= EXACT


def test_vectors_of_different_inputs_differ_enough_for_the_comparison_to_mean_something(
    reference: Reference,
) -> None:
    for vectors in (reference.texts(TEXTS[:2]), reference.images(pictures()[:2])):
        assert float(vectors[0] @ vectors[1]) < 0.99


def test_an_item_alone_has_the_vector_it_has_in_a_batch(reference: Reference) -> None:
    model = load(reference)
    texts = [model.tokenize(text) for text in (*TEXTS, LONG)]
    images = [model.preprocess(picture) for picture in pictures()]
    for embed, items in ((model.embed_texts, texts), (model.embed_images, images)):
        together = embed(items)  # type: ignore[operator]
        alone = np.concatenate([embed([item]) for item in items])  # type: ignore[operator]
        assert least_cosine(alone, together) >= 0.99999


def test_ids_are_those_of_open_clips_tokenizer(reference: Reference) -> None:
    model = load(reference)
    batches = model._towers._batches
    for text in (*TEXTS, *ODD, LONG):
        [(_, ids, _)] = batches.split([model.tokenize(text)])
        [theirs] = reference.tokenizer([text]).tolist()
        filled = ids[0].tolist()
        if batches.padding is Padding.LONGEST:
            filled += [batches.pad_id] * (len(theirs) - len(filled))
        assert filled == theirs, text


def test_a_long_text_is_cut_and_said_to_be_cut(reference: Reference) -> None:
    tokens = load(reference).tokenize(LONG)
    assert len(tokens.ids) == reference.tokenizer([LONG]).shape[1]
    assert tokens.truncated


def test_scale_bias_and_activation_are_the_models_own(reference: Reference) -> None:
    info, model = load(reference).info, reference.model
    assert info.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)
    bias = getattr(model, "logit_bias", None)
    assert info.logit_bias == (0.0 if bias is None else float(bias.detach()))
    assert info.sigmoid is (bias is not None)


def test_texts_are_as_short_as_the_network_allows(vit: Reference) -> None:
    assert load(vit)._towers._batches.padding is Padding.LONGEST


def test_the_export_serves_a_worker_without_torch_and_open_clip(
    vit: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(vit)
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in ("torch", "open_clip", "timm", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith(("torch", "open_clip"))]:
        monkeypatch.delitem(sys.modules, name)
    model = load(vit)
    tokens = [model.tokenize("a cat")]
    np.testing.assert_array_equal(model.embed_texts(tokens), expected.embed_texts(tokens))
    with pytest.raises(ModelLoadError, match=r"torch|openclip"):
        load_hub_model(
            ModelChoice(str(vit.folder), "cpu", 2, cache_dir=vit.folder.parent / "empty")
        )


def test_int8_is_another_vector_space(vit: Reference) -> None:
    info = load(vit, "onnxruntime-int8").info
    assert info.fingerprint != load(vit).info.fingerprint
    assert "cosine to float32" in info.runtime_choice


def test_torch_is_no_runtime_of_it(vit: Reference) -> None:
    with pytest.raises(ModelLoadError, match="runs from its ONNX export"):
        load(vit, "torch")


# Preprocessing


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, (32, 32), (24, 40), (41, 20)])
@pytest.mark.parametrize("fill", [0, 127])
def test_pixels_are_open_clips(
    mode: str, interpolation: str, size: int | tuple[int, int], fill: int
) -> None:
    open_clip_models.open_clip()
    from open_clip import transform

    config = {
        "mean": [0.4, 0.5, 0.6], "std": 0.3, "interpolation": interpolation, "resize_mode": mode,
        "fill_color": fill,
    }  # fmt: skip
    theirs = transform.image_transform_v2(
        transform.PreprocessCfg(size=size, **config), is_train=False
    )
    ours = read_open_clip_recipe(config, size)
    for picture in (*pictures(), Image.new("RGB", (61, 59), "red"), Image.new("RGB", (33, 32))):
        expected = theirs(picture).numpy()
        np.testing.assert_allclose(ours.pixels(picture), expected, atol=2e-6)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 4000)])
def test_extreme_shapes_give_pixels_of_the_right_size(mode: str, shape: tuple[int, int]) -> None:
    recipe = read_open_clip_recipe({"resize_mode": mode}, (24, 40))
    pixels = recipe.pixels(Image.new("RGB", shape, "white"))
    assert pixels.shape == (3, 24, 40)
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"resize_mode": "crop"}, "resize_mode: crop"),
        ({"interpolation": "lanczos"}, "interpolation: lanczos"),
        ({"mode": "L"}, "mode: L"),
    ],
)
def test_a_step_that_open_clip_does_not_have_is_refused(config: dict[str, str], says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        read_open_clip_recipe(config, 32)


def test_what_a_configuration_leaves_out_is_open_clips_default() -> None:
    recipe = read_open_clip_recipe({"mean": None}, 32)
    assert recipe == read_open_clip_recipe(
        {
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
        (32, 32),
    )


# What is refused


def changed(reference: Reference, target: Path, change: dict[str, Any]) -> Path:
    """Copy a folder; `change` parts of `model_cfg`, two levels deep."""
    target.mkdir()
    for file in reference.folder.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "open_clip_config.json").read_text())
    for key, value in change.items():
        part = config["model_cfg"]
        part[key] = {**part[key], **value} if key in part and value is not None else value
    (target / "open_clip_config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_cfg": {"hf_model_name": "facebook/nllb-200-distilled-600M"}}, "token for its"),
        ({"multimodal_cfg": {}}, "CoCa model"),
        ({"text_cfg": {"tokenizer_mode": "clips"}}, "tokenizer_mode 'clips'"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "upper"}}}, "clean.*upper"),
        ({"text_cfg": {"tokenizer_kwargs": {"language": "deu"}}}, "language"),
        ({"text_cfg": None}, "lacks what a dual encoder needs"),
        ({"text_cfg": {"width": 64}}, "open_clip cannot load"),
    ],
)
def test_a_model_that_is_not_supported_says_why(
    vit: Reference, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = changed(vit, tmp_path / "model", change)
    with pytest.raises(ModelLoadError, match=says):
        load_hub_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (["open_clip_model.safetensors"], "has no open_clip_model.safetensors"),
        (["tokenizer.json", "vocab.json", "merges.txt"], "has no tokenizer.json"),
        (["open_clip_config.json"], "layout of .* is unknown"),
    ],
)
def test_a_half_downloaded_checkpoint_says_which_file(
    vit: Reference, tmp_path: Path, lost: list[str], says: str
) -> None:
    folder = changed(vit, tmp_path / "model", {})
    for name in lost:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelLoadError, match=says):
        load_hub_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_weights_that_lack_a_tensor_are_not_made_up(vit: Reference, tmp_path: Path) -> None:
    import safetensors.numpy

    folder = changed(vit, tmp_path / "model", {})
    tensors = safetensors.numpy.load_file(folder / "open_clip_model.safetensors")
    del tensors["visual.proj"]
    safetensors.numpy.save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelLoadError, match=r"(?s)open_clip cannot load.*visual\.proj"):
        load_hub_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_a_checkpoint_beside_another_librarys_configuration_is_read_as_open_clips(
    vit: Reference, tmp_path: Path
) -> None:
    folder = changed(vit, tmp_path / "model", {})
    (folder / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224"}')
    cache = vit.folder.parent / "cache"
    model = load_hub_model(
        ModelChoice(str(folder), "cpu", 1, runtime="onnxruntime", cache_dir=cache)
    )
    assert model.info.fingerprint == load(vit).info.fingerprint
