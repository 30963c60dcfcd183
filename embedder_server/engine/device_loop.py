"""The one thread that calls the model, and the queues it serves.

The thread itself takes the next batch the moment it is free. So there is nothing to prefetch: no
round trip through the event loop lies between two batches, and the choice is made with the newest
arrivals in view. A model error reaches the callers of that batch only; the thread lives on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embedder_server.engine.batching import (
    BatchQueue,
    Embedded,
    Entry,
    Submission,
    Taken,
    next_queue,
)
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.engine.vectors import unit_rows
from embedder_server.models.runtimes.memory import is_out_of_memory
from embedder_server.types import FloatArray, Modality, Priority
from sentinel_core.errors import DeadlineExceeded, Internal, SentinelError, Unavailable, hide

logger = logging.getLogger(__name__)

Forward = Callable[[Sequence[Any]], FloatArray]

# Batches of several are warmed up until this many seconds have passed; then the start matters more.
_WARM_UP_S = 1.0


class DeviceLoop:
    """Runs batches of every modality on one thread, interactive work first.

    Make and use it inside one event loop.

    Args:
        forward: The model's tower for each modality.
        queues: An empty queue for each modality.
        dimensions: Length of a right vector.
        metrics: Batch sizes and dropped entries go there.
        on_failure: Called in the event loop if the thread dies; nothing will be answered then.
    """

    def __init__(
        self,
        forward: Mapping[Modality, Forward],
        queues: Mapping[Modality, BatchQueue],
        *,
        dimensions: int,
        metrics: EmbedderMetrics,
        on_failure: Callable[[BaseException], None],
    ) -> None:
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

        Of those with more than one entry, what would take too long is left out, and lack of
        memory is forgiven: in service such a batch is split.

        Raises:
            SentinelError: The model makes no usable vector of a batch.
            Exception: What the model raised.
        """
        ready: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that a model that never returns cannot keep the process from ending.
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
    ) -> Submission:
        """Queue one or more prepared contents with their lengths.

        To give up, cancel the submission's future: what has not begun then costs no compute.

        Raises:
            SentinelError: The loop is closed or dead.
        """
        now = time.monotonic()
        submission = Submission(self._loop.create_future())
        for payload, length in payloads:
            submission.add(payload, length, now, deadline_at)
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._queues[modality].put(priority, submission.entries)
            self._changed.notify()
        return submission

    def busy_seconds(self) -> float:
        """Return how long the device has been at the running batch; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def close(self, timeout_s: float) -> bool:
        """Refuse new work, answer what waits with DRAINING; return whether the thread ended."""
        self._shut(Unavailable("DRAINING", "this worker is shutting down; retry on another one"))
        if self._thread is None:
            return True
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _shut(self, reason: SentinelError) -> None:
        with self._changed:
            if self._closed is None:
                self._closed = reason
            left = [entry for queue in self._queues.values() for entry in queue.clear()]
            self._changed.notify_all()
        _answer([(entry, Embedded(reason)) for entry in left])

    # The rest runs on the device thread, except where it says otherwise.

    def _run(
        self, warm_up: Sequence[tuple[Modality, Sequence[Any]]], ready: asyncio.Future[None]
    ) -> None:
        try:
            self._warm_up(warm_up)
        except Exception as error:
            self._post(_set_exception, ready, error)
            return
        self._post(_set_result, ready)
        try:
            while (picked := self._next()) is not None:
                modality, taken = picked
                self._drop(modality, taken)
                if taken.batch:
                    self._execute(modality, taken.batch)
                # Held while waiting for work, they would keep images and vectors alive.
                del picked, taken
        except BaseException as error:
            logger.exception("the device thread died")
            self._post(self._die, error)

    def _warm_up(self, batches: Sequence[tuple[Modality, Sequence[Any]]]) -> None:
        started = time.monotonic()
        for modality, payloads in batches:
            if len(payloads) > 1 and time.monotonic() - started > _WARM_UP_S:
                continue
            try:
                made = self._compute(modality, payloads)
            except Exception as error:
                if len(payloads) == 1 or not is_out_of_memory(error):
                    raise
                logger.warning("batch does not fit into memory", extra={"size": len(payloads)})
                continue
            for one in made:
                if isinstance(one.vector, SentinelError):
                    raise one.vector

    def _die(self, error: BaseException) -> None:  # in the event loop
        self._shut(Internal("INTERNAL", "this worker failed; retry on another one"))
        self._on_failure(error)

    def _next(self) -> tuple[Modality, Taken] | None:
        """Wait for work and return it; None when closed."""
        with self._changed:
            while self._closed is None:
                chosen = next_queue(self._queues)
                if chosen is not None:
                    modality, priority = chosen
                    return modality, self._queues[modality].take(priority, time.monotonic())
                self._changed.wait()
        return None

    def _drop(self, modality: Modality, taken: Taken) -> None:
        for entries, cause in ((taken.caller_left, "caller_left"), (taken.expired, "deadline")):
            if entries:
                self._metrics.dropped_items.labels(modality, cause).inc(len(entries))
        if taken.expired:
            late = DeadlineExceeded(
                "OUT_OF_TIME",
                "the deadline passed while waiting for the device; use a longer one",
                stage="queue",
            )
            self._post(_answer, [(entry, Embedded(late)) for entry in taken.expired])

    def _execute(self, modality: Modality, batch: list[Entry]) -> None:
        """Run one batch and answer its callers, whatever happens."""
        self._busy_since = started = time.monotonic()
        too_large = False
        try:
            made = self._compute(modality, [entry.payload for entry in batch])
        except Exception as error:
            too_large = len(batch) > 1 and is_out_of_memory(error)
            made = [] if too_large else _failed(batch, error)
        except BaseException as error:  # the thread is about to die of it
            self._post(_answer, list(zip(batch, _failed(batch, error), strict=True)))
            raise
        finally:
            self._busy_since = None
        if too_large:
            # Not inside `except`: there the error's traceback keeps the failed pass's memory.
            self._split(modality, batch)
            return
        seconds = time.monotonic() - started
        self._metrics.batch_size.labels(modality).observe(len(batch))
        for entry, one in zip(batch, made, strict=True):
            one.queue_s = started - entry.queued_at
            one.inference_s = seconds
            one.batch_size = len(batch)
        self._post(_answer, list(zip(batch, made, strict=True)))

    def _split(self, modality: Modality, batch: list[Entry]) -> None:
        self._metrics.batch_splits.labels(modality).inc()
        logger.warning("batch does not fit into memory", extra={"size": len(batch)})
        half = len(batch) // 2
        self._execute(modality, batch[:half])
        self._execute(modality, batch[half:])

    def _compute(self, modality: Modality, payloads: Sequence[Any]) -> list[Embedded]:
        vectors = np.asarray(self._forward[modality](payloads))
        expected = (len(payloads), self._dimensions)
        if vectors.shape != expected:  # else vectors would be swapped between callers
            raise ValueError(f"the model returned shape {vectors.shape} instead of {expected}")
        units, norms = unit_rows(vectors)
        made = [Embedded(unit, norm) for unit, norm in zip(units, norms.tolist(), strict=True)]
        for one in made:
            if one.norm == 0:
                self._metrics.unusable_vectors.labels(modality).inc()
                one.vector = Internal(
                    "MODEL_FAILED", "the model returned no usable vector for this content"
                )
        return made

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody waits for this")


def _failed(batch: Sequence[Entry], error: BaseException) -> list[Embedded]:
    hidden = hide(error, "the model failed on this batch", logger, reason="MODEL_FAILED")
    return [Embedded(hidden) for _ in batch]


def _answer(answers: Sequence[tuple[Entry, Embedded]]) -> None:
    for entry, embedded in answers:
        entry.submission.answer(entry, embedded)


def _set_result(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_exception(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
