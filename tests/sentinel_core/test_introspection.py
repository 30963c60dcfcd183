"""Health and reflection answer in all their forms; what is unknown is refused in plain words."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.sentinel_core.serving import serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ITEMS = "sentinel.search.v1.ItemService"


async def test_list_has_every_service() -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = await stub.List(health_pb2.HealthListRequest(), timeout=20)
        assert set(found.statuses) == {"", "liveness", ITEMS}
        assert {one.status for one in found.statuses.values()} == {SERVING}


async def test_watch_tells_each_change() -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=ITEMS), timeout=20)
        assert (await watch.read()).status == SERVING
        await server.set_serving(False)
        assert (await watch.read()).status == NOT_SERVING
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_of_reflection_describe_all(version: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            path,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(timeout=20)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await call.read()
        names = [service.name for service in listed.list_services_response.service]
        assert {ITEMS, f"grpc.reflection.{version}.ServerReflection"} <= set(names)
        for name in names:
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
            answer = await call.read()
            assert answer.WhichOneof("message_response") == "file_descriptor_response", name
        await call.done_writing()


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Nothing", "/x.Y/Z", f"/{ITEMS}/Nothing", "/", ""]
)
async def test_an_unknown_method_is_unimplemented_and_no_fault(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "class" not in str(caught.value.details())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_large_health_check_is_refused() -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(bytes(100_000), timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_health_is_told_while_others_wait() -> None:
    async with serving() as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(200)]
        await asyncio.gather(*(watch.read() for watch in watches))
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)).status == SERVING
