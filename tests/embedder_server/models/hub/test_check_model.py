"""`scripts/check_model.py` itself: it agrees with what is right, and says what is wrong."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedder_server.models.base import ModelChoice
from embedder_server.models.catalog import catalog
from embedder_server.models.hub import source
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.hub.source import find_model
from embedder_server.models.registry import load_model
from embedder_server.models.runtimes.onnx import cpu_precisions
from scripts import check_model
from tests.embedder_server.models import open_clip_models, tiny_models
from tests.fakes import hub

JINA_RUNTIMES = [(1, "onnxruntime"), (2, "onnxruntime")]
JINA_RUNTIMES += [(1, "openvino")] if cpu_precisions() else []
TRANSFORMERS = ("clip", "siglip", "siglip2_fixed", "siglip2", "chinese_clip")


@pytest.mark.parametrize(("version", "runtime"), JINA_RUNTIMES)
def test_jina_clips_vectors_are_those_of_its_files_called_by_hand(
    tmp_path: Path, version: int, runtime: str
) -> None:
    tiny_models.jina(tmp_path / "jina", version=version)
    folder = find_model(str(tmp_path / "jina"), None)
    model = load_hub_model(
        ModelChoice(str(folder.path), "cpu", 2, runtime=runtime, cache_dir=tmp_path)
    )
    for text, ids in zip(check_model.TEXTS, check_model.jina_ids(folder), strict=True):
        np.testing.assert_array_equal(model.tokenize(text).ids, ids[0])
    pictures = zip(check_model.pictures(), check_model.jina_pixels(folder), strict=True)
    for picture, pixels in pictures:
        np.testing.assert_allclose(model.preprocess(picture), pixels[0], atol=1e-5)
    assert check_model.agrees(model, check_model.reference(folder))


@pytest.mark.slow
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_the_reference_of_transformers_agrees_with_ours(tmp_path: Path, family: str) -> None:
    pytest.importorskip("torch")
    getattr(tiny_models, family)(tmp_path / "model")
    folder = find_model(str(tmp_path / "model"), None)
    model = load_model(
        ModelChoice(str(folder.path), "cpu", 2, runtime="onnxruntime", cache_dir=tmp_path)
    )
    assert check_model.agrees(model, check_model.reference(folder))


@pytest.mark.slow
def test_the_reference_of_open_clip_agrees_with_ours(tmp_path: Path) -> None:
    open_clip_models.write("siglip", tmp_path / "model")
    folder = find_model(str(tmp_path / "model"), None)
    model = load_model(
        ModelChoice(str(folder.path), "cpu", 2, runtime="onnxruntime", cache_dir=tmp_path)
    )
    assert check_model.agrees(model, check_model.reference(folder))


def test_what_the_reference_reads_of_a_siglip_is_downloaded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tiny_models.siglip(tmp_path)
    files = [file.name for file in tmp_path.iterdir() if file.suffix != ".safetensors"]
    assert "spiece.model" in files
    for name in files:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in source._SMALL_FILES), name


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_whole_catalog_is_checked_and_one_failure_does_not_end_it(tmp_path: Path) -> None:
    """Two models are on the hub, one of them with a broken configuration; the others are not."""
    tiny_models.jina(tmp_path / "model", version=2)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    entries = catalog()
    first = next(iter(entries))
    assert first != "jina-clip-v2"
    with hub.serving() as stand_in:
        stand_in.repositories[entries["jina-clip-v2"].hub_id] = (tmp_path / "model", "a" * 40)
        of_first = entries[first]
        stand_in.repositories[of_first.hub_id] = (tmp_path / "broken", of_first.revision)
        home = str(tmp_path / "home")
        words = ["--all", "--runtimes", "onnxruntime", "--cache-dir", home]
        done = subprocess.run(
            [sys.executable, check_model.__file__, *words],
            env={
                **os.environ,
                "HF_ENDPOINT": stand_in.url,
                "HF_HOME": home,
                "XDG_CACHE_HOME": home,
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    table = done.stdout.partition("models of the catalog")[2]
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in table.splitlines()
        if len(cells := line.replace("┃", "│").split("│")) > 2 and cells[1].strip()
    }
    assert set(entries) <= set(rows)
    revision, loads_on, equal, *_ = rows["jina-clip-v2"]
    assert (revision, loads_on, equal) == ("a" * 12, "onnxruntime", "yes")
    for name in set(entries) - {"jina-clip-v2"}:
        assert rows[name][1] == "-", name
        assert rows[name][-1] not in ("right", ""), name


def test_vectors_that_are_off_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models.jina(tmp_path / "jina")
    folder = str(tmp_path / "jina")
    model = load_hub_model(ModelChoice(folder, "cpu", 2, runtime="onnxruntime", cache_dir=tmp_path))
    texts, images = check_model.reference(find_model(str(tmp_path / "jina"), None))
    # 0.9998 of cosine, of one picture in four: below the limit of float32, above that of bfloat16.
    other = np.linalg.qr(np.stack([images[0], np.arange(12)], axis=1))[0][:, 1]
    images[0] = check_model.unit(images[:1] + 0.02 * other)[0]
    assert not check_model.agrees(model, (texts, images))
    assert "images: cosine to the reference min 0.9998" in capsys.readouterr().out


def test_a_runtime_that_somebody_named_must_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.jina(tmp_path / "jina")
    # Random weights are not sensible.
    monkeypatch.setattr(check_model, "makes_sense", lambda _: True)
    words = ["check_model.py", str(tmp_path / "jina"), "--cache-dir", str(tmp_path / "cache")]
    monkeypatch.setattr("sys.argv", [*words, "--runtimes", "onnxruntime"])
    assert check_model.main() == 0
    monkeypatch.setattr("sys.argv", [*words, "--runtimes", "onnxruntime,torch"])
    assert check_model.main() == 1
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(check_model, "RUNTIMES", "onnxruntime,torch")
    assert check_model.main() == 0
