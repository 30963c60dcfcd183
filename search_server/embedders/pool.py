"""Distribute Embed calls over the workers: choose the least loaded, check health, fail over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from search_server.embedders.discovery import Directory
from search_server.embedders.worker import Embedded, ServedModel, Worker
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    SentinelError,
    Unavailable,
)
from sentinel_store.items import Content
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0
_RESOLVE_INTERVAL_S = 3.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the healthy workers of one model can take, by their own limits.

    Attributes:
        workers: Number of workers; if it is 0, so are the others.
        max_contents: Most contents in one call that every worker accepts.
        max_queue_items: Contents that may wait in all workers together.
    """

    workers: int = 0
    max_contents: int = 0
    max_queue_items: int = 0


class EmbedderPool:
    """Use inside one event loop. Health is known only while `run` runs.

    Args:
        entries: `host:port`, or `dns:///name:port` for one worker per address of the name.
        max_message_bytes: Largest message to or from a worker.
    """

    def __init__(self, entries: Sequence[str], max_message_bytes: int) -> None:
        self._directory = Directory(entries)
        self._max_message_bytes = max_message_bytes
        self._max_call_bytes = max_message_bytes - max_message_bytes // 16  # the rest is framing
        self._workers: list[Worker] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._follow_directory()

    async def run(self) -> None:
        """Resolve names and check every worker's health, for ever."""
        async with asyncio.TaskGroup() as tasks:
            if self._directory.has_names:
                tasks.create_task(_repeat(self.resolve, _RESOLVE_INTERVAL_S))
            tasks.create_task(_repeat(self.check, _CHECK_INTERVAL_S))

    async def resolve(self) -> None:
        """Resolve every name once; add new workers and retire those that are gone."""
        await self._directory.refresh()
        self._follow_directory()

    def _follow_directory(self) -> None:
        addresses = self._directory.addresses
        known = {worker.address: worker for worker in self._workers}
        self._workers = [
            known[address] if address in known else Worker(address, self._max_message_bytes)
            for address in addresses
        ]
        for gone in (worker for address, worker in known.items() if address not in addresses):
            task = asyncio.create_task(gone.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def check(self) -> None:
        """Check every worker's health once."""
        await asyncio.gather(*(worker.check() for worker in self._workers))

    @property
    def any_healthy(self) -> bool:
        return any(worker.healthy for worker in self._workers)

    def model(self, wanted: ModelRef | None = None) -> tuple[ModelRef, int]:
        """Return a served model and its dimensions: the first, or the one that matches `wanted`.

        Raises:
            Unavailable: No worker is healthy.
            FailedPrecondition: No healthy worker serves `wanted`.
        """
        served = self._served()
        for one in served:
            if wanted is None or matches(one.model, wanted):
                return one.model, one.dimensions
        if wanted is None or not served:
            raise self._no_healthy_worker()
        raise self._mismatch(wanted.fingerprint or wanted.model)

    def model_besides(self, fingerprint: str, wanted: ModelRef | None) -> tuple[ModelRef, int]:
        """Return the only served model other than `fingerprint`, and its dimensions.

        Args:
            fingerprint: The model to leave out.
            wanted: Chooses among the others; None: there must be only one.

        Raises:
            Unavailable: No worker is healthy.
            FailedPrecondition: No healthy worker serves such a model, or they serve several.
        """
        served = {one.model.fingerprint: one for one in self._served()}
        if not served:
            raise self._no_healthy_worker()
        others = [
            (one.model, one.dimensions)
            for one in served.values()
            if one.model.fingerprint != fingerprint
            and (wanted is None or matches(one.model, wanted))
        ]
        if len(others) == 1:
            return others[0]
        raise FailedPrecondition(
            "MODEL_MISMATCH",
            "no worker serves such a model besides the collection's own; start one that does"
            if not others
            else "the workers serve several models besides the collection's own; choose one by "
            "its fingerprint",
            field="model_version",
            expected=(wanted.fingerprint or wanted.model) if wanted else "",
            actual=",".join(sorted(served)),
        )

    def capacity(self, fingerprint: str) -> Capacity:
        """Return what the healthy workers of this model can take."""
        able = [one for one in self._served() if one.model.fingerprint == fingerprint]
        if not able:
            return Capacity()
        return Capacity(
            len(able),
            min(one.max_contents for one in able),
            sum(one.max_queue_items for one in able),
        )

    def _served(self) -> list[ServedModel]:
        """Return the model of each healthy worker."""
        return [worker.served for worker in self._workers if worker.healthy and worker.served]

    async def embed(
        self,
        contents: Sequence[Content],
        *,
        fingerprint: str,
        deadline: Deadline,
        bulk: bool = False,
        thumbnail_side: int = 0,
    ) -> Embedded:
        """Embed a batch, in one call unless a worker takes less in one call.

        Raises:
            FailedPrecondition: No worker serves this model.
            Unavailable: No worker that serves it is healthy.
            ResourceExhausted: All of them are full.
            DeadlineExceeded: Time ran out.
        """
        limits = (
            worker.served.max_contents
            for worker in self._workers
            if worker.served and worker.served.model.fingerprint == fingerprint
        )
        most = min(limits, default=len(contents))
        parts = split(contents, most, self._max_call_bytes)
        answers = await asyncio.gather(
            *(self._embed_part(part, fingerprint, deadline, bulk, thumbnail_side) for part in parts)
        )
        if len(answers) == 1:
            return answers[0]
        return Embedded(
            items=[item for answer in answers for item in answer.items],
            fingerprint=fingerprint,
            queue_s=max(answer.queue_s for answer in answers),
            inference_s=max(answer.inference_s for answer in answers),
        )

    async def _embed_part(
        self,
        contents: Sequence[Content],
        fingerprint: str,
        deadline: Deadline,
        bulk: bool,
        thumbnail_side: int,
    ) -> Embedded:
        """Embed on the least loaded worker of this model; if it fails, on another one."""
        tried: list[Worker] = []
        last: SentinelError | None = None
        while True:
            worker = choose(self._workers, fingerprint, tried)
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
                    "worker failed a batch",
                    extra={"worker": worker.address, "reason": error.reason},
                )
                last = error
                continue
            if embedded.fingerprint == fingerprint:
                return embedded
            # The worker was restarted with another model between two health checks.
            worker.healthy = False
            last = None

    def _no_worker_for(self, fingerprint: str) -> SentinelError:
        known = any(worker.fingerprint == fingerprint for worker in self._workers)
        if known or not self.any_healthy:
            return self._no_healthy_worker()
        return self._mismatch(fingerprint)

    def _no_healthy_worker(self) -> Unavailable:
        configured = ", ".join(self._directory.entries)
        return Unavailable(
            "NO_HEALTHY_WORKER",
            f"no embedder worker is serving (configured: {configured}); start one or retry",
        )

    def _mismatch(self, expected: str) -> FailedPrecondition:
        actual = sorted({worker.fingerprint or "" for worker in self._workers if worker.healthy})
        return FailedPrecondition(
            "MODEL_MISMATCH",
            "the workers serve another model than the collection's; start a worker with its model, "
            "or index into a new collection",
            expected=expected,
            actual=",".join(actual),
        )

    async def close(self) -> None:
        """Close every channel."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._workers))


async def _repeat(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    while True:
        await work()
        await asyncio.sleep(interval_s)


def split(contents: Sequence[Content], most_items: int, most_bytes: int) -> list[Sequence[Content]]:
    """Split `contents` into parts of at most `most_items` items and `most_bytes` bytes.

    A content of more bytes is a part of its own.
    """
    if len(contents) <= most_items and sum(len(one.data) for one in contents) <= most_bytes:
        return [contents]
    parts: list[list[Content]] = []
    size = 0
    for content in contents:
        size += len(content.data)
        if not parts or len(parts[-1]) == most_items or size > most_bytes:
            parts.append([])
            size = len(content.data)
        parts[-1].append(content)
    return list(parts)


def matches(model: ModelRef, wanted: ModelRef) -> bool:
    """Tell whether `model` has the fingerprint of `wanted`, or its name if that has none."""
    if wanted.fingerprint:
        return model.fingerprint == wanted.fingerprint
    return not wanted.model or model.model == wanted.model


def choose(
    workers: Iterable[Worker], fingerprint: str, excluded: Sequence[Worker] = ()
) -> Worker | None:
    """Return the healthy worker of this model with the fewest items in flight; None if none.

    Ties are broken at random, so that several gateways do not choose the same one.
    """
    able = [
        worker
        for worker in workers
        if worker.healthy and worker.fingerprint == fingerprint and worker not in excluded
    ]
    if not able:
        return None
    least = min(worker.items_in_flight for worker in able)
    return random.choice([worker for worker in able if worker.items_in_flight == least])
