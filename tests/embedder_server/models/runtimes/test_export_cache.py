"""The export cache: made once, proven each time, needs no torch to be read."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.hub.transformers_networks import EXPORT_VERSION
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.onnx import cpu_candidates
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("clip") / "model"
    tiny_models.clip(folder)
    return folder


def test_a_worker_that_finds_its_export_never_imports_torch(
    clip_folder: Path, tmp_path: Path
) -> None:
    first = load_hub_model(ModelChoice(str(clip_folder), "cpu", 1, cache_dir=tmp_path / "cache"))
    cache = str(tmp_path / "cache")
    program = (
        "import sys; from pathlib import Path\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"  # importing them fails now
        "from embedder_server.models.base import ModelChoice\n"
        "from embedder_server.models.registry import load_model\n"
        f"m = load_model(ModelChoice({str(clip_folder)!r}, 'cpu', 1, cache_dir=Path({cache!r})))\n"
        "print(m.info.fingerprint, m.embed_texts([m.tokenize('a cat')]).shape[1])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [first.info.fingerprint, "24"]


def test_without_torch_a_model_that_is_not_exported_says_what_to_install(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelLoadError, match=r"install '.\[torch\]'"):
        load_hub_model(ModelChoice(str(clip_folder), "cpu", 1, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("victim", ["text.onnx", "image.onnx", "manifest.json"])
def test_a_damaged_export_is_made_anew(clip_folder: Path, tmp_path: Path, victim: str) -> None:
    options: dict[str, Any] = {"runtime": "onnxruntime", "cache_dir": tmp_path / "cache"}
    first = load_hub_model(ModelChoice(str(clip_folder), "cpu", 1, **options))
    [file] = (tmp_path / "cache").glob(f"*/{victim}")
    good = file.read_bytes()
    file.write_bytes(good[:-40] + bytes(40))
    again = load_hub_model(ModelChoice(str(clip_folder), "cpu", 1, **options))
    tokens = first.tokenize("a cat")
    assert (again.embed_texts([tokens]) == first.embed_texts([tokens])).all()
    assert len(file.read_bytes()) == len(good)
    assert file.read_bytes()[-40:] != bytes(40)


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = ExportCache(tmp_path)

    def build(target: Path) -> dict[str, Any]:
        (target / "half").write_text("x")
        raise ModelLoadError("no")

    with pytest.raises(ModelLoadError, match="no"):
        cache.get_or_build("key", build)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def _use(root: str, builds: Any, answers: Any) -> None:
    def build(target: Path) -> dict[str, Any]:
        with builds.get_lock():
            builds.value += 1
        (target / "file").write_text("content")
        return {"made": builds.value}

    answers.put(ExportCache(Path(root)).get_or_build("key", build).facts)


def test_workers_that_start_together_export_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    builds, answers = context.Value("i", 0), context.Queue()
    workers = [
        context.Process(target=_use, args=(str(tmp_path), builds, answers)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    facts = [answers.get(timeout=20) for _ in workers]
    for worker in workers:
        worker.join()
    assert facts == [{"made": 1}] * 4


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="set --cache-dir"):
        ExportCache(tmp_path / "file" / "cache")


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    cache = ExportCache(tmp_path)
    cache.write_note("a", {"runtime": "x"})
    assert cache.read_note("a") == {"runtime": "x"}
    (tmp_path / "a.json").write_text("{")
    assert cache.read_note("a") is None


def test_nothing_of_the_models_is_imported_with_the_registry() -> None:
    program = (
        "import sys, embedder_server.models.registry\n"
        "heavy = {'torch', 'transformers', 'openvino', 'onnxruntime', 'huggingface_hub'}\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
    assert EXPORT_VERSION  # imported here without torch as well
    assert cpu_candidates()[0].library == "onnxruntime"
