"""Start and stop a worker: read settings, open ports, load the model, start the engine."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from embedder_server.api.embedding_service import EmbeddingService
from embedder_server.devices import give_way, pin_to
from embedder_server.engine.device_loop import watch_for_stalls
from embedder_server.engine.engine import Engine
from embedder_server.engine.lanes import WorkerPool
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.images.fork_server import ForkServer
from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.registry import load_model
from embedder_server.settings import EmbedderSettings
from embedder_server.types import ModelLoadError, Priority
from sentinel_core import logging as core_logging
from sentinel_core import runtime
from sentinel_core.access import audit
from sentinel_core.access.guard import open_credentials
from sentinel_core.memory import MemoryBudget, default_limit
from sentinel_core.proxies import bypass_proxies_on_loopback
from sentinel_core.runtime import Lifecycle
from sentinel_core.server import GrpcServer
from sentinel_core.settings import print_settings_errors

logger = logging.getLogger(__name__)


class Worker:
    """One embedder worker: `start` opens the ports, `load` makes it serve, `stop` drains it.

    Create and use it in one event loop.
    """

    def __init__(
        self,
        settings: EmbedderSettings,
        *,
        registry: CollectorRegistry | None = None,
        forks: ForkServer | None = None,
    ) -> None:
        self._settings = settings
        self.lifecycle = Lifecycle()
        self.metrics = EmbedderMetrics(registry or CollectorRegistry())
        self._memory = MemoryBudget(settings.memory_bytes or default_limit(), self.metrics)
        self._servicer = EmbeddingService(settings)
        self._credentials = open_credentials(settings)
        self._server = GrpcServer(
            settings,
            self.metrics,
            self._memory,
            [self._servicer.service()],
            self.lifecycle,
            credentials=self._credentials,
            # Otherwise a stream that never ends would outlive the drain and be cut off.
            on_drain=self._servicer.draining.set,
        )
        self._shared_forks = forks
        self._forks = forks
        self._engine: Engine | None = None

    @property
    def address(self) -> str:
        """Address of the gRPC port, as `host:port`."""
        return self._server.address

    @property
    def metrics_address(self) -> str:
        """Address of /metrics, as `host:port`."""
        return self._server.metrics_address

    async def start(self) -> None:
        """Open the ports as NOT_SERVING, so that probes get answers while the model loads.

        Raises:
            OSError: A port is taken.
        """
        await self._server.start()

    async def load(self, model: EmbeddingModel | None = None) -> None:
        """Load the model that the settings name, or use `model`; warm it up; become SERVING.

        Raises:
            ModelLoadError: The model cannot be served. The message says why.
        """
        start = perf_counter()
        settings = self._settings
        if self._forks is None:  # first, so that it is warm when the model is loaded
            self._forks = await asyncio.to_thread(ForkServer)
        if model is None:
            loader = WorkerPool("load", 1)
            try:
                model = await loader.run(
                    Priority.INTERACTIVE, partial(_load, settings.model_choice)
                )
            finally:
                loader.close()
        self._engine = engine = Engine(
            model,
            settings,
            self.metrics,
            memory=self._memory,
            forks=self._forks,
            on_failure=self._on_failure,
        )
        await engine.start()
        self._servicer.serve(engine)
        watchdog = watch_for_stalls(
            engine.busy_seconds, settings.stall_seconds, partial(self._on_stall_changed, engine)
        )
        self.lifecycle.spawn(watchdog, "watchdog")
        await self._server.set_serving(True)
        info = engine.info
        logger.info(
            "serving",
            extra={
                "model": info.name,
                "fingerprint": info.fingerprint[:12],
                "dimensions": info.dimensions,
                "device": info.device,
                "runtime": info.runtime,
                "runtime_choice": info.runtime_choice,
                "load_seconds": round(perf_counter() - start, 2),
            },
        )

    async def _on_stall_changed(self, engine: Engine, stalled: bool) -> None:
        engine.stalled = stalled
        self.metrics.device_stalled.set(stalled)
        if self.lifecycle.failure is None:
            await self._server.set_serving(not stalled)

    def _on_failure(self, error: BaseException) -> None:
        # Health first: balancers should use other workers while this process stops.
        self.lifecycle.spawn(self._server.set_serving(False), "not serving")
        self.lifecycle.fail(error)

    async def stop(self) -> None:
        """Become NOT_SERVING, finish the calls in flight, close everything."""
        await self._server.stop()
        if self._engine is not None:
            await self._engine.close()
        if self._forks is not None and self._forks is not self._shared_forks:
            await asyncio.to_thread(self._forks.close)
        self._credentials.close()
        await self.lifecycle.cancel_tasks()


def _load(choice: ModelChoice) -> EmbeddingModel:
    if choice.device == "cpu":
        give_way()  # runtimes start their threads now
    return load_model(choice)


@asynccontextmanager
async def running_worker(
    settings: EmbedderSettings,
    *,
    model: EmbeddingModel | None = None,
    registry: CollectorRegistry | None = None,
    forks: ForkServer | None = None,
) -> AsyncIterator[Worker]:
    """Run a worker for the length of a `with` block.

    Args:
        settings: Those of the process; port 0 picks a free one, see `Worker.address`.
        model: Served instead of the one that the settings name.
        registry: Where the metrics are registered; None: a new one.
        forks: Starts the image decoders; None: one of the worker's own.
    """
    worker = Worker(settings, registry=registry, forks=forks)
    await worker.start()
    try:
        await worker.load(model)
        yield worker
    finally:
        await worker.stop()


async def _serve(settings: EmbedderSettings) -> int:
    """Run a worker until a signal or a failure; return the exit code."""
    try:
        worker = Worker(settings)
        lifecycle = worker.lifecycle
        lifecycle.install_signal_handlers()
        await worker.start()
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    loading = asyncio.create_task(worker.load())
    stopping = asyncio.create_task(lifecycle.wait())
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading
            await stopping
    except ModelLoadError as error:
        logger.error("cannot serve the model: %s", error)
        return 1
    except Exception:
        logger.exception("cannot serve the model")
        return 1
    finally:
        loading.cancel()
        stopping.cancel()
        await asyncio.gather(loading, stopping, return_exceptions=True)
        await worker.stop()
        logger.info("stopped")
    return 1 if lifecycle.failure is not None else 0


def run() -> int:
    """Read the settings and run one worker; return the exit code of the process."""
    try:
        settings = EmbedderSettings(_cli_parse_args=True)
    except ValidationError as error:
        print_settings_errors("sentinel-embedder", error)
        return 2
    try:
        pin_to(settings.cpus)  # before any thread starts, because threads inherit it
    except ValueError as error:
        print(f"sentinel-embedder: cpus: {error}", file=sys.stderr)
        return 2
    bypass_proxies_on_loopback()
    core_logging.configure(settings.log_level, settings.log_style)
    try:
        audit.open_audit_log(settings.audit_log)
    except OSError as error:
        print(f"sentinel-embedder: audit_log: {error}", file=sys.stderr)
        return 2
    logger.info(
        "settings",
        extra={
            **settings.model_dump(mode="json"),
            "threads": settings.effective_threads,
            "decode_processes": settings.effective_decode_processes,
        },
    )
    code = runtime.run(_serve(settings))
    logging.shutdown()
    if any(thread.daemon for thread in threading.enumerate()):
        # A thread inside the runtime (a stalled or cancelled load, a stalled batch) would abort the
        # interpreter while it shuts down.
        os._exit(code)
    return code
