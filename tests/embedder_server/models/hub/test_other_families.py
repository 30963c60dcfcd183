"""Classes of transformers that no table names, those that are refused, and their image settings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder_server.images.preprocessing import read_image_recipe
from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import families, transformers_networks
from embedder_server.models.hub.families import read_recipe
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.hub.source import find_model
from embedder_server.types import ModelLoadError
from scripts.check_model import transformers_images, transformers_texts, unit
from tests.embedder_server.models import tiny_families
from tests.embedder_server.models.tiny_models import TEXTS

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def metaclip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("metaclip") / "model"
    return folder, tiny_families.metaclip_2(folder)


def configured(metaclip: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of the model whose configuration has other values."""
    shutil.copytree(metaclip, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


def test_a_class_that_no_table_names_is_served_if_it_has_both_methods_and_the_log_says_so(
    metaclip: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, reference = metaclip
    monkeypatch.delitem(families._READERS, "metaclip_2")
    monkeypatch.delitem(families._TRAITS, "metaclip_2")
    model = load_hub_model(ModelChoice(str(folder), "cpu", 2, cache_dir=tmp_path / "cache"))
    assert any("was not compared with its reference" in r.message for r in caplog.records)
    source = find_model(str(folder), None)
    ours = unit(model.embed_texts([model.tokenize(text) for text in TEXTS]))
    assert np.einsum("ij,ij->i", ours, transformers_texts(source, reference, TEXTS)).min() > 0.9999
    picture = Image.new("RGB", (50, 40), (200, 30, 90))
    [image] = unit(model.embed_images([model.preprocess(picture)]))
    assert image @ transformers_images(source, reference, [picture])[0] > 0.9999


def test_a_class_without_both_methods_is_refused_by_its_name_before_its_weights_are_read(
    metaclip: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = configured(metaclip[0], tmp_path / "model", model_type="llava")
    with pytest.raises(ModelLoadError, match=r"is a LlavaModel .* no get_text_features: choose"):
        load_hub_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_a_class_that_transformers_does_not_know_asks_for_a_newer_one(
    metaclip: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = configured(metaclip[0], tmp_path / "model", model_type="clip_of_2030")
    with pytest.raises(ModelLoadError, match="does not know 'clip_of_2030'; update it"):
        load_hub_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("family", families._REFUSED)
def test_a_refused_family_has_the_methods_and_says_why(
    metaclip: tuple[Path, Any], tmp_path: Path, family: str
) -> None:
    config = transformers.AutoConfig.for_model(family)
    known = transformers.AutoModel._model_mapping[type(config)]
    assert hasattr(known, "get_text_features")
    folder = configured(metaclip[0], tmp_path / "model", model_type=family)
    with pytest.raises(ModelLoadError, match=rf"architecture {family}: it(s)? "):
        read_recipe(find_model(str(folder), None))


def stripped(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_example_of_the_document_is_the_code_and_needs_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / "docs" / "models.md").read_text().split("\n## Add a family\n")[1]
    blocks = re.findall(r"^```python\n# ([\w/]+\.py).*?\n(.*?)^```", example, re.M | re.S)
    assert len(blocks) == 4
    for file, lines in blocks:
        code = stripped((ROOT / file).read_text())
        assert [line for line in stripped(lines) if line not in code] == [], file
    assert "\n".join(stripped(blocks[0][1])) in "\n".join(
        stripped((ROOT / blocks[0][0]).read_text())
    )

    tiny_families.flava(tmp_path / "model")
    choice = ModelChoice(
        str(tmp_path / "model"), "cpu", 2, runtime="onnxruntime", cache_dir=tmp_path / "cache"
    )
    quoted = re.findall(r"fail(?:: | with )`([^`]+)`", " ".join(example.split()))
    assert len(quoted) == 2
    with monkeypatch.context() as without:
        without.delitem(families._READERS, "flava")
        with pytest.raises(ModelLoadError, match=re.escape(quoted[0])):
            load_hub_model(choice)
    pooled = transformers_networks._pooled
    with monkeypatch.context() as without:
        without.setattr(
            transformers_networks, "_pooled", lambda owner, call, by_token: pooled(owner, call)
        )
        with pytest.raises(ModelLoadError, match=re.escape(quoted[1])):
            load_hub_model(choice)


def test_every_class_with_both_methods_is_in_a_table() -> None:
    """Fails when transformers gains one: compare it with its reference, or refuse it."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    sources = [
        source
        for file in Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
        if "def get_image_features(" in (source := file.read_text(encoding="utf-8"))
        and "def get_text_features(" in source
    ]
    both = {
        model_type
        for model_type, name in MODEL_MAPPING_NAMES.items()
        if any(f"class {name}(" in source for source in sources)
    }
    # Their vision-only or text-only classes are of the same file.
    both = {name for name in both if not name.endswith(("_vision_model", "_text_model"))}
    assert {"clip", "tipsv2", "owlvit"} <= both
    assert both - {*families._READERS, *families._REFUSED} <= {"blip_2_qformer"}


@pytest.mark.parametrize(
    ("family", "most"), [("metaclip_2", 24), ("altclip", 40), ("dual_encoder", 40), ("align", 24)]
)
def test_no_text_is_longer_than_its_positions_and_its_tokenizers_limit(
    tmp_path: Path, family: str, most: int
) -> None:
    getattr(tiny_families, family)(tmp_path)
    assert read_recipe(find_model(str(tmp_path), None)).max_text_tokens == most


@pytest.mark.parametrize("family", ["flava", "altclip"])
def test_texts_are_cut_where_the_authors_cut_them(tmp_path: Path, family: str) -> None:
    getattr(tiny_families, family)(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 514
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_recipe(find_model(str(tmp_path), None)).max_text_tokens == 77


def test_settings_inside_processor_config_go_before_preprocessor_config(tmp_path: Path) -> None:
    tiny_families.tipsv2(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    assert read_recipe(find_model(str(tmp_path), None)).image.side == tiny_families.SIDE


def test_what_a_processor_assumes_is_filled_in_by_its_name() -> None:
    tipsv2 = read_image_recipe({"image_processor_type": "Tipsv2ImageProcessor"})
    assert (tipsv2.size, tipsv2.resample, tipsv2.std) == ((448, 448), 2, (1.0, 1.0, 1.0))
    vit = read_image_recipe({"feature_extractor_type": "ViTFeatureExtractor", "size": 224})
    assert (vit.size, vit.resample, vit.mean) == ((224, 224), 2, (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "settings",
    [{"do_pad": True}, {"do_flip_channel_order": True}, {"include_top": True},
     {"image_processor_type": "EfficientNetImageProcessor"}],
)  # fmt: skip
def test_a_step_that_we_do_not_take_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"needs (do_pad|do_flip|include_top).*not supported"):
        read_image_recipe({"size": {"height": 32, "width": 32}, **settings})
