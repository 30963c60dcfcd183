"""Run the model on one thread that takes its batches from queues, and watch that thread.

The thread itself takes the next batch when it is free. So nothing is prefetched: no round trip
through the event loop is between two batches, and the choice sees the newest arrivals. A model
error fails the callers of that batch only; the thread continues.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embedder_server.devices import give_way
from embedder_server.engine.batching import (
    BatchQueue,
    DeviceResult,
    NextBatch,
    WorkGroup,
    WorkItem,
    next_queue,
)
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.engine.results import unit_rows
from embedder_server.models.runtimes.base import is_out_of_memory
from embedder_server.types import FloatArray, Modality, Priority
from sentinel_core.errors import DeadlineExceeded, Internal, SentinelError, Unavailable, hide

logger = logging.getLogger(__name__)

Forward = Callable[[Sequence[Any]], FloatArray]

# Warm up batches of several items for this many seconds at most; then a fast start matters more.
_WARM_UP_S = 1.0
# The watchdog checks this often within its limit, but neither constantly nor once a minute.
_CHECKS = 10
_MIN_PERIOD_S = 0.01
_MAX_PERIOD_S = 1.0


class DeviceLoop:
    """Runs batches of every modality on one thread, interactive work first.

    Create and use it in one event loop.

    Args:
        forward: The model's network for each modality.
        queues: An empty queue for each modality.
        dimensions: Length of a valid vector.
        metrics: Counts batch sizes and dropped items.
        on_failure: Called in the event loop if the thread dies. Then nothing is embedded any more.
        gives_way: Whether the thread computes on cores that it shares with others.
    """

    def __init__(
        self,
        forward: Mapping[Modality, Forward],
        queues: Mapping[Modality, BatchQueue],
        *,
        dimensions: int,
        metrics: EmbedderMetrics,
        on_failure: Callable[[BaseException], None],
        gives_way: bool = False,
    ) -> None:
        self._gives_way = gives_way
        self._forward = forward
        self._queues = queues
        self._dimensions = dimensions
        self._metrics = metrics
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._closed: SentinelError | None = None
        self._thread: threading.Thread | None = None
        self._busy_since: float | None = None

    async def start(self, warm_up: Sequence[tuple[Modality, Sequence[Any]]]) -> None:
        """Start the thread and return when it has embedded the batches of `warm_up`.

        Batches of several items are skipped once warming up takes too long, and may fail for lack
        of memory: in service such a batch is split.

        Raises:
            SentinelError: The model makes no usable vector of a batch.
            Exception: The model's own error.
        """
        ready: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that a model that never returns does not keep the process alive.
        self._thread = threading.Thread(
            target=self._run, args=(warm_up, ready), name="device", daemon=True
        )
        self._thread.start()
        await ready

    def submit(
        self,
        modality: Modality,
        priority: Priority,
        payloads: Sequence[tuple[Any, int]],
        deadline_at: float,
    ) -> WorkGroup:
        """Queue one or more prepared contents with their lengths.

        To give up, cancel the group's future: items that have not started then cost no compute.

        Raises:
            SentinelError: The loop is closed or dead.
        """
        group = WorkGroup(payloads, self._loop.create_future(), time.monotonic(), deadline_at)
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._queues[modality].put(priority, group.items)
            self._changed.notify()
        return group

    def busy_seconds(self) -> float:
        """Return for how long the running batch has been on the device; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def close(self, timeout_s: float) -> bool:
        """Refuse new work, fail waiting items with DRAINING; return whether the thread ended."""
        self._shut(Unavailable("DRAINING", "this worker is shutting down; retry on another one"))
        if self._thread is None:
            return True
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _shut(self, reason: SentinelError) -> None:
        with self._changed:
            if self._closed is None:
                self._closed = reason
            waiting = [item for queue in self._queues.values() for item in queue.clear()]
            self._changed.notify_all()
        _finish([(item, DeviceResult(reason)) for item in waiting])

    def _die(self, error: BaseException) -> None:
        self._shut(Internal("INTERNAL", "this worker failed; retry on another one"))
        self._on_failure(error)

    # The methods below run on the device thread.

    def _run(
        self, warm_up: Sequence[tuple[Modality, Sequence[Any]]], ready: asyncio.Future[None]
    ) -> None:
        if self._gives_way:
            give_way()
        try:
            self._warm_up(warm_up)
        except Exception as error:
            self._post(settle, ready, None, error)
            return
        self._post(settle, ready, None, None)
        try:
            while (taken := self._next()) is not None:
                modality, batch = taken
                self._drop(modality, batch)
                if batch.items:
                    self._execute(modality, batch.items)
                # Kept while waiting for work, they would keep images and vectors in memory.
                del taken, batch
        except BaseException as error:
            logger.exception("the device thread died")
            self._post(self._die, error)

    def _warm_up(self, batches: Sequence[tuple[Modality, Sequence[Any]]]) -> None:
        started = time.monotonic()
        for modality, payloads in batches:
            if len(payloads) > 1 and time.monotonic() - started > _WARM_UP_S:
                continue
            try:
                results = self._compute(modality, payloads)
            except Exception as error:
                if len(payloads) == 1 or not is_out_of_memory(error):
                    raise
                logger.warning("batch does not fit into memory", extra={"size": len(payloads)})
                continue
            for result in results:
                if isinstance(result.vector, SentinelError):
                    raise result.vector

    def _next(self) -> tuple[Modality, NextBatch] | None:
        """Wait for work and return it; None when closed."""
        with self._changed:
            while self._closed is None:
                chosen = next_queue(self._queues)
                if chosen is not None:
                    modality, priority = chosen
                    return modality, self._queues[modality].take(priority, time.monotonic())
                self._changed.wait()
        return None

    def _drop(self, modality: Modality, batch: NextBatch) -> None:
        for items, cause in ((batch.caller_left, "caller_left"), (batch.expired, "deadline")):
            if items:
                self._metrics.dropped_items.labels(modality, cause).inc(len(items))
        if batch.expired:
            late = DeadlineExceeded(
                "OUT_OF_TIME",
                "the deadline passed while waiting for the device; use a longer one",
                stage="queue",
            )
            self._post(_finish, [(item, DeviceResult(late)) for item in batch.expired])

    def _execute(self, modality: Modality, batch: list[WorkItem]) -> None:
        """Run one batch and give its callers their results or its error."""
        self._busy_since = started = time.monotonic()
        too_large = False
        try:
            results = self._compute(modality, [item.payload for item in batch])
        except Exception as error:
            too_large = len(batch) > 1 and is_out_of_memory(error)
            results = [] if too_large else _failed(batch, error)
        except BaseException as error:  # this ends the thread
            self._post(_finish, list(zip(batch, _failed(batch, error), strict=True)))
            raise
        finally:
            self._busy_since = None
        if too_large:
            # Not inside `except`: there the error's traceback keeps the failed pass's memory.
            self._split(modality, batch)
            return
        seconds = time.monotonic() - started
        self._metrics.batch_size.labels(modality).observe(len(batch))
        for item, result in zip(batch, results, strict=True):
            result.queue_s = started - item.group.queued_at
            result.inference_s = seconds
            result.batch_size = len(batch)
        self._post(_finish, list(zip(batch, results, strict=True)))

    def _split(self, modality: Modality, batch: list[WorkItem]) -> None:
        self._metrics.batch_splits.labels(modality).inc()
        logger.warning("batch does not fit into memory", extra={"size": len(batch)})
        half = len(batch) // 2
        self._execute(modality, batch[:half])
        self._execute(modality, batch[half:])

    def _compute(self, modality: Modality, payloads: Sequence[Any]) -> list[DeviceResult]:
        vectors = np.asarray(self._forward[modality](payloads))
        expected = (len(payloads), self._dimensions)
        if vectors.shape != expected:  # or callers would get each other's vectors
            raise ValueError(f"the model returned shape {vectors.shape} instead of {expected}")
        units, norms = unit_rows(vectors)
        results = [
            DeviceResult(unit, norm) for unit, norm in zip(units, norms.tolist(), strict=True)
        ]
        for result in results:
            if result.norm == 0:
                self._metrics.unusable_vectors.labels(modality).inc()
                result.vector = Internal(
                    "MODEL_FAILED", "the model returned no usable vector for this content"
                )
        return results

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody waits for this")


def _failed(batch: Sequence[WorkItem], error: BaseException) -> list[DeviceResult]:
    hidden = hide(error, "the model failed on this batch", logger, reason="MODEL_FAILED")
    return [DeviceResult(hidden) for _ in batch]


def _finish(results: Sequence[tuple[WorkItem, DeviceResult]]) -> None:
    for item, result in results:
        item.group.finish(item, result)


def settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Give a future its result or its error, unless its caller left."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def watch_for_stalls(
    busy_seconds: Callable[[], float],
    limit_s: float,
    on_change: Callable[[bool], Awaitable[None]],
) -> None:
    """Report when the device stalls and when it continues, until cancelled.

    Args:
        busy_seconds: Returns for how long the running batch has been on the device; 0 when idle.
        limit_s: Seconds after which the device counts as stalled.
        on_change: Awaited with True when it stalls and with False when it continues.
    """
    period_s = min(_MAX_PERIOD_S, max(_MIN_PERIOD_S, limit_s / _CHECKS))
    stalled = False
    while True:
        await asyncio.sleep(period_s)
        seconds = busy_seconds()
        if (seconds > limit_s) == stalled:
            continue
        stalled = not stalled
        if stalled:
            logger.error("the device is stalled", extra={"seconds": round(seconds, 1)})
        else:
            logger.warning("the device continues")
        await on_change(stalled)
