"""The embedder workers as one: picks the least loaded, checks health, fails over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from search_server.embedders import policy
from search_server.embedders.worker import Embedded, Worker
from search_server.types import Content, ModelRef
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import (
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    SentinelError,
    Unavailable,
)

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0


class EmbedderPool:
    """Use inside one event loop. `run` must be running for health to be known."""

    def __init__(self, addresses: Sequence[str], max_message_bytes: int) -> None:
        self._workers = [Worker(address, max_message_bytes) for address in addresses]

    async def run(self) -> None:
        """Check every worker's health, for ever."""
        while True:
            await self.check()
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def check(self) -> None:
        """Check every worker's health once."""
        await asyncio.gather(*(worker.check() for worker in self._workers))

    @property
    def any_healthy(self) -> bool:
        return any(worker.healthy for worker in self._workers)

    def model(self, wanted: ModelRef | None = None) -> tuple[ModelRef, int]:
        """Return a served model and its dimensions, the first or the one that matches `wanted`.

        Raises:
            Unavailable: No worker is up.
            FailedPrecondition: None of those that are up serves what is wanted.
        """
        served = [worker for worker in self._workers if worker.healthy and worker.model]
        if not served:
            raise self._nobody()
        for worker in served:
            assert worker.model is not None
            if wanted is None or _matches(worker.model, wanted):
                return worker.model, worker.dimensions
        assert wanted is not None
        raise self._mismatch(wanted.fingerprint or wanted.model)

    async def embed(
        self,
        contents: Sequence[Content],
        *,
        fingerprint: str,
        deadline: Deadline,
        bulk: bool = False,
        thumbnail_side: int = 0,
    ) -> Embedded:
        """Embed a batch on the least loaded worker of this model; on another if that one is lost.

        Raises:
            FailedPrecondition: No worker serves this model.
            Unavailable: None of those that serve it is up.
            ResourceExhausted: Every one of them is full.
            DeadlineExceeded: Time ran out.
        """
        tried: list[Worker] = []
        last: SentinelError | None = None
        while True:
            worker = policy.choose(self._workers, fingerprint, tried)
            if worker is None:
                raise last or self._no_worker_for(fingerprint)
            tried.append(worker)
            try:
                embedded = await worker.embed(
                    contents,
                    bulk=bulk,
                    thumbnail_side=thumbnail_side,
                    timeout_s=deadline.for_next_hop("embed"),
                )
            except (Unavailable, ResourceExhausted, Internal) as error:
                logger.warning(
                    "worker gave up a batch",
                    extra={"worker": worker.address, "reason": error.reason},
                )
                last = error
                continue
            if embedded.fingerprint == fingerprint:
                return embedded
            # It was restarted with another model between two health checks.
            worker.healthy = False
            last = None

    def _no_worker_for(self, fingerprint: str) -> SentinelError:
        known = any(worker.fingerprint == fingerprint for worker in self._workers)
        if known or not self.any_healthy:
            return self._nobody()
        return self._mismatch(fingerprint)

    def _nobody(self) -> Unavailable:
        addresses = ", ".join(worker.address for worker in self._workers)
        return Unavailable(
            "NO_HEALTHY_WORKER",
            f"no embedder worker is serving (configured: {addresses}); start one or retry",
        )

    def _mismatch(self, expected: str) -> FailedPrecondition:
        actual = sorted({worker.fingerprint or "" for worker in self._workers if worker.healthy})
        return FailedPrecondition(
            "MODEL_MISMATCH",
            "the workers serve another model than this collection was made with; start a worker "
            "with its model, or index into a new collection",
            expected=expected,
            actual=",".join(actual),
        )

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(worker.close() for worker in self._workers))


def _matches(model: ModelRef, wanted: ModelRef) -> bool:
    if wanted.fingerprint:
        return model.fingerprint == wanted.fingerprint
    return not wanted.model or model.model == wanted.model
