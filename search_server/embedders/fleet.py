"""The workers that there are: follow their names, check their health, move calls off the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from search_server.embedders.connection import WorkerAccess
from search_server.embedders.discovery import Directory
from search_server.embedders.worker import Worker
from sentinel_core.metrics import ServerMetrics
from sentinel_core.tls import FileTls

_CHECK_INTERVAL_S = 0.5
# How often to look for new workers to watch, if none can come.
_IDLE_S = 3.0


class Fleet:
    """All workers, healthy or not. Use inside one event loop.

    Args:
        entries: What `Directory` takes.
        max_message_bytes: Largest message to or from a worker.
        access: How this gateway proves itself to workers, and they to it.

    Attributes:
        workers: One for each address that is known now.
    """

    def __init__(
        self,
        entries: Sequence[str],
        max_message_bytes: int,
        metrics: ServerMetrics,
        access: WorkerAccess,
    ) -> None:
        self._access = access
        self.workers: list[Worker] = []
        self._directory = Directory(entries)
        self._max_message_bytes = max_message_bytes
        self._retiring: dict[Worker, asyncio.Task[None]] = {}
        self.circuits = Circuits(metrics.process, self)
        metrics.registry.register(self.circuits)
        self._follow_directory()

    @property
    def configured(self) -> str:
        """The configured entries, for messages."""
        return ", ".join(self._directory.entries)

    async def run(self) -> None:
        """Resolve names and check every worker's health, for ever."""
        if self._access.tls is not None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_follow(self._access.tls))
                tasks.create_task(self._run())
        await self._run()

    async def _run(self) -> None:
        watched: dict[Worker, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                if self._directory.interval_s is not None:
                    await self.resolve()
                for worker in self.workers:
                    if worker not in watched:
                        watched[worker] = tasks.create_task(self._watch(worker))
                watched = {worker: task for worker, task in watched.items() if not task.done()}
                await asyncio.sleep(self._directory.interval_s or _IDLE_S)

    async def _watch(self, worker: Worker) -> None:
        """Check a worker until it is retired, each by itself: one that hangs delays no other."""
        while worker in self.workers:
            await self._check(worker)
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def resolve(self) -> None:
        """Look up every entry once; add new workers and retire those that are gone."""
        await self._directory.refresh()
        self._follow_directory()

    def _follow_directory(self) -> None:
        addresses = self._directory.addresses
        known = {worker.address: worker for worker in self.workers}
        self.workers = [
            known.get(address) or Worker(address, self._max_message_bytes, self._access, host)
            for address, host in addresses.items()
        ]
        for gone in (worker for address, worker in known.items() if address not in addresses):
            self._retiring[gone] = asyncio.create_task(self._retire(gone))

    async def _retire(self, worker: Worker) -> None:
        """Let a worker finish its calls and checks, as long as it answers; then close it."""
        try:
            while worker.is_in_use:
                await self._check(worker)
                await asyncio.sleep(_CHECK_INTERVAL_S)
        finally:
            await worker.close()
            del self._retiring[worker]

    async def check(self) -> None:
        """Check every worker's health once."""
        await asyncio.gather(*(self._check(worker) for worker in self.workers))

    async def _check(self, worker: Worker) -> None:
        """Check a worker's health; end the calls of workers that will not answer them."""
        await worker.check()
        for stranded in (*self.workers, *self._retiring):
            if stranded.strands_calls and self._others_of(stranded):
                stranded.abandon_calls()

    def _others_of(self, worker: Worker) -> bool:
        """Whether another worker can take over the calls of this one."""
        return any(
            other.healthy and other.fingerprint == worker.fingerprint
            for other in self.workers
            if other is not worker
        )

    async def close(self) -> None:
        """Close every connection."""
        retiring = list(self._retiring.values())
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self.workers))


async def _follow(tls: FileTls) -> None:
    async for _ in tls.changes():  # the next health check of each worker uses it
        pass


class Circuits(Collector):
    """The metric of the workers' circuits; read when it is scraped, so it forgets retired ones."""

    _labelnames = ("worker", "state")

    def __init__(self, process: str, fleet: Fleet) -> None:
        self._name = f"sentinel_{process}_worker_circuit"
        self._fleet = fleet

    def describe(self) -> Iterable[Metric]:
        """Return the metric without samples."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        """Yield the state of each worker. Called in another thread."""
        family = self._family()
        for worker in self._fleet.workers:
            state = "open" if not worker.healthy else "full" if worker.load.is_full else "closed"
            for one in ("closed", "full", "open"):
                family.add_metric([worker.address, one], one == state)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            self._name,
            "1 for the state of each worker's circuit: closed (it gets calls), full (it gets none "
            "of the size that it refused) or open (it gets none).",
            labels=self._labelnames,
        )
