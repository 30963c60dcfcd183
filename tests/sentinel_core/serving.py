"""A real server with the shell of both processes around a servicer that a test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from search_server.api.access import ITEM_RULES
from sentinel.search.v1 import item_service_pb2, item_service_pb2_grpc
from sentinel_core.access.guard import open_credentials
from sentinel_core.admission import Admission, export
from sentinel_core.interceptors import MethodLimits
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_core.runtime import Lifecycle
from sentinel_core.server import GrpcServer, Service
from sentinel_core.settings import MIB, ServerSettings

UPSERT = "/sentinel.search.v1.ItemService/UpsertItems"
GET = "/sentinel.search.v1.ItemService/GetItems"
INGEST = "/sentinel.search.v1.ItemService/IngestItems"


class Items(item_service_pb2_grpc.ItemServiceServicer):
    """Answers at once."""

    async def UpsertItems(self, request: Any, context: Any) -> item_service_pb2.UpsertItemsResponse:
        return item_service_pb2.UpsertItemsResponse()

    async def GetItems(self, request: Any, context: Any) -> item_service_pb2.GetItemsResponse:
        return item_service_pb2.GetItemsResponse(missing_ids=request.ids)


@asynccontextmanager
async def serving(
    servicer: object | None = None,
    *,
    memory_bytes: int = 64 * MIB,
    seconds: float = 20.0,
    max_bytes: int = MIB,
    admissions: Mapping[str, Admission] | None = None,
    leaves_at_once: bool = False,
    **settings: Any,
) -> AsyncIterator[tuple[GrpcServer, MemoryBudget]]:
    """Serve an ItemService; UpsertItems and IngestItems may have 1 MiB, the others 64 KiB."""
    own = ServerSettings(_env_file=None, max_message_bytes=max_bytes, **settings)
    metrics = ServerMetrics("gateway", CollectorRegistry())
    memory = MemoryBudget(memory_bytes, metrics)
    export(metrics, admissions or {})
    limits = {
        "": MethodLimits(64 * 1024, seconds, fills_responses=True),
        "UpsertItems": MethodLimits(max_bytes, seconds),
        "IngestItems": MethodLimits(max_bytes, seconds),
        "DownloadImage": MethodLimits(64 * 1024, seconds),
    }
    register = item_service_pb2_grpc.add_ItemServiceServicer_to_server
    name = "sentinel.search.v1.ItemService"
    service = Service(name, register, servicer or Items(), limits, ITEM_RULES)
    lifecycle = Lifecycle()
    credentials = open_credentials(own)
    server = GrpcServer(
        own,
        metrics,
        memory,
        [service],
        lifecycle,
        credentials=credentials,
        leaves_at_once=leaves_at_once,
    )
    await server.start()
    await server.set_serving(True)
    try:
        yield server, memory
    finally:
        await server.stop()
        credentials.close()
        await lifecycle.cancel_tasks()
        assert lifecycle.failure is None
