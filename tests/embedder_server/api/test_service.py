"""The contract over the wire: a real gRPC server on a free port, a fake model behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from embedder_server.app import Worker, running_worker
from embedder_server.settings import EmbedderSettings
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import (
    call_details,
    detail,
    failure,
    image,
    item_reason,
    request,
    text,
    until_busy,
)
from tests.embedder_server.pictures import encode, flat
from tests.fakes.fake_model import FakeModel
from tests.waiting import eventually

SERVICE = "sentinel.embedding.v1.EmbeddingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_embed(stub: pb_grpc.EmbeddingServiceStub, model: FakeModel) -> None:
    answer = await stub.Embed(
        request(text("red car"), image(encode(flat(), "JPEG")), thumbnail_side=16)
    )
    first, second = answer.results
    vector = np.frombuffer(first.vector.data, "<f4")
    assert first.vector.dimensions == len(vector) == 16
    assert first.vector.element_type == content_pb2.ELEMENT_TYPE_FLOAT32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert first.token_count == 2
    assert (second.image.width, second.image.height) == (40, 20)
    assert second.image.media_type == "image/jpeg"
    assert second.image.thumbnail.startswith(b"RIFF")
    assert answer.model_version.model == "fake-model"
    assert answer.model_version.fingerprint == model.info.fingerprint
    assert answer.timings.total.ToMicroseconds() > answer.timings.inference.ToMicroseconds() > 0
    assert answer.timings.batch_size == 1


async def test_one_bad_content_never_fails_its_neighbours(
    stub: pb_grpc.EmbeddingServiceStub,
) -> None:
    answer = await stub.Embed(
        request(
            text("good"),
            text(" "),
            content_pb2.Content(),
            content_pb2.Content(image=content_pb2.Image()),
            image(b"%PDF-1.4"),
            image(encode(flat(), "JPEG")[:200]),
            image(encode(flat(), "PNG")),
        )
    )
    kinds = [result.WhichOneof("outcome") for result in answer.results]
    assert kinds == ["vector", "error", "error", "error", "error", "error", "vector"]
    errors = [result.error for result in answer.results if result.HasField("error")]
    assert {error.code for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert [item_reason(error) for error in errors] == [
        "TEXT_EMPTY", "CONTENT_MISSING", "IMAGE_EMPTY", "IMAGE_FORMAT_UNSUPPORTED",
        "IMAGE_DECODE_FAILED",
    ]  # fmt: skip
    bad_request = detail(errors[3].details, error_details_pb2.BadRequest)
    assert bad_request.field_violations[0].field == "contents[4].image.data"


IN_CONTENTS = {"field": "contents"}


@pytest.mark.parametrize(
    ("bad", "code", "reason", "metadata"),
    [
        pytest.param(request(), "INVALID_ARGUMENT", "BATCH_EMPTY", IN_CONTENTS, id="empty"),
        pytest.param(
            request(*[text("x")] * 257),
            "INVALID_ARGUMENT", "BATCH_TOO_LARGE", {**IN_CONTENTS, "limit": "256"}, id="too many",
        ),
        pytest.param(
            request(text("x"), model="other"),
            "NOT_FOUND", "MODEL_NOT_FOUND", {"model": "other"}, id="another model",
        ),
        *(
            pytest.param(
                request(text("x"), thumbnail_side=side),
                "INVALID_ARGUMENT",
                "PARAMETER_OUT_OF_RANGE",
                {"field": "options.thumbnail_side"},
                id=f"thumbnail {side}",
            )
            for side in (1, 15, 1025)
        ),
        pytest.param(
            request(text("x"), priority=9),
            "INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE", {"field": "options.priority"},
            id="unknown priority",
        ),
    ],
)  # fmt: skip
async def test_faults_of_the_request_fail_the_call(
    stub: pb_grpc.EmbeddingServiceStub,
    bad: pb.EmbedRequest,
    code: str,
    reason: str,
    metadata: dict[str, str],
) -> None:
    error, info = await failure(stub.Embed(bad))
    assert error.code().name == code
    assert (info.reason, dict(info.metadata)) == (reason, metadata)


async def test_every_call_has_an_access_line(
    stub: pb_grpc.EmbeddingServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="sentinel.access")
    await stub.Embed(request(text("a"), text("b")), metadata=(("x-request-id", "first"),))
    await failure(stub.Embed(request(), metadata=(("x-request-id", "second"),)))
    # It is written when the caller has the answer.
    await eventually(lambda: len(caplog.records) > 1, 5)
    lines = [vars(record) for record in caplog.records]
    assert [(line["request_id"], line["code"], line["reason"]) for line in lines] == [
        ("first", "OK", ""),
        ("second", "INVALID_ARGUMENT", "BATCH_EMPTY"),
    ]
    assert lines[0]["method"] == f"/{SERVICE}/Embed"
    assert lines[0]["items"] == 2


async def test_truncate_defaults_to_true(stub: pb_grpc.EmbeddingServiceStub) -> None:
    long = text("word " * 50)
    cut = (await stub.Embed(request(long))).results[0]
    assert (cut.truncated, cut.token_count) == (True, 50)
    refused = (await stub.Embed(request(long, truncate=False))).results[0]
    assert item_reason(refused.error) == "TEXT_TOO_LONG"


async def test_get_model(stub: pb_grpc.EmbeddingServiceStub, model: FakeModel) -> None:
    for name in ("", "fake-model"):
        answer = (await stub.GetModel(pb.GetModelRequest(model=name))).model
        assert answer.version.fingerprint == model.info.fingerprint
        assert list(answer.modalities) == [pb.MODALITY_TEXT, pb.MODALITY_IMAGE]
        assert (answer.dimensions, answer.max_text_tokens, answer.image_size) == (16, 32, 32)
        assert (answer.runtime, answer.device, answer.dtype) == ("numpy", "cpu", "float32")
        assert answer.limits.max_contents_per_request == 256
        assert answer.limits.max_image_bytes == 48 * 1024 * 1024
        assert answer.limits.max_queue_items == 1024
        assert answer.limits.max_stream_items == 256
        assert list(answer.supported_dimensions) == [16]
        assert (answer.runtime_choice, answer.sigmoid) == ("the only one", False)
    error, info = await failure(stub.GetModel(pb.GetModelRequest(model="other")))
    assert (error.code().name, info.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_model_failure_is_the_item_s(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    model.faults.error = RuntimeError("secret")
    [result] = (await stub.Embed(request(text("x")))).results
    assert result.error.code == grpc.StatusCode.INTERNAL.value[0]
    assert item_reason(result.error) == "MODEL_FAILED"
    assert "secret" not in result.error.message
    model.faults.error = None
    [result] = (await stub.Embed(request(text("x")))).results
    assert result.HasField("vector")


async def test_a_full_queue_says_when_to_come_back(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings]
) -> None:
    settings = make_settings(max_queue_items=2, max_contents_per_request=2)
    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel)
        model.batches.clear()
        model.faults.gate.clear()
        held = stub.Embed(request(text("a"), text("b")))
        await until_busy(model)
        error, info = await failure(stub.Embed(request(text("c")), timeout=5))
        model.faults.gate.set()
        await held
    assert (error.code().name, info.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    retry = detail(call_details(error), error_details_pb2.RetryInfo)
    assert 0.05 <= retry.retry_delay.ToTimedelta().total_seconds() <= 30


async def test_a_deadline_is_answered_with_its_stage(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    model.faults.gate.clear()
    held = stub.Embed(request(text("first")))
    await until_busy(model)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(request(text("late")), timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    model.faults.gate.set()
    await held
    await stub.Embed(request(text("next")))
    assert ("late",) not in [batch.contents for batch in model.batches]


async def test_the_server_s_own_limit_has_a_reason(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings]
) -> None:
    async with (
        running_worker(make_settings(max_call_seconds=0.1), model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        model.faults.gate.clear()
        call = pb_grpc.EmbeddingServiceStub(channel).Embed(request(text("slow")))
        error, info = await failure(call)
        model.faults.gate.set()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (info.reason, dict(info.metadata)) == ("OUT_OF_TIME", {"stage": "inference"})


async def test_a_cancelled_call_costs_no_compute(
    stub: pb_grpc.EmbeddingServiceStub, worker: Worker, model: FakeModel
) -> None:
    model.faults.gate.clear()
    held = stub.Embed(request(text("first")))
    await until_busy(model)
    in_flight = "sentinel_embedder_requests_in_flight"
    sample = worker.metrics.registry.get_sample_value
    gone = stub.Embed(request(text("gone")))
    await eventually(lambda: sample(in_flight) == 2)
    gone.cancel()
    await eventually(lambda: sample(in_flight) == 1)
    model.faults.gate.set()
    await held
    await stub.Embed(request(text("next")))
    assert ("gone",) not in [batch.contents for batch in model.batches]
    left = sample(
        "sentinel_embedder_dropped_items_total", {"modality": "text", "cause": "caller_left"}
    )
    assert left == 1


@pytest.fixture
async def cold_worker(settings: EmbedderSettings) -> AsyncIterator[Worker]:
    """Listening, without a model."""
    worker = Worker(settings)
    await worker.start()
    yield worker
    await worker.stop()


async def test_health_follows_the_model(cold_worker: Worker, model: FakeModel) -> None:
    worker = cold_worker
    async with secure.aio_channel(worker.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stub = pb_grpc.EmbeddingServiceStub(channel)

        async def status(service: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

        assert [await status(name) for name in ("", SERVICE)] == [NOT_SERVING] * 2
        error, info = await failure(stub.Embed(request(text("early"))))
        assert (error.code().name, info.reason) == ("UNAVAILABLE", "LOADING")

        await worker.load(model)
        assert [await status(name) for name in ("", SERVICE)] == [SERVING] * 2

        model.faults.error = SystemExit("the runtime gave up")
        await stub.Embed(request(text("last")))
        await asyncio.wait_for(worker.lifecycle.wait(), 30)
        assert isinstance(worker.lifecycle.failure, SystemExit)
        await asyncio.sleep(0.01)
        assert [await status(name) for name in ("", SERVICE)] == [NOT_SERVING] * 2


async def test_health_never_queues_behind_work(
    stub: pb_grpc.EmbeddingServiceStub, worker: Worker, model: FakeModel
) -> None:
    model.faults.gate.clear()
    calls = [stub.Embed(request(*[text(f"t{n}")] * 32)) for n in range(20)]
    await until_busy(model)
    async with secure.aio_channel(worker.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=1
        )
    assert answer.status == SERVING
    model.faults.gate.set()
    await asyncio.gather(*calls)


async def test_reflection_lists_the_services(worker: Worker) -> None:
    async with secure.aio_channel(worker.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_metrics(stub: pb_grpc.EmbeddingServiceStub, worker: Worker) -> None:
    await stub.Embed(request(text("red"), text(" "), image(encode(flat(), "PNG"))))

    page = await asyncio.to_thread(secure.read_metrics, worker.metrics_address)
    for line in (
        'sentinel_embedder_items_total{operation="text",outcome="ok"} 1.0',
        'sentinel_embedder_items_total{operation="text",outcome="TEXT_EMPTY"} 1.0',
        'sentinel_embedder_items_total{operation="image",outcome="ok"} 1.0',
        'sentinel_embedder_batch_size_items_count{operation="text"} 1.0',
        'sentinel_embedder_batch_size_items_count{operation="image"} 1.0',
        'sentinel_embedder_queue_items{modality="text"} 0.0',
        'sentinel_embedder_dropped_items_total{cause="deadline",modality="image"} 0.0',
        *(
            f'sentinel_embedder_stage_duration_seconds_count{{stage="{stage}"}} 1.0'
            for stage in ("decode", "preprocess", "queue", "inference", "total")
        ),
    ):
        assert line in page.splitlines()
    assert f'code="OK",method="/{SERVICE}/Embed"' in page


async def test_draining_answers_everything_it_accepted(
    cold_worker: Worker, model: FakeModel
) -> None:
    model.faults.seconds_per_batch = 0.02
    answered = refused = 0
    stopping = asyncio.Event()

    async def caller(stub: pb_grpc.EmbeddingServiceStub, name: int) -> None:
        nonlocal answered, refused
        while not stopping.is_set():
            try:
                answer = await stub.Embed(request(text(f"text {name}")), timeout=10)
            except grpc.aio.AioRpcError as error:
                # CANCELLED is gRPC itself closing on a call that our code never saw.
                assert error.code().name in ("UNAVAILABLE", "CANCELLED")
                refused += 1
                await asyncio.sleep(0.01)
            else:
                assert answer.results[0].HasField("vector")
                answered += 1

    worker = cold_worker
    await worker.load(model)
    async with secure.aio_channel(worker.address) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        callers = [asyncio.create_task(caller(stub, n)) for n in range(16)]
        await eventually(lambda: answered > 16)
        # The device waits, so that calls are in work until one more was refused.
        model.faults.gate.clear()
        sample = worker.metrics.registry.get_sample_value
        await eventually(lambda: sample("sentinel_embedder_requests_in_flight") == 16)
        draining = asyncio.create_task(worker.stop())
        while not refused:
            callers.append(asyncio.create_task(caller(stub, len(callers))))
            await asyncio.sleep(0.01)
        model.faults.gate.set()
        await draining
        stopping.set()
        await asyncio.gather(*callers)
    assert answered > 16
    assert refused > 0
    assert model.closed
    # Every call that reached our code got its answer or its refusal, none was cut off.
    ended = {
        sample.labels["code"]: sample.value
        for metric in worker.metrics.request_duration.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    }
    assert ended.keys() == {"OK", "UNAVAILABLE"}
    assert ended["OK"] == answered


async def test_many_callers_get_their_own_vectors(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    async def one(n: int) -> np.ndarray[Any, Any]:
        [result] = (await stub.Embed(request(text(f"word{n}")))).results
        return np.frombuffer(result.vector.data, "<f4")

    together = await asyncio.gather(*(one(n) for n in range(200)))
    for n in (0, 57, 199):
        assert np.array_equal(together[n], await one(n))
    assert len(model.batches) < 203
