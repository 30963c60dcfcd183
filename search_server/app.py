"""Build a gateway from its settings, run it, and close it. No logic."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

import sentinel_core.logging
from search_server import health
from search_server.api.collection_service import CollectionService
from search_server.api.item_service import ItemService, WriteStreams
from search_server.api.page_tokens import PageTokens
from search_server.api.search_service import SearchService
from search_server.collections.catalog import Catalog
from search_server.collections.reindexer import Reindexer
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import EmbeddingCache
from search_server.image_uris.fetcher import Fetcher, FetchLimits
from search_server.items.dual_write import DualWrite
from search_server.items.reader import ItemReader
from search_server.items.write_stream import StreamLimits
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
    parts = _parts(settings, ServerMetrics("gateway", registry or CollectorRegistry()))
    writer = ItemWriter(
        parts.pool,
        parts.fetcher,
        parts.store,
        parts.images,
        parts.metrics,
        dual_write=DualWrite(parts.catalog),
        max_image_bytes=settings.max_image_bytes,
        thumbnail_side=settings.thumbnail_side,
    )
    streams = WriteStreams(writer, parts.catalog, parts.pool, _stream_limits(settings))
    services = [
        _search_service(parts),
        _item_service(parts, writer, streams),
        _collection_service(parts, streams.draining),
    ]
    server = GrpcServer(settings, parts.metrics, services, on_drain=streams.draining.set)
    await server.start()
    lifecycle.spawn(parts.pool.run(), "worker health checks")
    lifecycle.spawn(parts.store.run(), "milvus lite flushes")
    lifecycle.spawn(health.watch(server, parts.pool, parts.store), "readiness")
    try:
        yield server
    finally:
        await server.stop()
        await lifecycle.cancel_tasks()
        await parts.close()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the services share."""

    settings: GatewaySettings
    metrics: ServerMetrics
    pool: EmbedderPool
    store: SearchStore
    images: ImageStore
    fetcher: Fetcher
    embeddings: EmbeddingCache
    catalog: Catalog
    tokens: PageTokens

    async def close(self) -> None:
        await self.embeddings.close()
        await self.fetcher.close()
        await self.pool.close()
        await self.store.close()
        self.images.close()


def _parts(settings: GatewaySettings, metrics: ServerMetrics) -> _Parts:
    if settings.page_tokens_can_be_forged():
        logger.warning(
            "page tokens can be forged by anyone who knows milvus_uri; set --page-token-secret to "
            "the same value for all gateways behind one address"
        )
    pool = EmbedderPool(settings.worker_entries(), settings.max_message_bytes)
    store = SearchStore(
        settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_threads
    )
    return _Parts(
        settings=settings,
        metrics=metrics,
        pool=pool,
        store=store,
        images=ImageStore(settings.object_store_uri, presign_seconds=settings.presign_seconds),
        fetcher=Fetcher(_fetch_limits(settings), metrics),
        embeddings=EmbeddingCache(pool, settings.query_cache_entries, metrics),
        catalog=Catalog(store, pool),
        tokens=PageTokens(settings.page_token_key(), settings.page_token_seconds),
    )


def _search_service(parts: _Parts) -> Service:
    query_vectors = QueryVectors(parts.embeddings, parts.fetcher, parts.store, parts.metrics)
    searcher = Searcher(parts.catalog, query_vectors, parts.store, parts.images, parts.metrics)
    return Service(
        "sentinel.search.v1.SearchService",
        search_service_pb2_grpc.add_SearchServiceServicer_to_server,
        SearchService(searcher, parts.tokens, parts.settings.search_timeout_seconds),
    )


def _item_service(parts: _Parts, writer: ItemWriter, streams: WriteStreams) -> Service:
    settings = parts.settings
    reader = ItemReader(parts.store, parts.images, max_page_bytes=settings.max_message_bytes // 2)
    servicer = ItemService(
        writer,
        reader,
        streams,
        parts.catalog,
        parts.tokens,
        settings=settings,
    )
    return Service(
        "sentinel.search.v1.ItemService",
        item_service_pb2_grpc.add_ItemServiceServicer_to_server,
        servicer,
    )


def _collection_service(parts: _Parts, draining: asyncio.Event) -> Service:
    timeout_s = parts.settings.write_timeout_seconds
    reindexer = Reindexer(
        parts.catalog, parts.pool, parts.store, parts.images, call_timeout_s=timeout_s
    )
    return Service(
        "sentinel.search.v1.CollectionService",
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
        CollectionService(parts.catalog, reindexer, parts.tokens, timeout_s, draining),
    )


def _fetch_limits(settings: GatewaySettings) -> FetchLimits:
    return FetchLimits(
        places=settings.uri_places(),
        allow_private=settings.image_uri_private,
        max_image_bytes=settings.max_image_bytes,
        # No more than a request could have sent itself.
        max_call_bytes=settings.max_message_bytes,
        timeout_s=settings.image_uri_timeout_seconds,
        max_redirects=settings.image_uri_redirects,
        concurrency=settings.image_uri_fetches,
    )


def _stream_limits(settings: GatewaySettings) -> StreamLimits:
    return StreamLimits(
        max_items=settings.max_items_per_upsert,
        max_bytes=settings.max_message_bytes,
        batch_timeout_s=settings.write_timeout_seconds,
        # The rest of the drain is for the batches that were read.
        drain_grace_s=settings.drain_seconds / 4,
    )


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
