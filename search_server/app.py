"""Composition root of the gateway: settings → parts → server → lifecycle. No logic."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

import sentinel_core.logging
from search_server.collections import Collections
from search_server.embedders.pool import EmbedderPool
from search_server.ingest import Ingest
from search_server.search import Searcher
from search_server.service_collections import CollectionService
from search_server.service_items import ItemService
from search_server.service_search import SearchService
from search_server.settings import GatewaySettings
from search_server.store.milvus import MilvusStore
from search_server.store.objects import ObjectStore
from sentinel.search.v1 import (
    collection_service_pb2_grpc,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel_core import loop
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.lifecycle import Lifecycle
from sentinel_core.metrics import ServerMetrics
from sentinel_core.server import GrpcServer, Service

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 0.5
_PING_TIMEOUT_S = 2.0


@asynccontextmanager
async def running_gateway(
    settings: GatewaySettings, lifecycle: Lifecycle, registry: CollectorRegistry | None = None
) -> AsyncIterator[GrpcServer]:
    """Run a gateway inside the block; drain and close it at its end.

    It answers health checks from the start, and is SERVING while Milvus and a worker are up.
    """
    metrics = ServerMetrics("gateway", registry or CollectorRegistry())
    pool = EmbedderPool(settings.worker_addresses(), settings.max_message_bytes)
    store = MilvusStore(
        settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_threads
    )
    objects = ObjectStore(settings.object_store_uri)
    collections = Collections(store, pool)
    searcher = Searcher(collections, pool, store, objects, metrics)
    ingest = Ingest(
        pool,
        store,
        objects,
        metrics,
        max_image_bytes=settings.max_image_bytes,
        thumbnail_side=settings.thumbnail_side,
    )
    server = GrpcServer(settings, metrics, _services(settings, collections, searcher, ingest))
    await server.start()
    lifecycle.spawn(pool.run(), "worker health checks")
    lifecycle.spawn(store.run(), "milvus lite flushes")
    lifecycle.spawn(_watch(server, pool, store), "readiness")
    try:
        yield server
    finally:
        await server.stop()
        await lifecycle.cancel_tasks()
        await pool.close()
        await store.close()
        objects.close()


def _services(
    settings: GatewaySettings, collections: Collections, searcher: Searcher, ingest: Ingest
) -> list[Service]:
    read_timeout_s = settings.search_timeout_seconds
    write_timeout_s = settings.write_timeout_seconds
    return [
        Service(
            "sentinel.search.v1.SearchService",
            search_service_pb2_grpc.add_SearchServiceServicer_to_server,
            SearchService(searcher, read_timeout_s),
        ),
        Service(
            "sentinel.search.v1.ItemService",
            item_service_pb2_grpc.add_ItemServiceServicer_to_server,
            ItemService(
                ingest,
                collections,
                read_timeout_s=read_timeout_s,
                write_timeout_s=write_timeout_s,
                max_items=settings.max_items_per_upsert,
            ),
        ),
        Service(
            "sentinel.search.v1.CollectionService",
            collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
            CollectionService(collections, write_timeout_s),
        ),
    ]


async def _watch(server: GrpcServer, pool: EmbedderPool, store: MilvusStore) -> None:
    """Keep the health status true: SERVING while Milvus answers and a worker is up."""
    while True:
        try:
            await store.ping(Deadline.after(None, default_s=_PING_TIMEOUT_S))
            ready = pool.any_healthy
        except SentinelError:
            ready = False
        await server.set_serving(ready)
        await asyncio.sleep(_WATCH_INTERVAL_S)


async def _serve(settings: GatewaySettings) -> int:
    lifecycle = Lifecycle()
    lifecycle.install_signal_handlers()
    try:
        async with running_gateway(settings, lifecycle):
            await lifecycle.wait()
    except (OSError, SentinelError) as error:
        print(f"sentinel-gateway: {error}", file=sys.stderr)
        return 1
    return 1 if lifecycle.failure else 0


def run() -> int:
    """Read the settings, serve until SIGTERM or SIGINT, return the exit code."""
    settings = GatewaySettings(_cli_parse_args=True)
    sentinel_core.logging.configure(settings.log_level, settings.log_style)
    logger.info("settings", extra=settings.model_dump(mode="json"))
    return loop.run(_serve(settings))
