"""A pool of fake workers that are processes, without a gateway around it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from prometheus_client import CollectorRegistry

from search_server.embedders.connection import WorkerAccess
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import Worker
from search_server.types.embeddings import Embedded, EmbedOptions
from sentinel_core.access.followed_file import FollowedFile, secret
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_core.tls import FileTls, TlsFiles
from sentinel_store.items import Content, Kind
from tests import processes, secure
from tests.waiting import eventually


@dataclass(slots=True)
class Bench:
    """A pool whose health checks run."""

    pool: EmbedderPool
    registry: CollectorRegistry

    async def embed(
        self, *contents: Content, seconds: float = 30.0, bulk: bool = False
    ) -> Embedded:
        return await self.pool.embed(
            contents,
            fingerprint=self.fingerprint,
            deadline=Deadline.within(seconds),
            options=EmbedOptions(bulk=bulk),
        )

    @property
    def fingerprint(self) -> str:
        [fingerprint] = {worker.fingerprint for worker in self.pool.fleet.workers} - {None}
        assert fingerprint is not None
        return fingerprint

    def worker(self, server: processes.Server) -> Worker:
        [found] = [one for one in self.pool.fleet.workers if one.address == server.address]
        return found

    def verdicts(self, verdict: str) -> float:
        name = "sentinel_gateway_suspect_contents_total"
        return self.registry.get_sample_value(name, {"verdict": verdict}) or 0.0

    def failures(self, reason: str) -> float:
        name = "sentinel_gateway_worker_failures_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0

    def circuit(self, address: str) -> str | None:
        """Return the state in which the metric shows this worker; None if it does not."""
        name = "sentinel_gateway_worker_circuit"
        for state in ("closed", "full", "open"):
            labels = {"worker": address, "state": state}
            if self.registry.get_sample_value(name, labels) == 1.0:
                return state
        return None


@asynccontextmanager
async def running_pool(*addresses: str) -> AsyncIterator[Bench]:
    """Run a pool of these workers, all of which must become healthy."""
    registry = CollectorRegistry()
    pool = EmbedderPool(addresses, 64 << 20, ServerMetrics("gateway", registry), worker_access())
    running = asyncio.create_task(pool.fleet.run())
    try:
        await eventually(lambda: all(worker.healthy for worker in pool.fleet.workers))
        yield Bench(pool, registry)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await pool.fleet.close()


def worker_access() -> WorkerAccess:
    """Return how a pool reaches the workers of these tests."""
    if not secure.is_on():
        return WorkerAccess()
    files = secure.access()
    return WorkerAccess(FileTls(TlsFiles(ca=Path(files.ca))), FollowedFile(Path(files.key), secret))


Start = Callable[..., processes.Server]


class Hold:
    """A file; while it exists, no worker that has its path answers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def __str__(self) -> str:
        return str(self._path)

    def release(self) -> None:
        self._path.unlink()


def text(words: str) -> Content:
    return Content(Kind.TEXT, words.encode())


def picture(colour: str, number: int = 0) -> Content:
    """Return an image that the fake model calls `colour`; another one for each number."""
    image = Image.new("RGB", (32, 32), colour)
    image.putpixel((0, 0), (number % 256, number // 256, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Content(Kind.IMAGE, file.getvalue())


def reasons(embedded: Embedded) -> list[str]:
    """Return the reason of each item's error, or "ok"."""
    return [item.error.reason if item.error else "ok" for item in embedded.items]


def alive(workers: Sequence[processes.Server]) -> int:
    return sum(worker.process.poll() is None for worker in workers)
