"""`--threads`: what an operator sets is what each runtime computes with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedder_server.models.registry import load_model
from embedder_server.models.runtimes.onnx import cpu_precisions
from embedder_server.settings import EmbedderSettings
from tests.embedder_server.models import tiny_models


def of_onnxruntime(session: Any) -> int:
    return int(session.get_session_options().intra_op_num_threads)


def of_openvino(request: Any) -> int:
    return int(request.get_compiled_model().get_property("INFERENCE_NUM_THREADS"))


READ: dict[str, Callable[[Any], int]] = {
    "onnxruntime": lambda tower: of_onnxruntime(tower._session),
    "openvino": lambda tower: of_openvino(tower._request),
}


def settings(model: str, threads: int, **more: Any) -> EmbedderSettings:
    return EmbedderSettings(_env_file=None, model=model, threads=threads, **more)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", READ)
def test_a_model_from_a_folder_computes_with_the_threads_that_were_set(
    tmp_path: Path, runtime: str, threads: int
) -> None:
    if runtime == "openvino" and not cpu_precisions():
        pytest.skip("openvino is not installed")
    tiny_models.jina(tmp_path / "jina")
    more = {"runtime": runtime, "cache_dir": tmp_path}
    model: Any = load_model(settings(str(tmp_path / "jina"), threads, **more).model_choice)
    assert READ[runtime](model._towers._text) == threads
    assert READ[runtime](model._towers._image) == threads


@pytest.mark.parametrize("threads", [1, 3])
def test_torch_computes_with_the_threads_that_were_set(tmp_path: Path, threads: int) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    tiny_models.clip(tmp_path / "clip")
    try:
        more = {"runtime": "torch", "cache_dir": tmp_path}
        load_model(settings(str(tmp_path / "clip"), threads, **more).model_choice)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


_LOAD = """\
import sys
from embedder_server.models.registry import load_model
from embedder_server.settings import EmbedderSettings
folder = sys.argv[1]
settings = EmbedderSettings(_env_file=None, model=folder, cache_dir=folder, runtime="torch")
load_model(settings.model_choice)
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        pytest.param({}, "10000", id="default"),
        pytest.param({"GOMP_SPINCOUNT": "5"}, "5", id="given", marks=pytest.mark.slow),
        pytest.param({"OMP_WAIT_POLICY": "passive"}, "0", id="another way", marks=pytest.mark.slow),
    ],
)
def test_threads_of_torch_do_not_spin_long_after_a_pass(
    tmp_path: Path, given: dict[str, str], spins: str
) -> None:
    torch = pytest.importorskip("torch")
    if not list((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        pytest.skip("this build of torch brings another library for its threads")
    tiny_models.clip(tmp_path / "clip")
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    # In a new process, since the library reads it only once; and then prints what it read.
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path / "clip")],
        env={**kept, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in loaded.stderr


@pytest.mark.parametrize("threads", [1, 3])
def test_the_default_model_computes_with_the_threads_that_were_set(threads: int) -> None:
    model: Any = load_model(settings("conse-minilm-lite0", threads).model_choice)
    assert of_onnxruntime(model._text._session) == threads
    assert of_onnxruntime(model._image._session) == threads
