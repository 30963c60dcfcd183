"""How `sentinel up --workers auto` counts GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_client.cli.up import devices_for, gpu_count


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def pretend_gpus(folder: Path, count: int) -> None:
    lines = "".join(f"echo 'GPU {n}: NVIDIA H100 (UUID: GPU-{n})'\n" for n in range(count))
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)


def test_a_given_number_gets_the_given_device() -> None:
    assert devices_for(3, "cpu") == ["cpu"] * 3


def test_auto_is_one_for_each_gpu(tmp_path: Path) -> None:
    pretend_gpus(tmp_path, 2)
    assert devices_for(None, "cpu") == ["cuda:0", "cuda:1"]


def test_auto_without_a_gpu_is_one_on_the_given_device() -> None:
    assert devices_for(None, "cpu") == ["cpu"]


@pytest.mark.parametrize(("visible", "count"), [("0,2", 2), ("", 0), ("-1", 0), ("GPU-abc", 1)])
def test_hidden_gpus_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, count: int
) -> None:
    pretend_gpus(tmp_path, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_count() == count
