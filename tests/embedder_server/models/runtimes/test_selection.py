"""`--runtime auto`: speed decides among those that keep the vectors, and the decision is kept."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from embedder_server.models.runtimes import selection
from embedder_server.models.runtimes.base import (
    Feed,
    Runtime,
    TwoTowers,
    memory_error,
    parse_runtime,
    runtime_names,
)
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.probe import Probe
from embedder_server.models.runtimes.selection import ChosenRuntime, choose, open_explicit
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, Modality, ModelLoadError

EXACT, FAST, FASTEST = Runtime("onnxruntime"), Runtime("openvino"), Runtime("openvino", "bf16")


@dataclass
class FakeTower:
    """A tower as slow, as inexact and as dependent on its batch as a test wants it."""

    seconds: float
    error: float = 0.0
    batch_error: float = 0.0
    raises: Exception | None = None
    raises_from: int = 1
    inputs: tuple[str, ...] = ("input_ids",)
    closed: bool = False

    def run(self, feed: Feed) -> FloatArray:
        [items] = feed.values()
        if self.raises is not None and len(items) >= self.raises_from:
            raise self.raises
        time.sleep(self.seconds)
        vectors = np.zeros((len(items), 4), dtype=np.float32)
        vectors[:, 0] = 1
        vectors[:, 1] = self.error
        vectors[:, 2] = self.batch_error * (len(items) > 1)
        return vectors

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeNetworks:
    """Networks whose runtimes are `FakeTower`s, or fail to open."""

    runtimes: dict[Runtime, FakeTower | None]
    on_cpu: FakeTower | None = None
    opened: list[Runtime] = field(default_factory=list)

    def candidates(self) -> tuple[Runtime, ...]:
        return tuple(self.runtimes)

    def open(self, runtime: Runtime) -> TwoTowers:
        self.opened.append(runtime)
        tower = self.runtimes[runtime]
        if tower is None:
            raise ModelLoadError("broken here")
        return self._both(tower)

    def reference(self) -> TwoTowers | None:
        return None if self.on_cpu is None else self._both(self.on_cpu)

    def _both(self, tower: FakeTower) -> TwoTowers:
        image = dataclasses.replace(tower, inputs=("pixel_values",))
        batches = TextBatches(Padding.LONGEST, 0, 8)
        return TwoTowers({Modality.TEXT: tower, Modality.IMAGE: image}, batches, 4)

    def logits(self) -> tuple[float, float]:
        return 1.0, 0.0


def probe() -> Probe:
    text = TokenizedText(np.array([1, 2], dtype=np.int64), 2)
    return Probe([text] * 3, [np.zeros((3, 2, 2), dtype=np.float32)] * 2)


def chosen(
    tmp_path: Path, networks: FakeNetworks, device: str = "cpu", threads: int = 2
) -> ChosenRuntime:
    cache = ExportCache(tmp_path)
    return choose(networks, probe, cache, "f" * 64, device=device, threads=threads)


def test_the_fastest_is_chosen_and_the_reason_has_all_measurements(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0.02), FAST: FakeTower(0.01), FASTEST: FakeTower(0)})
    choice = chosen(tmp_path, networks)
    assert choice.runtime == FASTEST
    assert "the fastest here" in choice.reason
    assert "openvino " in choice.reason


def test_a_faster_runtime_that_is_inexact_is_not_chosen(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0.01), FASTEST: FakeTower(0, error=0.1)})
    choice = chosen(tmp_path, networks)
    assert choice.runtime == EXACT
    assert "too inexact" in choice.reason


def test_a_faster_runtime_whose_vectors_depend_on_the_batch_is_not_chosen(tmp_path: Path) -> None:
    # As dynamic int8: near enough to float32, but not the same alone and in a batch.
    networks = FakeNetworks({EXACT: FakeTower(0.01), FASTEST: FakeTower(0, batch_error=0.04)})
    choice = chosen(tmp_path, networks)
    assert choice.runtime == EXACT
    assert "depends on its batch" in choice.reason


def test_an_exact_runtime_whose_vectors_depend_on_the_batch_is_not_chosen(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0, batch_error=0.04), FAST: FakeTower(0.01)})
    choice = chosen(tmp_path, networks)
    assert choice.runtime == FAST
    assert "onnxruntime 1.00x, cosine 0.99920: an item's vector depends on its" in choice.reason


@pytest.mark.parametrize("others", [{}, {FAST: FakeTower(0, batch_error=0.04)}])
def test_where_every_runtime_depends_on_the_batch_the_load_fails(
    tmp_path: Path, others: dict[Runtime, FakeTower | None]
) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0, batch_error=0.04), **others})
    with pytest.raises(ModelLoadError, match=r"depends on its batch, cosine 0\.999\d \(at least"):
        chosen(tmp_path, networks)
    with pytest.raises(ModelLoadError, match=r"fails its check on onnxruntime: .* on its batch"):
        open_explicit(networks, EXACT, probe, "cpu")


def test_the_only_runtime_is_measured_too_and_once(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0)})
    choice = chosen(tmp_path, networks)
    assert choice.reason == (
        "onnxruntime: the only one for this model and device; cosine of an item alone to itself "
        "in a batch 1.00000"
    )
    assert networks.opened == [EXACT, EXACT]
    assert chosen(tmp_path, networks).reason == choice.reason
    assert networks.opened == [EXACT, EXACT, EXACT]


def test_a_stored_choice_that_fails_its_check_is_made_again(tmp_path: Path) -> None:
    # As one that an earlier version stored, which checked less.
    networks = FakeNetworks({EXACT: FakeTower(0.01), FASTEST: FakeTower(0)})
    assert chosen(tmp_path, networks).runtime == FASTEST
    networks.runtimes[FASTEST] = broken = FakeTower(0, batch_error=0.04)
    assert chosen(tmp_path, networks).runtime == EXACT
    assert broken.closed
    networks.opened.clear()
    assert chosen(tmp_path, networks).runtime == EXACT
    assert networks.opened == [EXACT]


def test_an_only_runtime_without_usable_vectors_fails_the_load(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no usable vectors"):
        chosen(tmp_path, FakeNetworks({EXACT: FakeTower(0, error=float("nan"))}))


def test_an_only_runtime_without_memory_for_a_batch_is_served_unmeasured_and_not_kept(
    tmp_path: Path,
) -> None:
    towers: dict[Runtime, FakeTower | None] = {EXACT: FakeTower(0, raises=FULL, raises_from=2)}
    networks = FakeNetworks(towers, on_cpu=FakeTower(0))
    choice = chosen(tmp_path, networks, "cuda:1")
    assert choice.runtime == EXACT
    assert choice.reason.endswith("not measured, for lack of memory")
    assert networks.on_cpu is not None
    assert not networks.on_cpu.closed  # nothing to compare with: not even loaded
    networks.runtimes[EXACT] = FakeTower(0)
    assert "in a batch 1.00000" in chosen(tmp_path, networks, "cuda:1").reason


def test_an_only_runtime_that_does_not_fit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Runtime) -> TwoTowers:
        raise memory_error("cuda:1")

    networks = FakeNetworks({EXACT: FakeTower(0)}, on_cpu=FakeTower(0))
    monkeypatch.setattr(networks, "open", full)
    with pytest.raises(ModelLoadError, match="does not fit into the memory of cuda:1"):
        chosen(tmp_path, networks, "cuda:1")


@pytest.mark.parametrize("error", [0.04, 0.02])
def test_the_limit_of_invariance_is_the_documented_one(tmp_path: Path, error: float) -> None:
    # The cosine of (1, 0) to (1, e) is about 1 - e²/2: 0.9992 is refused, 0.9998 is not.
    networks = FakeNetworks({EXACT: FakeTower(0.01), FASTEST: FakeTower(0, batch_error=error)})
    assert chosen(tmp_path, networks).runtime == (EXACT if error == 0.04 else FASTEST)


def test_a_runtime_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0.01), FAST: None, FASTEST: FakeTower(0)})
    choice = chosen(tmp_path, networks)
    assert choice.runtime == FASTEST
    assert "broken here" in choice.reason


FULL = RuntimeError("CUDA out of memory")


def test_where_float32_does_not_fit_the_cpu_computes_what_others_are_compared_with(
    tmp_path: Path,
) -> None:
    networks = FakeNetworks(
        {EXACT: FakeTower(0, raises=FULL), FAST: FakeTower(0, error=0.1), FASTEST: FakeTower(0.01)},
        on_cpu=FakeTower(0.02),
    )
    choice = chosen(tmp_path, networks)
    assert choice.runtime == FASTEST
    assert "x float32 on the CPU" in choice.reason
    assert "onnxruntime does not fit into the device's memory" in choice.reason
    assert "too inexact" in choice.reason
    assert networks.on_cpu is not None
    assert networks.on_cpu.closed


def test_a_runtime_slower_than_the_cpu_is_still_the_only_one_that_fits(tmp_path: Path) -> None:
    towers = {EXACT: FakeTower(0, raises=FULL), FAST: FakeTower(0.01)}
    assert chosen(tmp_path, FakeNetworks({**towers}, FakeTower(0))).runtime == FAST


def test_where_nothing_fits_the_load_fails_with_the_reasons(tmp_path: Path) -> None:
    full = FakeTower(0, raises=FULL)
    networks = FakeNetworks({EXACT: full, FASTEST: full}, on_cpu=FakeTower(0))
    with pytest.raises(ModelLoadError, match=r"memory; openvino-bf16 does not work \(CUDA out of"):
        chosen(tmp_path, networks)
    with pytest.raises(ModelLoadError, match="does not fit into the memory of cpu"):
        chosen(tmp_path, FakeNetworks({EXACT: full, FASTEST: full}))


def test_an_exact_runtime_that_is_broken_fails_the_load(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="broken here"):
        chosen(tmp_path, FakeNetworks({EXACT: None, FAST: FakeTower(0)}, FakeTower(0)))


def test_the_decision_is_kept_for_the_same_machine_and_made_anew_for_another(
    tmp_path: Path,
) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0.01), FASTEST: FakeTower(0)})
    first = chosen(tmp_path, networks)
    networks.opened.clear()
    again = chosen(tmp_path, networks)
    assert networks.opened == [FASTEST]
    assert again.reason == first.reason
    networks.opened.clear()
    chosen(tmp_path, networks, threads=8)
    assert EXACT in networks.opened


def test_the_decision_is_made_anew_for_another_model_of_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedder_server.models.runtimes import torch

    gpus = {"cuda:0": "NVIDIA L4"}
    monkeypatch.setattr(torch, "device_name", gpus.__getitem__)
    exact, half = Runtime("torch"), Runtime("torch", "bf16")
    networks = FakeNetworks({exact: FakeTower(0.01), half: FakeTower(0)})
    chosen(tmp_path, networks, "cuda:0")
    networks.opened.clear()
    chosen(tmp_path, networks, "cuda:0")
    assert networks.opened == [half]
    gpus["cuda:0"] = "NVIDIA H100"
    networks.opened.clear()
    chosen(tmp_path, networks, "cuda:0")
    assert networks.opened == [exact, half, half]


def test_what_was_measured_is_closed_again(tmp_path: Path) -> None:
    towers = {EXACT: FakeTower(0.01), FAST: FakeTower(0.02)}
    chosen(tmp_path, FakeNetworks(dict(towers)))
    assert towers[FAST].closed


def test_vectors_that_are_not_numbers_fail_the_load(tmp_path: Path) -> None:
    networks = FakeNetworks({EXACT: FakeTower(0, error=float("nan")), FAST: FakeTower(0)})
    with pytest.raises(ModelLoadError, match="no usable vectors"):
        chosen(tmp_path, networks)


@pytest.mark.parametrize("name", runtime_names())
def test_every_runtime_has_one_name(name: str) -> None:
    assert str(parse_runtime(name)) == name


def test_int8_is_never_a_candidate() -> None:
    from embedder_server.models.runtimes.onnx import cpu_candidates

    assert all(runtime.precision != "int8" for runtime in cpu_candidates())
    assert selection.MIN_ACCURACY == 0.999
