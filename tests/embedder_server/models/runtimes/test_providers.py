"""Which code of ONNX Runtime runs a model, by `--runtime` and device; CUDA is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from embedder_server import devices
from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.registry import DEFAULT_MODEL, load_model
from embedder_server.models.runtimes.onnx import create_session
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import onnx_folders, open_clip_models, tiny_models

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
Opened = list[list[tuple[str, dict[str, Any]]]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A machine with a GPU, as far as ONNX Runtime tells; sessions run on the CPU.

    Holds the providers that each session was opened with.
    """
    opened: Opened = []
    real = ort.InferenceSession

    class Session:
        def __init__(self, source: object, sess_options: object, providers: Any) -> None:
            opened.append(list(providers))
            self._real = real(source, sess_options=sess_options, providers=[CPU])

        def get_providers(self) -> list[str]:
            return [name for name, _ in opened[-1]]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(devices, "cuda_devices", lambda *_: 1)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    return opened


def test_profile_and_overlay_for_gpus_start_as_documented_with_the_default_model(
    gpu: Opened,
) -> None:
    """What their containers do: the default model on cuda:0, with the lock's onnxruntime-gpu."""
    model = load_model(ModelChoice(DEFAULT_MODEL, "cuda:0", 1))
    assert model.info.device == "cuda:0"
    assert model.embed_texts([model.tokenize("a cat")]).shape == (1, 384)
    assert [providers[0][0] for providers in gpu] == [CUDA, CUDA]
    # TF32 would round texts differently alone and in a batch.
    assert all(p[0][1] == {"device_id": "0", "use_tf32": "0"} for p in gpu)
    with pytest.raises(ModelLoadError, match="runs on onnxruntime-cuda only, not onnxruntime"):
        load_model(ModelChoice(DEFAULT_MODEL, "cuda:0", 1, runtime="onnxruntime"))


def test_where_the_default_model_falls_back_to_the_cpu_its_runtime_is_that_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda *_: 1)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    choice = ModelChoice(DEFAULT_MODEL, "cuda:0", 1, runtime="onnxruntime")
    assert load_model(choice).info.device == "cpu"
    with pytest.raises(ModelLoadError, match="runs on onnxruntime only, not onnxruntime-cuda"):
        load_model(ModelChoice(DEFAULT_MODEL, "cuda:0", 1, runtime="onnxruntime-cuda"))


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cuda"])
def test_a_model_of_onnx_files_runs_with_cuda_on_a_gpu(
    gpu: Opened, tmp_path: Path, runtime: str
) -> None:
    tiny_models.jina(tmp_path / "jina")
    model = load_hub_model(
        ModelChoice(str(tmp_path / "jina"), "cuda:0", 1, runtime=runtime, cache_dir=tmp_path / "c")
    )
    assert (model.info.runtime, model.info.device) == ("onnxruntime-cuda", "cuda:0")
    assert all(providers[0][0] == CUDA for providers in gpu)


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_folder_of_onnx_files_runs_on_a_gpu(gpu: Opened, tmp_path: Path, runtime: str) -> None:
    pytest.importorskip("torch")
    onnx_folders.of_transformers("clip", tmp_path / "clip")
    model = load_hub_model(
        ModelChoice(str(tmp_path / "clip"), "cuda:0", 1, runtime=runtime, cache_dir=tmp_path / "c")
    )
    assert model.info.runtime == ("onnxruntime-cuda" if runtime == "auto" else runtime)
    assert all(providers[-2][0] == CUDA for providers in gpu)
    if runtime == "onnxruntime-tensorrt":
        assert gpu[0][0][1]["trt_engine_cache_path"] == str(tmp_path / "c" / "tensorrt")


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_networks_of_one_item_are_opened_on_a_gpu(
    gpu: Opened, tmp_path: Path, runtime: str
) -> None:
    folder = onnx_folders.immich("vit", tmp_path).folder
    model = load_hub_model(
        ModelChoice(str(folder), "cuda:0", 1, runtime=runtime, cache_dir=tmp_path / "c")
    )
    assert model.embed_texts([model.tokenize("a cat"), model.tokenize("boats")]).shape[0] == 2
    assert list((tmp_path / "c").glob("*-items-v*/text.onnx"))


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_an_open_clip_checkpoint_runs_on_a_gpu(gpu: Opened, tmp_path: Path, runtime: str) -> None:
    folder = open_clip_models.write("vit", tmp_path / "checkpoint").folder
    model = load_hub_model(
        ModelChoice(str(folder), "cuda:0", 1, runtime=runtime, cache_dir=tmp_path / "c")
    )
    assert model.info.runtime == ("onnxruntime-cuda" if runtime == "auto" else runtime)
    assert all(providers[-2][0] == CUDA for providers in gpu)


def test_tensorrt_runs_with_cuda_behind_it_and_keeps_its_engines_in_the_cache(
    gpu: Opened, tmp_path: Path
) -> None:
    tiny_models.jina(tmp_path / "jina")
    name, folder = "onnxruntime-tensorrt", str(tmp_path / "jina")
    choice = ModelChoice(folder, "cuda:0", 1, runtime=name, cache_dir=tmp_path / "c")
    assert load_hub_model(choice).info.runtime == "onnxruntime-tensorrt"
    for providers in gpu:
        assert [name for name, _ in providers] == [TENSORRT, CUDA, CPU]
        assert providers[0][1]["trt_engine_cache_path"] == str(tmp_path / "c" / "tensorrt")


@pytest.mark.parametrize(
    ("library", "device", "offered", "says"),
    [
        ("onnxruntime-tensorrt", "cuda:0", [CUDA, CPU], r"no tensorrt provider; .*tensorrt\), or"),
        ("onnxruntime-cuda", "cuda:0", [CPU], r"no cuda provider; install .*onnxruntime-gpu\["),
        ("onnxruntime", "cuda:0", [CUDA, CPU], "does not run on cuda:0: .* cuda:N onnxruntime-c"),
        ("onnxruntime-cuda", "cpu", [CUDA, CPU], "does not run on cpu: on the CPU it is onnxrunt"),
        ("onnxruntime-tensorrt", "cpu", [TENSORRT, CPU], "does not run on cpu"),
    ],
)  # fmt: skip
def test_code_that_is_not_there_or_not_for_the_device_says_what_to_do(
    library: str,
    device: str,
    offered: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: offered)
    with pytest.raises(ModelLoadError, match=says):
        create_session(b"not read", device=device, threads=1, library=library)


def test_a_provider_that_onnxruntime_drops_without_a_word_is_an_error(
    gpu: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny_models.jina(tmp_path)
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda _: [CPU])
    with pytest.raises(ModelLoadError, match=r"could not start it on cuda:0; .* TensorRT's librar"):
        create_session(
            tmp_path / "onnx" / "text_model.onnx",
            device="cuda:0",
            threads=1,
            library="onnxruntime-tensorrt",
        )
