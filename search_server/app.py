"""Build a gateway from its settings, run it, and close it. No logic."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

import sentinel_core.logging
from search_server import health
from search_server.api.collection_service import CollectionService
from search_server.api.item_service import ItemService
from search_server.api.page_tokens import PageTokens
from search_server.api.search_service import SearchService
from search_server.collections.catalog import Catalog
from search_server.collections.reindexer import Reindexer
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache
from search_server.image_uris.fetcher import Fetcher
from search_server.items.dual_write import DualWrite
from search_server.items.reader import ItemReader
from search_server.items.writer import ItemWriter
from search_server.milvus.search_store import SearchStore
from search_server.search.query_vectors import QueryVectors
from search_server.search.searcher import Searcher
from search_server.settings import GatewaySettings
from sentinel.search.v1 import (
    collection_service_pb2_grpc,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel_core import runtime
from sentinel_core.errors import SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_core.runtime import Lifecycle
from sentinel_core.server import GrpcServer, Service
from sentinel_core.settings import print_settings_errors
from sentinel_store.images.image_store import ImageStore

logger = logging.getLogger(__name__)


@asynccontextmanager
async def running_gateway(
    settings: GatewaySettings, lifecycle: Lifecycle, registry: CollectorRegistry | None = None
) -> AsyncIterator[GrpcServer]:
    """Run a gateway inside the block; drain and close it at its end.

    It answers health checks from the start, and is SERVING while Milvus and a worker are up.
    """
    metrics = ServerMetrics("gateway", registry or CollectorRegistry())
    draining = asyncio.Event()
    async with AsyncExitStack() as stack:
        pool = EmbedderPool(settings.worker_entries(), settings.max_message_bytes)
        stack.push_async_callback(pool.close)
        store = SearchStore(
            settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_threads
        )
        stack.push_async_callback(store.close)
        images = ImageStore(settings.object_store_uri, presign_seconds=settings.presign_seconds)
        stack.callback(images.close)
        fetcher = Fetcher(settings, metrics)
        stack.push_async_callback(fetcher.close)
        embeddings = QueryCache(pool, settings.query_cache_entries, metrics)
        stack.push_async_callback(embeddings.close)
        catalog = Catalog(store, pool)
        tokens = _page_tokens(settings)
        searcher = Searcher(
            catalog, QueryVectors(embeddings, fetcher, store, metrics), store, images, metrics
        )
        writer = ItemWriter(
            pool,
            fetcher,
            store,
            images,
            metrics,
            dual_write=DualWrite(catalog),
            max_image_bytes=settings.max_image_bytes,
            thumbnail_side=settings.thumbnail_side,
        )
        reader = ItemReader(store, images, max_page_bytes=settings.max_message_bytes // 2)
        write_timeout_s = settings.write_timeout_seconds
        reindexer = Reindexer(catalog, pool, store, images, call_timeout_s=write_timeout_s)
        services = [
            Service(
                "sentinel.search.v1.SearchService",
                search_service_pb2_grpc.add_SearchServiceServicer_to_server,
                SearchService(searcher, tokens, settings.search_timeout_seconds),
            ),
            Service(
                "sentinel.search.v1.ItemService",
                item_service_pb2_grpc.add_ItemServiceServicer_to_server,
                ItemService(
                    writer, reader, catalog, pool, tokens, draining=draining, settings=settings
                ),
            ),
            Service(
                "sentinel.search.v1.CollectionService",
                collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
                CollectionService(catalog, reindexer, tokens, write_timeout_s, draining),
            ),
        ]
        server = GrpcServer(settings, metrics, services, on_drain=draining.set)
        await server.start()
        lifecycle.spawn(pool.run(), "worker health checks")
        lifecycle.spawn(store.run(), "milvus lite flushes")
        lifecycle.spawn(health.watch(server, pool, store), "readiness")
        try:
            yield server
        finally:
            await server.stop()
            await lifecycle.cancel_tasks()


def _page_tokens(settings: GatewaySettings) -> PageTokens:
    if settings.page_tokens_can_be_forged():
        logger.warning(
            "page tokens can be forged by anyone who knows milvus_uri; set --page-token-secret to "
            "the same value for all gateways behind one address"
        )
    return PageTokens(settings.page_token_key(), settings.page_token_seconds)


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
    try:
        settings = GatewaySettings(_cli_parse_args=True)
    except ValidationError as error:
        print_settings_errors("sentinel-gateway", error)
        return 2
    sentinel_core.logging.configure(settings.log_level, settings.log_style)
    logger.info("settings", extra=settings.model_dump(mode="json"))
    return runtime.run(_serve(settings))
