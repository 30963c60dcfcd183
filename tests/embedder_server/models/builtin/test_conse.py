"""The default model with its real weights: same input, same vector; right photo for a query."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import skimage
import sklearn  # type: ignore[import-untyped]
from PIL import Image

from embedder_server import devices
from embedder_server.models import registry
from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.builtin import conse, lite0, parts
from embedder_server.models.builtin.conse import ConseModel, ConseRecipe
from embedder_server.models.runtimes.onnx import create_session
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, ModelLoadError

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
# All that the two wheels carry and that is a photograph of something.
PHOTO_NAMES = [
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
    "coffee.png", "coins.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg",
    "ihc.png", "microaneurysms.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
    "rocket.jpg",
]  # fmt: skip
PHOTOS = (
    *(SKIMAGE / name for name in PHOTO_NAMES),
    SKLEARN / "china.jpg",
    SKLEARN / "flower.jpg",
)
TEXTS = (
    "cat",
    "",
    "a cup of coffee on a wooden table",
    "naïve café Ünïcode",
    "漢字とかな",
    "An old man and his dog walk along the beach while the sun goes down behind the pier. " * 4,
    "a motorcycle " * 400,
)


@pytest.fixture(scope="module")
def model() -> ConseModel:
    return ConseModel(ModelChoice("conse", threads=2))


@pytest.fixture(scope="module")
def photo_vectors(model: ConseModel) -> FloatArray:
    return unit(model.embed_images([model.preprocess(open_rgb(path)) for path in PHOTOS]))


def open_rgb(path: Path) -> Image.Image:
    with Image.open(path) as image:
        layer = image.convert("RGBA")
    background = Image.new("RGBA", layer.size, "white")
    background.alpha_composite(layer)
    return background.convert("RGB")


def unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)


def embed_text(model: EmbeddingModel, text: str) -> FloatArray:
    return np.asarray(unit(model.embed_texts([model.tokenize(text)]))[0], dtype=np.float32)


def test_text_vectors_are_finite_float32_of_the_promised_shape(model: ConseModel) -> None:
    vectors = model.embed_texts([model.tokenize(text) for text in TEXTS])
    assert vectors.shape == (len(TEXTS), model.info.dimensions)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) > 0).all()


def test_image_vectors_are_finite_float32_of_the_promised_shape(
    model: ConseModel, photo_vectors: FloatArray
) -> None:
    assert photo_vectors.shape == (len(PHOTOS), model.info.dimensions)
    assert photo_vectors.dtype == np.float32
    assert np.isfinite(photo_vectors).all()


def test_a_text_has_the_same_vector_alone_and_in_any_batch(model: ConseModel) -> None:
    tokens = [model.tokenize(text) for text in TEXTS]
    alone = np.stack([model.embed_texts([text])[0] for text in tokens])
    together = model.embed_texts(tokens)
    reversed_order = model.embed_texts(tokens[::-1])[::-1]
    crowd = model.embed_texts([*tokens, *([tokens[0]] * 25)])[: len(tokens)]
    for batch in (together, reversed_order, crowd):
        assert np.abs(batch - alone).max() < 1e-5
        assert (unit(batch) * unit(alone)).sum(axis=1).min() >= 0.999999


def test_an_image_has_the_same_vector_alone_and_in_any_batch(model: ConseModel) -> None:
    pixels = [model.preprocess(open_rgb(path)) for path in PHOTOS[:8]]
    alone = np.stack([model.embed_images([image])[0] for image in pixels])
    assert np.abs(model.embed_images(pixels) - alone).max() < 1e-5


def test_a_black_picture_of_one_pixel_still_gets_a_vector(model: ConseModel) -> None:
    vector = model.embed_images([model.preprocess(Image.new("RGB", (1, 1)))])
    assert np.isfinite(vector).all()


def test_preprocessing_squashes_the_whole_image_to_channels_first(model: ConseModel) -> None:
    image = Image.new("RGB", (600, 100), (255, 127, 0))
    pixels = model.preprocess(image)
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == np.float32
    expected = np.array([1.0, 0.0, -127 / 128], dtype=np.float32)
    assert (pixels == expected[:, None, None]).all()


def test_image_weights_are_a_distribution_over_the_top_classes() -> None:
    logits = np.random.default_rng(7).normal(size=(3, 1000)).astype(np.float32)
    weights = conse.class_weights(logits, ConseRecipe(top_classes=50))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert ((weights > 0).sum(axis=1) == 50).all()
    assert (weights.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_the_fingerprint_is_stable_and_covers_recipe_and_parts(
    model: ConseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Changing this constant means that every stored vector must be made again.
    assert (
        model.info.fingerprint == "cfb176515ce49f3deb6fa29173a420d7fe3c5e20cc87e954cc032f84fc3be5d0"
    )
    seen = {model.info.fingerprint}
    changes: list[dict[str, object]] = [
        {"softmax_temperature": 1.0},
        {"top_classes": 10},
        {"preprocessing": "centre-crop"},
        {"pooling": "cls"},
        {"max_text_tokens": 128},
        {"normalisation": "l2"},
    ]
    for change in changes:
        seen.add(dataclasses.replace(ConseRecipe(), **change).fingerprint())  # type: ignore[arg-type]
    assert len(seen) == 1 + len(dataclasses.fields(ConseRecipe))
    other = dataclasses.replace(conse.CLASS_MATRIX, sha256="0" * 64)
    monkeypatch.setattr(conse, "PART_FILES", (*conse.PART_FILES[:-1], other))
    assert ConseRecipe().fingerprint() not in seen


@pytest.mark.parametrize(
    ("module", "part"),
    [(lite0, "CHECKPOINT"), (conse, "WEIGHTS"), (conse, "VOCABULARY"), (conse, "CLASS_MATRIX")],
    ids=["checkpoint", "text weights", "vocabulary", "class matrix"],
)
def test_an_altered_part_is_refused(
    module: object, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, part, dataclasses.replace(getattr(module, part), sha256="0" * 64))
    with pytest.raises(ModelLoadError, match=r"SHA-256 .* expected 0{64}.*pip install"):
        ConseModel(ModelChoice("conse"))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(conse.WEIGHTS, distribution="no-such-package-here")
    monkeypatch.setattr(conse, "WEIGHTS", absent)
    with pytest.raises(ModelLoadError, match=r"pip install '.\[embedder\]'"):
        ConseModel(ModelChoice("conse"))
    with pytest.raises(ModelLoadError, match="not installed"):
        parts.PartFile(package="no_such_package", path="x", sha256="").read()


def test_a_checkpoint_that_would_run_code_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"\.system is not allowed"):
        parts.read_state_dict(pickle.dumps(_Payload()))
    with pytest.raises(ModelLoadError, match="not a legacy"):
        parts.read_state_dict(pickle.dumps(1))


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("exit 1",)


def test_a_gpu_that_onnxruntime_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda _: 1)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelLoadError, match="pip install 'onnxruntime-gpu"):
        create_session(b"not read", device="cuda:0", threads=1)
    with pytest.raises(ModelLoadError, match="'cpu' or 'cuda:N'"):
        registry.load_model(ModelChoice(registry.DEFAULT_MODEL, "tpu", 1))
    with pytest.raises(ModelLoadError, match="cannot load the model"):
        create_session(b"not a model", device="cpu", threads=1)


def test_where_onnxruntime_has_no_cuda_the_built_in_model_starts_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda *_: 1)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    loaded = registry.load_model(ModelChoice(registry.DEFAULT_MODEL, "cuda:0", 1))
    assert loaded.info.device == "cpu"  # as GetModel and the log say
    assert loaded.embed_texts([loaded.tokenize("a cat")]).shape == (1, 384)
    [line] = [record for record in caplog.records if "runs on the CPU" in record.message]
    assert line.levelname == "WARNING"
    loaded.close()


def test_the_built_in_model_needs_the_gpu_that_it_is_given() -> None:
    if devices.cuda_devices():
        return
    with pytest.raises(ModelLoadError, match="no NVIDIA GPU"):
        registry.load_model(ModelChoice(registry.DEFAULT_MODEL, "cuda:0", 1))


def test_the_registry_loads_the_default_and_lists_what_exists() -> None:
    loaded = registry.load_model(ModelChoice(registry.DEFAULT_MODEL, "cpu", 1))
    assert loaded.info.name == registry.DEFAULT_MODEL
    loaded.close()
    with pytest.raises(ModelLoadError, match=r"'clip': .*There are conse-minilm-lite0"):
        registry.load_model(ModelChoice("clip", "cpu", 1))


def test_a_family_whose_packages_are_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedder_server.models.builtin.conse", None)
    with pytest.raises(ModelLoadError, match=r"needs the package 'embedder_server\..*conse'"):
        registry.load_model(ModelChoice(registry.DEFAULT_MODEL))


@pytest.mark.parametrize(
    ("query", "photo"),
    [
        ("a cat", "chelsea.png"),
        ("a cup of coffee", "coffee.png"),
        ("breakfast drink", "coffee.png"),
        ("a flower", "flower.jpg"),
        ("motorbike", "motorcycle_left.png"),
        ("a rocket launch", "rocket.jpg"),
        ("a temple in china", "china.jpg"),
        ("man with a camera", "camera.png"),
    ],
)
def test_a_query_finds_its_photo_first_and_clearly(
    model: ConseModel, photo_vectors: FloatArray, query: str, photo: str
) -> None:
    cosines = photo_vectors @ embed_text(model, query)
    order = np.argsort(-cosines)
    assert PHOTOS[order[0]].name == photo
    assert cosines[order[0]] - cosines[order[1]] > 0.08


def test_a_paraphrase_is_nearer_than_an_unrelated_text(model: ConseModel) -> None:
    kitten, car = embed_text(model, "a small kitten"), embed_text(model, "stock market report")
    query = embed_text(model, "young cat")
    assert query @ kitten > query @ car + 0.3


def test_an_empty_batch_of_texts_gives_no_rows(model: ConseModel) -> None:
    empty: list[TokenizedText] = []
    assert model.embed_texts(empty).shape == (0, 384)
