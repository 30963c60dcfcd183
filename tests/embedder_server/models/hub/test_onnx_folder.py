"""Folders of ONNX files against the models that they were exported from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import onnx_folder, open_batch
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.hub.source import find_model
from embedder_server.models.runtimes import onnx as onnx_runtime
from embedder_server.models.runtimes.onnx import cpu_precisions
from embedder_server.texts.batches import Padding
from embedder_server.types import FloatArray, ModelLoadError
from scripts.check_model import transformers_images, transformers_texts
from tests.embedder_server.models import onnx_folders
from tests.embedder_server.models.open_clip_models import Reference
from tests.embedder_server.models.tiny_models import TEXTS

RUNTIMES = ("onnxruntime", *(("openvino",) if cpu_precisions() else ()))
SHAPES = ((40, 60), (97, 33), (200, 200), (32, 32), (5, 90), (1, 1), (71, 133))
LONG = "an old red boat near the river " * 40
EXACT = 0.9999


def load(folder: Path, runtime: str = "onnxruntime") -> DualEncoder:
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


def same_vectors(model: DualEncoder, texts: FloatArray, images: FloatArray) -> None:
    ours = model.embed_texts([model.tokenize(text) for text in (*TEXTS, LONG)])
    assert least_cosine(ours, texts) >= EXACT
    ours = model.embed_images([model.preprocess(picture) for picture in pictures()])
    assert least_cosine(ours, images) >= EXACT
    assert float(texts[0] @ texts[1]) < 0.99
    assert float(images[0] @ images[1]) < 0.99


# Immich


KINDS = ["vit", "siglip", "roberta", pytest.param("mobileclip2_s", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def immich(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    yield onnx_folders.immich(request.param, tmp_path_factory.mktemp("immich"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return onnx_folders.immich("vit", tmp_path_factory.mktemp("vit"), resize_mode="squash")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_immichs_vectors_are_open_clips(immich: Reference, runtime: str) -> None:
    same_vectors(
        load(immich.folder, runtime), immich.texts((*TEXTS, LONG)), immich.images(pictures())
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_item_of_immichs_alone_has_the_vector_it_has_in_a_batch(
    immich: Reference, runtime: str
) -> None:
    model = load(immich.folder, runtime)
    texts = [model.tokenize(text) for text in TEXTS]
    images = [model.preprocess(picture) for picture in pictures()]
    for embed, items in ((model.embed_texts, texts), (model.embed_images, images)):
        together = embed(items)  # type: ignore[operator]
        alone = np.concatenate([embed([item]) for item in items])  # type: ignore[operator]
        assert least_cosine(alone, together) >= 0.99999


def test_immichs_preprocessing_is_read_from_its_folder(vit: Reference) -> None:
    same_vectors(load(vit.folder), vit.texts((*TEXTS, LONG)), vit.images(pictures()))


def test_immichs_rows_are_filled_with_open_clips_padding(immich: Reference) -> None:
    model = load(immich.folder)
    batches = model._towers._batches
    assert batches.padding is Padding.MAX_LENGTH
    for text in (*TEXTS, LONG):
        [(_, ids, _)] = batches.split([model.tokenize(text)])
        assert ids.tolist() == immich.tokenizer([text]).tolist()


def test_immichs_logits_are_those_the_training_began_with(immich: Reference) -> None:
    info = load(immich.folder).info
    assert info.logit_scale == pytest.approx(1 / 0.07)
    config = json.loads((immich.folder / "config.json").read_text())
    assert info.sigmoid is ("init_logit_bias" in config)
    assert info.logit_bias == config.get("init_logit_bias", 0)


def test_immichs_models_run_where_torch_is_not_installed(vit: Reference, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'open_clip'):\n"
        "    sys.modules[name] = None\n"  # importing them fails now
        "from pathlib import Path\n"
        "from embedder_server.models.base import ModelChoice\n"
        "from embedder_server.models.registry import load_model\n"
        f"model = load_model(ModelChoice({str(vit.folder)!r}, 'cpu', 1, runtime='onnxruntime', "
        f"cache_dir=Path({str(tmp_path)!r})))\n"
        "print(model.embed_texts([model.tokenize('a cat')]).shape)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert made.stdout.strip() == "(1, 48)", made.stderr


# onnx-community and Xenova


@dataclass
class Community:
    """A folder of ONNX files, and the vectors of transformers' model."""

    folder: Path
    texts: FloatArray
    images: FloatArray


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("clip", {}),
    "clip masked": ("clip", {"masked": True}),
    "clip of one length": ("clip", {"fixed": 24}),
    "siglip": ("siglip", {}),
    "siglip2": ("siglip2_fixed", {}),
    "siglip2 masked": ("siglip2_fixed", {"masked": True}),
}


@pytest.fixture(scope="module", params=CASES)
def community(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Community]:
    pytest.importorskip("torch")
    family, names = CASES[request.param]
    folder = tmp_path_factory.mktemp("community") / "model"
    model = onnx_folders.of_transformers(family, folder, **names)
    weights = find_model(str(folder.parent / "weights"), None)
    texts = transformers_texts(weights, model, (*TEXTS, LONG))
    made = Community(folder, texts, transformers_images(weights, model, pictures()))
    tokenizer = folder / "tokenizer_config.json"
    settings = json.loads(tokenizer.read_text())
    settings.pop("model_max_length", None)  # as in the folders of SigLIP 2
    tokenizer.write_text(json.dumps(settings))
    yield made


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_onnx_communitys_vectors_are_those_of_transformers(
    community: Community, runtime: str
) -> None:
    same_vectors(load(community.folder, runtime), community.texts, community.images)


def test_int8_copies_are_another_vector_space(community: Community) -> None:
    int8 = load(community.folder, "onnxruntime-int8").info
    assert int8.fingerprint != load(community.folder).info.fingerprint
    assert int8.dtype == "int8"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("clip") / "model"
    onnx_folders.of_transformers("clip", folder)
    return folder


def copied(folder: Path, target: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())
    return target


def test_the_vectors_do_not_depend_on_the_layout_but_its_fingerprint_does(clip: Path) -> None:
    of_weights = load(clip.parent / "weights")
    of_files = load(clip)
    tokens = [of_files.tokenize(text) for text in TEXTS]
    assert least_cosine(of_files.embed_texts(tokens), of_weights.embed_texts(tokens)) >= EXACT
    assert of_files.info.fingerprint != of_weights.info.fingerprint


# sentence-transformers


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("inner", ["weights", "model"])
def test_the_clip_model_inside_a_sentence_transformers_folder_is_served(
    clip: Path, tmp_path: Path, inner: str, normalize: bool
) -> None:
    copied(clip.parent / inner, tmp_path / "model" / "0_CLIPModel")
    modules = [{"path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    modules += [{"path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}] * (
        normalize
    )
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    expected, model = load(clip), load(tmp_path / "model")
    tokens = [model.tokenize(text) for text in TEXTS]
    assert least_cosine(model.embed_texts(tokens), expected.embed_texts(tokens)) >= EXACT
    assert model.info.name == "model"


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        (["Transformer", "Pooling", "Dense"], "of the modules Transformer, Pooling, Dense"),
        (["CLIPModel", "Dense"], "of the modules CLIPModel, Dense"),
        ([], "of the modules"),
    ],
)
def test_other_modules_of_sentence_transformers_are_refused(
    tmp_path: Path, modules: list[str], says: str
) -> None:
    named = [{"path": "", "type": f"sentence_transformers.models.{name}"} for name in modules]
    (tmp_path / "modules.json").write_text(json.dumps(named))
    with pytest.raises(ModelLoadError, match=says):
        load(tmp_path)


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"path": "x"}]', "3"])
def test_a_damaged_list_of_modules_is_an_unfinished_download(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"modules\.json is damaged"):
        load(tmp_path)


def test_a_module_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    modules = [{"path": "../other", "type": "sentence_transformers.models.CLIPModel"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match="outside the model's folder"):
        load(tmp_path)


# What is refused


def test_an_unknown_layout_says_what_was_found_and_what_is_supported(tmp_path: Path) -> None:
    for name in ("model.onnx", "image/encoder.bin", *(f"{i}.txt" for i in range(20))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "Found: 0.txt" in message
    assert "and 10 more" in message
    for supported in ("transformers", "open_clip", "onnx-community", "Immich", "sentence-tr"):
        assert supported in message
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"layout of .* is unknown"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["_fp16", "_quantized", "_q4"])
@pytest.mark.parametrize("half", ["text_model", "vision_model"])
def test_only_float32_files_are_read(clip: Path, tmp_path: Path, half: str, suffix: str) -> None:
    folder = copied(clip, tmp_path / "model")
    file = folder / "onnx" / f"{half}.onnx"
    file.rename(file.with_name(f"{half}{suffix}.onnx"))
    with pytest.raises(ModelLoadError, match=rf"has {half}{suffix}.onnx but not {half}.onnx"):
        load(folder)


def test_a_missing_network_is_an_unfinished_download(clip: Path, tmp_path: Path) -> None:
    folder = copied(clip, tmp_path / "model")
    (folder / "onnx" / "vision_model.onnx").unlink()
    with pytest.raises(ModelLoadError, match=r"vision_model\.onnx is missing"):
        load(folder)


def test_a_damaged_network_names_its_file(clip: Path, tmp_path: Path) -> None:
    folder = copied(clip, tmp_path / "model")
    (folder / "onnx" / "text_model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelLoadError, match=r"text_model\.onnx is no ONNX file"):
        load(folder)


def renamed(graph: onnx.GraphProto, old: str, new: str) -> None:
    for names in (node.input for node in graph.node), (node.output for node in graph.node):
        for listed in names:
            listed[:] = [new if name == old else name for name in listed]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def as_half(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("half", "change", "says"),
    [
        ("text", lambda g: renamed(g, "input_ids", "text"), r"takes text \(int64.*: input_ids \("),
        ("vision", as_half, r"takes pixel_values \(float16 .*expected: pixel_values \(float32\)"),
        ("text", lambda g: renamed(g, "text_embeds", "out"), r"returns out .*expected: text_emb"),
        # Not in the common space, though it may have as many dimensions.
        ("vision", lambda g: renamed(g, "image_embeds", "pooler_output"), "returns pooler_output"),
    ],
)
def test_unexpected_names_and_types_are_named(
    clip: Path, tmp_path: Path, half: str, change: Callable[[Any], None], says: str
) -> None:
    folder = copied(clip, tmp_path / "model")
    file = folder / "onnx" / f"{half}_model.onnx"
    model = onnx.load(file)
    change(model.graph)
    onnx.save(model, file)
    with pytest.raises(ModelLoadError, match=says):
        load(folder)


def test_vectors_of_another_length_than_the_configurations_are_refused(
    clip: Path, tmp_path: Path
) -> None:
    folder = copied(clip, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "projection_dim": 25}))
    with pytest.raises(ModelLoadError, match="24"):
        load(folder)


def test_other_architectures_have_no_onnx_files(clip: Path, tmp_path: Path) -> None:
    folder = copied(clip, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "chinese_clip"}))
    with pytest.raises(ModelLoadError, match="'chinese_clip'; read are those of clip, siglip"):
        load(folder)


def test_an_image_size_that_the_network_does_not_take_is_refused(
    vit: Reference, tmp_path: Path
) -> None:
    folder = copied(vit.folder, tmp_path / "model")
    file = folder / "visual" / "preprocess_cfg.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": [40, 40]}))
    with pytest.raises(ModelLoadError, match="image network of model does not embed one image"):
        load(folder)


# Several items at once


def fixed_batches(model: DualEncoder) -> list[bool]:
    return [tower._single for tower in (model._towers._text, model._towers._image)]  # type: ignore[attr-defined]


def test_immichs_graphs_are_opened_for_several_items_where_the_vectors_stay(
    immich: Reference,
) -> None:
    of_roberta = "hf_model_name" in (immich.folder / "config.json").read_text()
    assert fixed_batches(load(immich.folder)) == [of_roberta, False]
    if of_roberta:  # its graph counts the positions of one text, which is not opened
        cached = (immich.folder.parent / "cache").glob("*-items-v*/text.onnx*")
        assert not list(cached)


def test_a_rewritten_graph_with_other_vectors_is_not_used(
    vit: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any) -> Iterator[Any]:
        for made in open_batch.open_batches(model):
            for node in made.graph.node:
                if node.op_type == "Softmax":  # as if a shape had been read in another way
                    node.attribute[0].i = -2
            yield made

    monkeypatch.setattr(onnx_folder, "open_batches", wrong)
    folder = copied(vit.folder, tmp_path / "model")
    model = load(folder)
    assert fixed_batches(model) == [True, True]
    same_vectors(model, vit.texts((*TEXTS, LONG)), vit.images(pictures()))


def test_a_graph_is_rewritten_once(
    vit: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(vit.folder, tmp_path / "model")
    load(folder)
    monkeypatch.setattr(onnx_folder, "open_batches", None)
    assert fixed_batches(load(folder)) == [False, False]


def test_an_openvino_that_computes_other_vectors_is_refused(
    vit: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    real = onnx_runtime.OpenVinoTower.run
    monkeypatch.setattr(
        onnx_runtime.OpenVinoTower, "run", lambda tower, feed: real(tower, feed)[:, ::-1]
    )
    with pytest.raises(ModelLoadError, match=r"openvino on the text network gives other vectors"):
        load(vit.folder, "openvino")
