"""Build a gateway from its settings, run it, and close it. No logic."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

import sentinel_core.logging
from search_server import health
from search_server.api import access
from search_server.api.access_service import AccessService
from search_server.api.admission import GatewayAdmission
from search_server.api.collection_service import CollectionService
from search_server.api.confirmations import Confirmations
from search_server.api.embedding_service import EmbeddingService
from search_server.api.item_service import ItemService
from search_server.api.page_tokens import PageTokens
from search_server.api.search_service import SearchService
from search_server.collections.catalog import Catalog
from search_server.collections.match_levels import MatchCalibrator
from search_server.collections.reindexer import Reindexer
from search_server.collections.usage import StoredUsage
from search_server.embedders.connection import WorkerAccess
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache
from search_server.image_uris.fetcher import Fetcher
from search_server.image_uris.originals import Originals
from search_server.items.dual_write import DualWrite
from search_server.items.item_embedder import ItemEmbedder
from search_server.items.reader import ItemReader
from search_server.items.writer import ItemWriter
from search_server.milvus.move_requests import MoveRequests
from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.search.query_vectors import QueryVectors
from search_server.search.searcher import Searcher
from search_server.settings import GatewaySettings
from sentinel.embedding.v1 import embedding_service_pb2_grpc
from sentinel.search.v1 import (
    access_service_pb2_grpc,
    collection_service_pb2_grpc,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel_core import runtime
from sentinel_core.access import audit
from sentinel_core.access.followed_file import FollowedFile, secret
from sentinel_core.access.guard import Credentials, open_credentials
from sentinel_core.access.quotas import LocalBuckets, Quotas
from sentinel_core.access.shared_buckets import SharedBuckets
from sentinel_core.errors import SentinelError
from sentinel_core.interceptors import MethodLimits
from sentinel_core.memory import MemoryBudget, default_limit
from sentinel_core.metrics import ServerMetrics
from sentinel_core.proxies import bypass_proxies_on_loopback
from sentinel_core.runtime import Lifecycle
from sentinel_core.server import GrpcServer, Service
from sentinel_core.settings import (
    LONGEST_STREAM_S,
    SMALL_REQUEST_BYTES,
    print_settings_errors,
    refuse_secret_flags,
)
from sentinel_core.tls import FileTls
from sentinel_store.images.image_store import ImageStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Backends:
    """What a gateway calls or asks, and closes at its end."""

    credentials: Credentials
    pool: EmbedderPool
    embeddings: QueryCache
    store: SearchStore
    images: ImageStore
    originals: Originals
    fetcher: Fetcher


@asynccontextmanager
async def running_gateway(
    settings: GatewaySettings, lifecycle: Lifecycle, registry: CollectorRegistry | None = None
) -> AsyncIterator[GrpcServer]:
    """Run a gateway inside the block; drain and close it at its end.

    It answers health checks from the start, and is SERVING while Milvus and a worker are up.
    """
    metrics = ServerMetrics("gateway", registry or CollectorRegistry())
    memory = MemoryBudget(settings.memory_bytes or default_limit(), metrics)
    draining = asyncio.Event()
    async with _backends(settings, metrics) as backends:
        parts = _parts(settings, backends, metrics, memory, draining)
        server = GrpcServer(
            settings,
            metrics,
            memory,
            _services(parts),
            lifecycle,
            credentials=backends.credentials,
            on_drain=draining.set,
            leaves_at_once=True,
        )
        await server.start()
        pool, store, images = backends.pool, backends.store, backends.images
        lifecycle.spawn(pool.fleet.run(), "worker health checks")
        lifecycle.spawn(store.run(), "milvus lite flushes")
        lifecycle.spawn(images.run(), "object store")
        lifecycle.spawn(parts.calibrator.run(), "match levels")
        if settings.library_folder is not None:
            requests = MoveRequests(settings, store, settings.library_folder)
            lifecycle.spawn(requests.run(), "requests to move")
        lifecycle.spawn(health.watch(server, metrics, pool, store, images), "readiness")
        try:
            yield server
        finally:
            await server.stop()
            await lifecycle.cancel_tasks()


@asynccontextmanager
async def _backends(settings: GatewaySettings, metrics: ServerMetrics) -> AsyncIterator[_Backends]:
    async with AsyncExitStack() as stack:
        quotas = _quotas(settings, stack)
        credentials = open_credentials(settings, settings.token_rules(), quotas)
        stack.callback(credentials.close)
        pool = EmbedderPool(
            settings.worker_entries(), settings.max_message_bytes, metrics, _worker_access(settings)
        )
        stack.push_async_callback(pool.fleet.close)
        store = SearchStore(
            settings.milvus_uri,
            settings.milvus_token.get_secret_value(),
            settings.milvus_threads,
            tls=settings.milvus_tls(),
            lite_fsync=settings.lite_fsync,
        )
        stack.push_async_callback(store.close)
        images = ImageStore(settings.object_store_uri, presign_seconds=settings.presign_seconds)
        stack.callback(images.close)
        originals = Originals(
            settings.original_places(),
            max_bytes=settings.max_image_bytes,
            timeout_s=settings.reference_timeout_seconds,
        )
        fetcher = Fetcher(settings, metrics)
        stack.push_async_callback(fetcher.close)
        embeddings = QueryCache(pool, settings.query_cache_entries, metrics)
        stack.push_async_callback(embeddings.close)
        yield _Backends(credentials, pool, embeddings, store, images, originals, fetcher)


def _quotas(settings: GatewaySettings, stack: AsyncExitStack) -> Quotas | None:
    if settings.quotas_file is None:
        return None
    if not settings.quota_redis_url.get_secret_value():
        return Quotas(settings.quotas_file, LocalBuckets())
    buckets = SharedBuckets.at(settings.quota_redis_url.get_secret_value())
    stack.push_async_callback(buckets.close)
    return Quotas(settings.quotas_file, buckets)


def _worker_access(settings: GatewaySettings) -> WorkerAccess:
    files, key_file = settings.worker_tls(), settings.worker_api_key_file
    return WorkerAccess(
        FileTls(files) if files else None, FollowedFile(key_file, secret) if key_file else None
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What several services use."""

    settings: GatewaySettings
    backends: _Backends
    metrics: ServerMetrics
    tokens: PageTokens
    memory: MemoryBudget
    row_memory: RowMemory
    usage: StoredUsage
    catalog: Catalog
    calibrator: MatchCalibrator
    confirmations: Confirmations
    admission: GatewayAdmission
    draining: asyncio.Event


def _parts(
    settings: GatewaySettings,
    backends: _Backends,
    metrics: ServerMetrics,
    memory: MemoryBudget,
    draining: asyncio.Event,
) -> _Parts:
    usage = StoredUsage(backends.store, backends.images, backends.credentials.quotas)
    catalog = Catalog(backends.store, backends.pool, usage)
    calibrator = MatchCalibrator(
        catalog, backends.pool, backends.store, metrics, enabled=settings.match_levels
    )
    return _Parts(
        settings,
        backends,
        metrics,
        _page_tokens(settings),
        memory,
        RowMemory(memory),
        usage,
        catalog,
        calibrator,
        Confirmations(
            settings.page_token_key(), protect=settings.protect, small_items=settings.protect_items
        ),
        GatewayAdmission(settings, metrics),
        draining,
    )


def _services(parts: _Parts) -> list[Service]:
    makers = (_search_service, _item_service, _collection_service, _access_service)
    return [make(parts) for make in (*makers, _embedding_service)]


def _page_tokens(settings: GatewaySettings) -> PageTokens:
    if settings.page_tokens_can_be_forged():
        logger.warning(
            "page tokens can be forged by anyone who knows milvus_uri; set page_token_secret to "
            "the same value for all gateways behind one address"
        )
    return PageTokens(settings.page_token_key(), settings.page_token_seconds)


def _search_service(parts: _Parts) -> Service:
    settings, backends = parts.settings, parts.backends
    seconds = settings.search_timeout_seconds
    searcher = Searcher(
        parts.catalog,
        QueryVectors(
            backends.embeddings,
            backends.fetcher,
            backends.store,
            parts.metrics,
            backends.pool.known,
        ),
        backends.store,
        backends.images,
        parts.calibrator,
        row_memory=parts.row_memory,
        metrics=parts.metrics,
    )
    return Service(
        "sentinel.search.v1.SearchService",
        search_service_pb2_grpc.add_SearchServiceServicer_to_server,
        SearchService(searcher, parts.tokens, parts.admission.searches, seconds),
        {"": MethodLimits(settings.max_message_bytes, seconds, fills_responses=True)},
        access.SEARCH_RULES,
    )


def _item_service(parts: _Parts) -> Service:
    settings, backends = parts.settings, parts.backends
    write_s = settings.write_timeout_seconds
    small_write = MethodLimits(SMALL_REQUEST_BYTES, write_s)
    embedder = ItemEmbedder(
        backends.pool,
        backends.originals,
        parts.memory,
        parts.metrics,
        thumbnail_side=settings.thumbnail_side,
    )
    writer = ItemWriter(
        embedder,
        backends.fetcher,
        backends.store,
        backends.images,
        parts.metrics,
        dual_write=DualWrite(parts.catalog),
        usage=parts.usage,
        on_write=parts.calibrator.note_write,
        max_image_bytes=settings.max_image_bytes,
    )
    items = ItemService(
        writer,
        ItemReader(
            backends.store, backends.images, backends.originals, parts.row_memory, parts.memory
        ),
        parts.catalog,
        backends.pool,
        parts.tokens,
        admission=parts.admission,
        confirmations=parts.confirmations,
        draining=parts.draining,
        settings=settings,
    )
    return Service(
        "sentinel.search.v1.ItemService",
        item_service_pb2_grpc.add_ItemServiceServicer_to_server,
        items,
        {
            "": MethodLimits(SMALL_REQUEST_BYTES, settings.search_timeout_seconds),
            "DownloadImage": small_write,
            "DeleteItems": small_write,
            "UpsertItems": MethodLimits(settings.max_message_bytes, write_s),
            "IngestItems": MethodLimits(settings.max_message_bytes, LONGEST_STREAM_S),
        },
        access.ITEM_RULES,
    )


def _collection_service(parts: _Parts) -> Service:
    backends, write_s = parts.backends, parts.settings.write_timeout_seconds
    reindexer = Reindexer(
        parts.catalog,
        backends.pool,
        backends.store,
        backends.images,
        backends.originals,
        call_timeout_s=write_s,
    )
    collections = CollectionService(
        parts.catalog,
        reindexer,
        parts.tokens,
        write_s,
        parts.draining,
        admission=parts.admission,
        confirmations=parts.confirmations,
        levels_of=parts.calibrator.levels_of,
    )
    return Service(
        "sentinel.search.v1.CollectionService",
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
        collections,
        {
            "": MethodLimits(SMALL_REQUEST_BYTES, write_s),
            "ReindexCollection": MethodLimits(SMALL_REQUEST_BYTES, LONGEST_STREAM_S),
        },
        access.COLLECTION_RULES,
    )


def _access_service(parts: _Parts) -> Service:
    return Service(
        "sentinel.search.v1.AccessService",
        access_service_pb2_grpc.add_AccessServiceServicer_to_server,
        AccessService(access_controlled=parts.backends.credentials.needed),
        {"": MethodLimits(SMALL_REQUEST_BYTES, parts.settings.search_timeout_seconds)},
        access.ACCESS_RULES,
    )


def _embedding_service(parts: _Parts) -> Service:
    settings, backends = parts.settings, parts.backends
    embeddings = EmbeddingService(
        backends.pool,
        backends.embeddings,
        backends.fetcher,
        admission=parts.admission.embeddings,
        metrics=parts.metrics,
        max_contents=settings.max_items_per_upsert,
        timeout_s=settings.write_timeout_seconds,
    )
    return Service(
        "sentinel.embedding.v1.EmbeddingService",
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server,
        embeddings,
        {
            "": MethodLimits(settings.max_message_bytes, settings.write_timeout_seconds),
            "GetModel": MethodLimits(SMALL_REQUEST_BYTES, settings.search_timeout_seconds),
        },
        access.EMBEDDING_RULES,
    )


async def _serve(settings: GatewaySettings) -> int:
    lifecycle = Lifecycle()
    lifecycle.install_signal_handlers()
    try:
        async with running_gateway(settings, lifecycle):
            await lifecycle.wait()
    except (OSError, ValueError, SentinelError) as error:
        print(f"sentinel-gateway: {error}", file=sys.stderr)
        return 1
    return 1 if lifecycle.failure else 0


def run() -> int:
    """Read the settings, serve until SIGTERM or SIGINT, return the exit code."""
    if refuse_secret_flags("sentinel-gateway", GatewaySettings, sys.argv[1:]):
        return 2
    try:
        settings = GatewaySettings(_cli_parse_args=True)
    except ValidationError as error:
        print_settings_errors("sentinel-gateway", error)
        return 2
    bypass_proxies_on_loopback()
    sentinel_core.logging.configure(settings.log_level, settings.log_style)
    try:
        audit.open_audit_log(settings.audit_log)
    except OSError as error:
        print(f"sentinel-gateway: audit_log: {error}", file=sys.stderr)
        return 2
    logger.info("settings", extra=settings.model_dump(mode="json"))
    return runtime.run(_serve(settings))
