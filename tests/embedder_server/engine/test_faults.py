"""Hostile input and failing hardware: who is at fault is told, and nobody else suffers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedder_server.app import Worker, running_worker
from embedder_server.images.fork_server import ForkServer
from embedder_server.settings import EmbedderSettings
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import failure, image, item_reason, request, text, until_busy
from tests.embedder_server.pictures import encode, flat, noise
from tests.fakes.fake_model import FakeModel
from tests.fakes.preprocessing import STUCK, misbehave
from tests.waiting import eventually

HEALTH = health_pb2.HealthCheckResponse


async def until_health(channel: grpc.aio.Channel, wanted: int) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(5):
        while True:
            if (await stub.Check(health_pb2.HealthCheckRequest())).status == wanted:
                return
            await asyncio.sleep(0.01)


async def test_a_stalled_device_turns_health_and_refuses_calls(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings]
) -> None:
    async with (
        running_worker(make_settings(stall_seconds=0.1), model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        model.batches.clear()
        stub = pb_grpc.EmbeddingServiceStub(channel)
        model.faults.gate.clear()
        held = stub.Embed(request(text("stalled")))
        await until_health(channel, HEALTH.NOT_SERVING)
        error, info = await failure(stub.Embed(request(text("new"))))
        assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "DEVICE_STALLED")
        assert worker.metrics.registry.get_sample_value("sentinel_embedder_device_stalled") == 1
        model.faults.gate.set()
        await until_health(channel, HEALTH.SERVING)
        assert (await held).results[0].HasField("vector")  # it was accepted
        assert (await stub.Embed(request(text("new")))).results[0].HasField("vector")
        assert worker.metrics.registry.get_sample_value("sentinel_embedder_device_stalled") == 0


async def test_who_leaves_a_costly_image_leaves_no_work_and_it_is_counted(
    model: FakeModel, settings: EmbedderSettings, forks: ForkServer
) -> None:
    model.preprocess = misbehave
    stuck = image(encode(flat("red", (STUCK, 20)), "PNG"))
    async with (
        running_worker(settings, model=model, forks=forks) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel)
        gone = [stub.Embed(request(stuck), timeout=0.5) for _ in range(2)]
        for call in gone:
            error, info = await failure(call)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert info.metadata["stage"] == "preprocess"
        good = image(encode(noise((30, 30)), "PNG"))
        assert (await stub.Embed(request(good))).results[0].HasField("vector")
        sample = worker.metrics.registry.get_sample_value
        ended = "sentinel_embedder_decoders_ended_total"
        assert sample(ended, {"cause": "caller_left"}) == 2
        assert sample(ended, {"cause": "time"}) == 0


async def test_nan_fails_its_item_and_is_counted(
    stub: pb_grpc.EmbeddingServiceStub, worker: Worker, model: FakeModel
) -> None:
    model.faults.nan_for = {"bad"}
    answer = await stub.Embed(request(text("good"), text("bad"), text("fine")))
    kinds = [result.WhichOneof("outcome") for result in answer.results]
    assert kinds == ["vector", "error", "vector"]
    assert item_reason(answer.results[1].error) == "MODEL_FAILED"
    sample = worker.metrics.registry.get_sample_value
    assert sample("sentinel_embedder_unusable_vectors_total", {"modality": "text"}) == 1


async def test_out_of_memory_is_not_seen_by_callers(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    model.faults.max_batch = 3
    model.faults.memory_error = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    answer = await stub.Embed(request(*(text(f"t{n}") for n in range(30))))
    assert all(result.HasField("vector") for result in answer.results)


@pytest.mark.parametrize("word", ["word ", "x", "\N{GRINNING FACE}", "\0 a"])
async def test_a_text_of_100_000_characters(stub: pb_grpc.EmbeddingServiceStub, word: str) -> None:
    longest = (word * 100_000)[:100_000]
    answer = await stub.Embed(request(text(longest), text(longest + "!"), text("short")))
    assert answer.results[0].HasField("vector")
    assert item_reason(answer.results[1].error) == "TEXT_TOO_LONG"
    assert answer.results[2].HasField("vector")


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_pictures_of_extreme_shape(
    stub: pb_grpc.EmbeddingServiceStub, size: tuple[int, int], kind: str
) -> None:
    [result] = (await stub.Embed(request(image(encode(noise(size), kind))))).results
    assert (result.image.width, result.image.height) == size
    assert np.isfinite(np.frombuffer(result.vector.data, "<f4")).all()


class Turnstile(threading.Event):
    """A gate that shuts again behind each forward pass."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        self.clear()
        return passed


async def test_a_caller_who_disconnects_in_the_middle_of_a_batch_harms_nobody(
    worker: Worker, model: FakeModel
) -> None:
    model.faults.gate = gate = Turnstile()
    async with secure.aio_channel(worker.address) as stays:
        async with secure.aio_channel(worker.address) as leaves:
            await leaves.channel_ready()
            first = pb_grpc.EmbeddingServiceStub(stays).Embed(request(text("first")))
            await until_busy(model)
            others = []
            for channel, name in ((leaves, "gone"), (stays, "stays")):
                others.append(pb_grpc.EmbeddingServiceStub(channel).Embed(request(text(name))))
                await asyncio.sleep(0.1)  # who leaves is answered before who stays
            gate.set()
            await first
            await eventually(lambda: len(model.batches) > 1)
            assert len(model.batches[1].contents) == 2
        await asyncio.sleep(0.05)
        assert not others[1].done()  # the batch of both is still on the device
        gate.set()
        assert (await others[1]).results[0].HasField("vector")
        gate.set()
        answer = await pb_grpc.EmbeddingServiceStub(stays).Embed(request(text("next")))
        assert answer.results[0].HasField("vector")
    depth = worker.metrics.registry.get_sample_value(
        "sentinel_embedder_queue_items", {"modality": "text"}
    )
    assert depth == 0


async def test_an_expired_deadline_costs_nothing(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(request(text("late")), timeout=0.004)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stub.Embed(request(text("next")))
    assert [batch.contents for batch in model.batches] == [("next",)]
