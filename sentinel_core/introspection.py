"""The services that gRPC itself defines: health, and reflection in both of its versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from sentinel_core.access.guard import Rule
from sentinel_core.access.scopes import Scope
from sentinel_core.interceptors import MethodLimits
from sentinel_core.settings import LONGEST_STREAM_S

HEALTH = health.SERVICE_NAME
REFLECTION_V1ALPHA = reflection.SERVICE_NAME
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_Status = health_pb2.HealthCheckResponse
_BYTES = 64 * 1024
_SECONDS = 10.0
_STREAM_METHODS = {f"/{HEALTH}/Watch", f"/{REFLECTION_V1ALPHA}/ServerReflectionInfo"} | {
    f"/{REFLECTION_V1}/ServerReflectionInfo"
}
LIMITS = {
    f"/{HEALTH}/Check": MethodLimits(_BYTES, _SECONDS),
    f"/{HEALTH}/List": MethodLimits(_BYTES, _SECONDS),
    **{path: MethodLimits(_BYTES, LONGEST_STREAM_S) for path in _STREAM_METHODS},
}

# Health is for balancers and probes, which have no credentials.
RULES = {
    **{f"/{HEALTH}/{method}": Rule(None, is_open=True) for method in ("Check", "List", "Watch")},
    f"/{REFLECTION_V1ALPHA}/ServerReflectionInfo": Rule(Scope.READ),
    f"/{REFLECTION_V1}/ServerReflectionInfo": Rule(Scope.READ),
}


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers Check, List and Watch with the statuses that `set` has set."""

    def __init__(self) -> None:
        self._statuses: dict[str, Any] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, serving: bool) -> None:
        """Set a service's status, and tell who watches it."""
        self._statuses[service] = _Status.SERVING if serving else _Status.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "no such service; List has the names of all"
            )
        return _Status(status=status)

    async def List(
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        statuses = {name: _Status(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
            if status != last:
                yield _Status(status=status)
                last = status
            await changed.wait()


def add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Describe `services`, by their full names, in both versions of reflection.

    The versions differ in the name of their package only; grpcio-reflection has the older one.
    """
    _add_v1_descriptors()
    names = [*services, HEALTH, REFLECTION_V1ALPHA, REFLECTION_V1]
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REFLECTION_V1, methods),))


def _add_v1_descriptors() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
