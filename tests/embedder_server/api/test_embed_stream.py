"""EmbedStream over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import grpc

from embedder_server.app import Worker, running_worker
from embedder_server.settings import EmbedderSettings
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import failure, item_reason, request, text, until_busy
from tests.fakes.fake_model import FakeModel
from tests.waiting import eventually

INT8 = content_pb2.ELEMENT_TYPE_INT8


def messages(*requests: pb.EmbedRequest) -> list[pb.EmbedStreamRequest]:
    return [
        pb.EmbedStreamRequest(sequence=100 + number, request=one)
        for number, one in enumerate(requests)
    ]


async def answers(
    stub: pb_grpc.EmbeddingServiceStub, requests: Iterable[pb.EmbedStreamRequest]
) -> dict[int, pb.EmbedStreamResponse]:
    got: dict[int, pb.EmbedStreamResponse] = {}
    async for answer in stub.EmbedStream(iter(requests)):
        assert answer.sequence not in got
        got[answer.sequence] = answer
    return got


async def test_every_message_gets_its_own_vectors(stub: pb_grpc.EmbeddingServiceStub) -> None:
    got = await answers(stub, messages(*(request(text(f"word{n}")) for n in range(600))))
    assert got.keys() == set(range(100, 700))
    for number in (0, 299, 599):
        alone = await stub.Embed(request(text(f"word{number}")))
        assert got[100 + number].response.results == alone.results
        timings = got[100 + number].response.timings
        assert timings.total.ToMicroseconds() > timings.inference.ToMicroseconds() > 0
        assert timings.batch_size >= 1


async def test_an_error_stays_inside_its_message(stub: pb_grpc.EmbeddingServiceStub) -> None:
    got = await answers(
        stub,
        messages(
            request(text("good")),
            request(),
            request(text("x"), model="other"),
            request(text("x"), dimensions=3),
            request(text("fine"), text(" ")),
        ),
    )
    assert got[100].response.results[0].HasField("vector")
    assert [item_reason(got[100 + n].error) for n in (1, 2, 3)] == [
        "BATCH_EMPTY", "MODEL_NOT_FOUND", "DIMENSIONS_UNSUPPORTED",
    ]  # fmt: skip
    assert item_reason(got[104].response.results[1].error) == "TEXT_EMPTY"


async def test_the_first_message_s_options_are_the_default(
    stub: pb_grpc.EmbeddingServiceStub,
) -> None:
    plain = pb.EmbedRequest(contents=[text("x")])
    own = request(text("x"), element_type=content_pb2.ELEMENT_TYPE_FLOAT16)
    got = await answers(stub, messages(request(text("x"), element_type=INT8), plain, own))
    kinds = [got[100 + n].response.results[0].vector.element_type for n in range(3)]
    assert kinds == [INT8, INT8, content_pb2.ELEMENT_TYPE_FLOAT16]


async def test_a_fast_sender_is_slowed_down(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings]
) -> None:
    """More than the queue holds goes through one stream, and nothing is refused."""
    settings = make_settings(max_queue_items=40, max_contents_per_request=8, max_stream_items=16)
    model.faults.seconds_per_batch = 0.001
    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel)
        got = await answers(stub, messages(*[request(*[text("x")] * 8)] * 100))
    assert all(answer.HasField("response") for answer in got.values())
    assert len(got) == 100


def queued_texts(worker: Worker) -> float | None:
    return worker.metrics.registry.get_sample_value(
        "sentinel_embedder_queue_items", {"modality": "text"}
    )


async def test_what_a_stream_has_in_work_is_bounded(
    stub: pb_grpc.EmbeddingServiceStub, worker: Worker, model: FakeModel
) -> None:
    model.faults.gate.clear()
    task = asyncio.create_task(answers(stub, messages(*[request(*[text("x")] * 64)] * 20)))
    await eventually(lambda: queued_texts(worker) == 256)
    await asyncio.sleep(0.2)
    assert queued_texts(worker) == 256
    model.faults.gate.set()
    assert len(await task) == 20


async def test_a_caller_who_leaves_frees_everything(
    stub: pb_grpc.EmbeddingServiceStub, worker: Worker, model: FakeModel
) -> None:
    sample = worker.metrics.registry.get_sample_value
    model.faults.gate.clear()
    call = stub.EmbedStream(iter(messages(*(request(text(f"gone{n}")) for n in range(50)))))
    await until_busy(model)
    await eventually(lambda: sample("sentinel_embedder_requests_in_flight"))
    call.cancel()
    # While the device works.
    await eventually(lambda: not sample("sentinel_embedder_requests_in_flight"))
    running = [content for batch in model.batches for content in batch.contents]
    model.faults.gate.set()
    await stub.Embed(request(text("next")))
    assert sample("sentinel_embedder_queue_items", {"modality": "text"}) == 0
    assert sample("sentinel_embedder_requests_in_flight") == 0
    computed = [content for batch in model.batches for content in batch.contents]
    # How many were read before the device thread first woke is up to the machine; one batch, which
    # has more than 16 if as many more wait.
    assert len(running) <= 32
    assert computed == [*running, "next"]


async def test_draining_answers_what_was_read_and_ends_the_stream(
    model: FakeModel, settings: EmbedderSettings
) -> None:
    async def endless() -> AsyncIterator[pb.EmbedStreamRequest]:
        for number in range(10):
            yield pb.EmbedStreamRequest(sequence=number, request=request(text(f"t{number}")))
        await asyncio.Event().wait()

    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        model.batches.clear()
        model.faults.gate.clear()
        call = pb_grpc.EmbeddingServiceStub(channel).EmbedStream(endless())
        await until_busy(model)
        await eventually(lambda: queued_texts(worker) == 10)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.05)
        model.faults.gate.set()
        got = [(await call.read()).sequence for _ in range(10)]
        assert sorted(got) == list(range(10))
        error, info = await failure(call.read())
        assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await asyncio.wait_for(stopping, 30)
