"""The device thread: batches form while it works, errors stay with their batch."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_server.engine import device_loop
from embedder_server.engine.batching import BatchQueue, Budget, DeviceResult, WorkGroup
from embedder_server.engine.device_loop import DeviceLoop, Forward
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.types import FloatArray, Modality, Priority
from sentinel_core.errors import DeadlineExceeded, Internal, SentinelError, Unavailable
from tests.embedder_server.calls import until_busy
from tests.fakes.fake_model import FakeModel


class Device:
    """A device loop over a fake model, and short ways to use it."""

    def __init__(self, model: FakeModel, forward: Forward | None = None) -> None:
        self.model = model
        self.metrics = EmbedderMetrics(CollectorRegistry())
        self.failures: list[BaseException] = []
        budgets = {Priority.INTERACTIVE: Budget(8, 1000, 8), Priority.BULK: Budget(2, 1000, 2)}
        self.loop = DeviceLoop(
            {Modality.TEXT: forward or model.embed_texts, Modality.IMAGE: model.embed_images},
            {modality: BatchQueue(budgets) for modality in Modality},
            dimensions=model.info.dimensions,
            metrics=self.metrics,
            on_failure=self.failures.append,
        )

    def submit(
        self, *texts: str, priority: Priority = Priority.INTERACTIVE, seconds: float = 60
    ) -> WorkGroup:
        payloads = [(self.model.tokenize(text), len(text.split())) for text in texts]
        return self.loop.submit(Modality.TEXT, priority, payloads, time.monotonic() + seconds)

    async def embed(self, *texts: str) -> list[DeviceResult]:
        return await self.submit(*texts).results()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"sentinel_embedder_{name}", labels) or 0.0

    async def until_busy(self) -> None:
        await until_busy(self.model)


async def results(*groups: WorkGroup) -> list[DeviceResult]:
    return [one for group in groups for one in await group.results()]


def reason(embedded: DeviceResult) -> str:
    return embedded.vector.reason if isinstance(embedded.vector, SentinelError) else "ok"


@pytest.fixture
async def device(model: FakeModel) -> AsyncIterator[Device]:
    device = Device(model)
    await device.loop.start([(Modality.TEXT, [model.tokenize("warm")])])
    model.batches.clear()
    yield device
    model.faults.gate.set()
    await device.loop.close(5)


async def test_a_lone_item_runs_at_once(device: Device) -> None:
    several = [one for _ in range(10) for one in await device.embed("red")]
    assert [one.batch_size for one in several] == [1] * 10
    assert min(one.queue_s for one in several) < 0.005  # a busy machine delays some of them
    one = several[0]
    assert isinstance(one.vector, np.ndarray)
    assert one.vector.dtype == np.float32
    assert np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-6)


async def test_what_arrives_during_a_batch_shares_the_next_one(device: Device) -> None:
    device.model.faults.gate.clear()
    first = device.submit("one")
    await device.until_busy()
    rest = [device.submit(word) for word in ("two", "three", "four")]
    device.model.faults.gate.set()
    await results(first)
    sizes = [embedded.batch_size for items in rest for embedded in await results(items)]
    assert sizes == [3, 3, 3]
    assert device.model.threads == {"device"}


async def test_interactive_waits_for_at_most_one_bulk_batch(device: Device) -> None:
    device.model.faults.gate.clear()
    bulk = device.submit(*(f"bulk{n}" for n in range(6)), priority=Priority.BULK)
    await device.until_busy()
    interactive = device.submit("urgent")
    device.model.faults.gate.set()
    await results(bulk, interactive)
    order = [batch.contents for batch in device.model.batches]
    assert order == [
        ("bulk0", "bulk1"), ("urgent",), ("bulk2", "bulk3"), ("bulk4", "bulk5"),
    ]  # fmt: skip


async def test_who_left_costs_no_compute(device: Device) -> None:
    device.model.faults.gate.clear()
    first = device.submit("first")
    await device.until_busy()
    gone, stays = device.submit("gone"), device.submit("stays")
    gone.future.cancel()
    device.model.faults.gate.set()
    await results(first, stays)
    assert device.model.batches[-1].contents == ("stays",)
    assert device.count("dropped_items_total", modality="text", cause="caller_left") == 1


async def test_who_is_late_costs_no_compute_and_is_told(device: Device) -> None:
    device.model.faults.gate.clear()
    first = device.submit("first")
    await device.until_busy()
    late = device.submit("late", seconds=0.01)
    await asyncio.sleep(0.02)
    device.model.faults.gate.set()
    await results(first)
    [embedded] = await results(late)
    assert isinstance(embedded.vector, DeadlineExceeded)
    assert embedded.vector.metadata == {"stage": "queue"}
    assert len(device.model.batches) == 1
    assert device.count("dropped_items_total", modality="text", cause="deadline") == 1


@pytest.mark.parametrize("fault", ["raises", "mis-sizes"])
async def test_a_failing_batch_fails_its_callers_only(device: Device, fault: str) -> None:
    if fault == "raises":
        device.model.faults.error = RuntimeError("secret internals")
    else:
        device.model.faults.wrong_rows = 1
    failed = await device.embed("one", "two")
    assert [reason(one) for one in failed] == ["MODEL_FAILED"] * 2
    assert "secret" not in str(failed[0].vector)
    device.model.faults.error, device.model.faults.wrong_rows = None, 0
    assert [reason(one) for one in await device.embed("three")] == ["ok"]
    assert device.failures == []


async def test_unusable_rows_fail_alone(device: Device) -> None:
    device.model.faults.nan_for, device.model.faults.zero_for = {"nan"}, {"zero"}
    embedded = await device.embed("good", "nan", "zero", "fine")
    assert [reason(one) for one in embedded] == ["ok", "MODEL_FAILED", "MODEL_FAILED", "ok"]
    assert device.count("unusable_vectors_total", modality="text") == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["MemoryError", "CUDA", "cuBLAS", "cuDNN"],
)
async def test_a_batch_too_big_for_memory_is_halved(device: Device, error: Exception) -> None:
    device.model.faults.max_batch, device.model.faults.memory_error = 2, error
    embedded = await device.embed(*"abcdefg")
    assert [reason(one) for one in embedded] == ["ok"] * 7
    assert max(one.batch_size for one in embedded) == 2
    assert device.count("batch_splits_total", modality="text") > 0


class Tensor:
    """Memory of a device that holds four of them; freed when nobody refers to it."""

    alive: ClassVar[weakref.WeakSet[Tensor]] = weakref.WeakSet()

    def __init__(self) -> None:
        if len(self.alive) == 4:
            raise RuntimeError("CUDA out of memory")
        self.alive.add(self)


async def test_a_batch_that_failed_holds_no_memory_while_its_halves_run(model: FakeModel) -> None:
    def forward(texts: Sequence[Any]) -> FloatArray:
        tensors: list[Tensor] = []
        for _ in texts:  # a comprehension would drop its tensors when it fails
            tensors.append(Tensor())
        return np.ones((len(tensors), model.info.dimensions), dtype=np.float32)

    device = Device(model, forward)
    await device.loop.start([])
    assert {one.batch_size for one in await device.embed(*"abcdefgh")} == {4}
    assert device.count("batch_splits_total", modality="text") == 1
    assert await device.loop.close(5)


async def test_an_item_too_big_for_memory_alone_fails_alone(device: Device) -> None:
    device.model.faults.error = MemoryError()
    assert [reason(one) for one in await device.embed("a", "b")] == ["MODEL_FAILED"] * 2


async def test_vectors_do_not_depend_on_the_batch(device: Device) -> None:
    together = await device.embed(*"abcdef")
    for letter, one in zip("abcdef", together, strict=True):
        [alone] = await device.embed(letter)
        assert isinstance(one.vector, np.ndarray)
        assert isinstance(alone.vector, np.ndarray)
        assert np.array_equal(alone.vector, one.vector)


async def test_a_dead_thread_is_reported_and_answers_everybody(device: Device) -> None:
    device.model.faults.gate.clear()
    running = device.submit("running")
    await device.until_busy()
    waiting = device.submit("waiting", priority=Priority.BULK)
    device.model.faults.error = SystemExit("the runtime gave up")
    device.model.faults.gate.set()
    assert [reason(one) for one in await results(running)] == ["MODEL_FAILED"]
    assert [reason(one) for one in await results(waiting)] == ["INTERNAL"]
    assert [type(error) for error in device.failures] == [SystemExit]
    with pytest.raises(Internal):
        device.submit("after")


async def test_a_model_that_cannot_embed_a_sample_does_not_start(model: FakeModel) -> None:
    model.faults.error = RuntimeError("no kernel image")
    device = Device(model)
    with pytest.raises(RuntimeError, match="no kernel image"):
        await device.loop.start([(Modality.TEXT, [model.tokenize("warm")])])
    assert await device.loop.close(1)


async def test_the_warm_up_forgives_a_lack_of_memory_to_batches_only(model: FakeModel) -> None:
    model.faults.max_batch = 4
    device = Device(model)
    sample = model.tokenize("warm")
    await device.loop.start([(Modality.TEXT, [sample] * size) for size in (1, 4, 8)])
    assert [len(batch.contents) for batch in model.batches] == [1, 4, 8]
    assert await device.loop.close(1)
    model.faults.error = MemoryError()
    with pytest.raises(MemoryError):
        await Device(model).loop.start([(Modality.TEXT, [sample])])


async def test_a_slow_device_warms_up_with_single_contents(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_loop, "_WARM_UP_S", 0.01)
    model.faults.seconds_per_batch = 0.02
    device = Device(model)
    sample = model.tokenize("warm")
    await device.loop.start([(Modality.TEXT, [sample] * size) for size in (1, 8, 1)])
    assert [len(batch.contents) for batch in model.batches] == [1, 1]
    assert await device.loop.close(1)


async def test_close_answers_what_waits_and_refuses_what_comes(device: Device) -> None:
    device.model.faults.gate.clear()
    running = device.submit("running")
    await device.until_busy()
    waiting = device.submit("waiting")
    closing = asyncio.create_task(device.loop.close(5))
    assert [reason(one) for one in await results(waiting)] == ["DRAINING"]
    with pytest.raises(Unavailable):
        device.submit("after")
    device.model.faults.gate.set()
    assert [reason(one) for one in await results(running)] == ["ok"]
    assert await closing is True


async def test_it_tells_how_long_the_running_batch_takes(device: Device) -> None:
    assert device.loop.busy_seconds() == 0
    device.model.faults.gate.clear()
    running = device.submit("running")
    await device.until_busy()
    await asyncio.sleep(0.02)
    assert device.loop.busy_seconds() > 0.01
    device.model.faults.gate.set()
    await results(running)
    assert device.loop.busy_seconds() == 0


async def test_close_gives_up_on_a_stalled_model(device: Device) -> None:
    device.model.faults.gate.clear()
    device.submit("stalled")
    await device.until_busy()
    assert await device.loop.close(0.05) is False
