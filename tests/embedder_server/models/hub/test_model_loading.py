"""What an operator may get wrong, and what a disk may: each with an error that says what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from embedder_server import devices
from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import source
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.registry import load_model
from embedder_server.models.runtimes import onnx
from embedder_server.models.runtimes.base import memory_as_load_error, memory_error
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def jina(tmp_path: Path) -> Path:
    tiny_models.jina(tmp_path / "jina")
    return tmp_path / "jina"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("clip") / "model"
    tiny_models.clip(folder)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def cut(file: Path, missing: int) -> None:
    file.write_bytes(file.read_bytes()[: -min(missing, file.stat().st_size)])


def lose_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


# Sources


def test_a_name_that_is_neither_ours_nor_a_folder_nor_a_hub_id_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"There are conse-minilm-lite0, the names "):
        load_model(ModelChoice("no-such-model", "cpu", 1))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no folder"):
        load_model(ModelChoice(str(tmp_path / "nowhere"), "cpu", 1))


def test_an_empty_folder_is_an_unfinished_download(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json is missing.*download it again"):
        load_model(ModelChoice(str(tmp_path), "cpu", 1, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: cut(f / "model.safetensors", 1000), "is cut off"),
        (lambda f: cut(f / "model.safetensors", 10**9), "is cut off"),
        (lambda f: cut(f / "config.json", 9), r"config\.json is damaged"),
        (lambda f: cut(f / "tokenizer.json", 9), r"tokenizer\.json is damaged"),
        (lambda f: (f / "preprocessor_config.json").unlink(), r"preprocessor_config\.json is miss"),
        (lose_tokenizer, r"has no tokenizer\.json"),
    ],
)
def test_a_half_downloaded_model_says_which_file(
    clip_folder: Path, tmp_path: Path, damage: Callable[[Path], Any], says: str
) -> None:
    folder = copy_of(clip_folder, tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelLoadError, match=says):
        load_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_a_missing_shard_is_an_unfinished_download(clip_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(clip_folder, tmp_path / "model")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_weights_that_lack_a_tensor_are_not_made_up(clip_folder: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    folder = copy_of(clip_folder, tmp_path / "model")
    tensors = numpy.load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 1 weights.*visual_projection"):
        load_model(ModelChoice(str(folder), "cpu", 1, cache_dir=tmp_path / "cache"))


def test_an_unknown_architecture_names_the_known_ones(jina: Path) -> None:
    (jina / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadError, match=r"'llama'; served are clip, siglip, siglip2, chinese"):
        load_model(ModelChoice(str(jina), "cpu", 1))


def test_an_unknown_runtime_names_the_known_ones(jina: Path) -> None:
    with pytest.raises(ModelLoadError, match="there are auto, onnxruntime"):
        load_model(ModelChoice(str(jina), "cpu", 1, runtime="tensorrt"))
    with pytest.raises(ModelLoadError, match="unknown runtime 'onnxruntime-fp16'"):
        load_model(ModelChoice(str(jina), "cpu", 1, runtime="onnxruntime-fp16"))


def test_a_folder_is_of_the_revision_that_its_download_recorded(jina: Path) -> None:
    record = jina / ".cache" / "huggingface" / "download" / "config.json.metadata"
    record.parent.mkdir(parents=True)
    record.write_text(f"{SHA}\netag\n1.0\n")
    cache = jina.parent / "cache"
    model = load_model(ModelChoice(str(jina), "cpu", 1, revision=SHA, cache_dir=cache))
    assert model.info.revision == SHA
    with pytest.raises(ModelLoadError, match=f"is revision {SHA}, not {'f' * 40}"):
        load_model(ModelChoice(str(jina), "cpu", 1, revision="f" * 40, cache_dir=cache))


def test_the_built_in_model_has_no_revisions_and_one_runtime() -> None:
    with pytest.raises(ModelLoadError, match="no revisions"):
        load_model(ModelChoice("conse-minilm-lite0", "cpu", 1, revision=SHA))
    with pytest.raises(ModelLoadError, match="onnxruntime only"):
        load_model(ModelChoice("conse-minilm-lite0", "cpu", 1, runtime="torch"))


# The hub, which no test reaches


def test_what_was_downloaded_before_is_served_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub" / "models--jinaai--jina-clip-v1"
    tiny_models.jina(hub / "snapshots" / SHA)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(SHA)
    whole = huggingface_hub.snapshot_download

    def offline(**wanted: Any) -> str:
        if not wanted.get("local_files_only"):
            raise ConnectionError("no network")
        return str(whole(**wanted, cache_dir=tmp_path / "hub"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for revision in (SHA, "main", None):
        model = load_model(
            ModelChoice(
                "jinaai/jina-clip-v1", "cpu", 1, revision=revision, cache_dir=tmp_path / "cache"
            )
        )
        assert (model.info.name, model.info.revision) == ("jinaai/jina-clip-v1", SHA)
    with pytest.raises(ModelLoadError, match="hub cannot be reached"):
        load_model(
            ModelChoice(
                "jinaai/jina-clip-v1", "cpu", 1, revision="f" * 40, cache_dir=tmp_path / "c"
            )
        )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (hub_errors.RevisionNotFoundError, "has no revision"),
        (hub_errors.RepositoryNotFoundError, "the hub has no model"),
    ],
)
def test_a_wrong_name_or_revision_is_told_apart_from_no_network(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], says: str
) -> None:
    def refuse(**_: Any) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelLoadError, match=says):
        source.find_model("owner/name", SHA)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Data processing error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_told_apart_from_no_network(
    monkeypatch: pytest.MonkeyPatch, error: Exception, wrapped: bool
) -> None:
    def fail(**_: Any) -> str:
        if wrapped:
            raise RuntimeError("download failed") from error
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelLoadError, match=r"there is no space to download owner/name.*HF_HOME"):
        source.find_model("owner/name", SHA)


def test_an_interrupted_download_of_a_model_in_several_files_is_completed(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = copy_of(clip_folder, tmp_path / SHA)
    second = snapshot / "model-00002-of-00002.safetensors"

    def download(*, allow_patterns: list[str], **_: Any) -> str:
        if "model*.safetensors" in allow_patterns:
            second.write_bytes(b"the rest")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source.find_model("owner/name", SHA)
    assert second.exists()
    second.unlink()
    source.find_model(str(snapshot), None)  # a plain folder stays as it is
    assert not second.exists()


# Code that comes with a model


def test_code_that_comes_with_a_model_runs_only_if_all_of_it_is_pinned(
    jina: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = {"cache_dir": jina.parent / "cache", "trust_remote_code": True}
    with pytest.raises(ModelLoadError, match="pin the code that you have read with --revision"):
        load_model(ModelChoice(str(jina), "cpu", 1, **load))  # type: ignore[arg-type]
    monkeypatch.setattr(source, "_recorded_revision", lambda _: SHA)
    with pytest.raises(ModelLoadError, match="jinaai/jina-clip-implementation, which --revision"):
        load_model(ModelChoice(str(jina), "cpu", 1, revision=SHA, **load))  # type: ignore[arg-type]


# Devices


@pytest.mark.parametrize("model", ["conse-minilm-lite0", "owner/name"])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda _: 0)
    with pytest.raises(ModelLoadError, match="this machine has no NVIDIA GPU: use --device cpu"):
        load_model(ModelChoice(model, "cuda:0", 1))


def test_a_gpu_beyond_the_last_is_refused_by_count(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    devices.check_device("cuda:1", tmp_path)  # a container's second device, whatever its number
    with pytest.raises(ModelLoadError, match="only cuda:0 to cuda:1"):
        devices.check_device("cuda:2", tmp_path)


def test_openvino_on_a_gpu_is_refused(jina: Path) -> None:
    with pytest.raises(ModelLoadError, match="runs on the CPU only"):
        load_hub_model(
            ModelChoice(
                str(jina), "cuda:0", 1, runtime="openvino-bf16", cache_dir=jina.parent / "cache"
            )
        )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("Failed to allocate memory for requested buffer of size 8589934592"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_lack_of_memory_is_told_as_one(error: Exception) -> None:
    with (
        pytest.raises(ModelLoadError, match="does not fit into the memory of cuda:0"),
        memory_as_load_error("cuda:0"),
    ):
        raise error


def test_other_errors_are_no_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="bad shape"), memory_as_load_error("cuda:0"):
        raise RuntimeError("bad shape")
    with pytest.raises(ModelLoadError, match="the first device"), memory_as_load_error("cuda:0"):
        raise memory_error("the first device")


def test_a_runtime_without_memory_is_one_line(jina: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(onnx.ort, "InferenceSession", fail)
    with pytest.raises(ModelLoadError, match="does not fit into the memory of cpu"):
        load_model(
            ModelChoice(str(jina), "cpu", 1, runtime="onnxruntime", cache_dir=jina.parent / "cache")
        )
