"""Distribute Embed calls over the workers: choose the best, fail over, isolate bad contents."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce

from prometheus_client import Counter

from search_server.embedders.choice import choose
from search_server.embedders.connection import WorkerAccess
from search_server.embedders.fleet import Fleet
from search_server.embedders.load import CallSize
from search_server.embedders.quarantine import Quarantine
from search_server.embedders.worker import ServedModel, Worker, WorkerLost, call_size
from search_server.types.embeddings import Embedded, EmbeddedItem, EmbedOptions, WorkerTimings
from sentinel_core.calls import Deadline, together
from sentinel_core.errors import (
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    SentinelError,
    Unavailable,
)
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Kind
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

_SPREAD_S = 0.5
_DEFAULTS = EmbedOptions()


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


@dataclass(frozen=True, slots=True)
class _Call:
    """What all parts of one `EmbedderPool.embed` have in common."""

    fingerprint: str
    deadline: Deadline
    options: EmbedOptions


class EmbedderPool:
    """Use inside one event loop.

    Args:
        entries: `host:port`; `dns:///name:port` for one worker per address of the name;
            `file:///path` for one per line of a file.
        max_message_bytes: Largest message to or from a worker.
        access: How this gateway proves itself to workers, and they to it; None: not at all.

    Attributes:
        fleet: The workers; their health is known only while it runs.
    """

    def __init__(
        self,
        entries: Sequence[str],
        max_message_bytes: int,
        metrics: ServerMetrics,
        access: WorkerAccess | None = None,
    ) -> None:
        self.fleet = Fleet(entries, max_message_bytes, metrics, access or WorkerAccess())
        self._max_call_bytes = max_message_bytes - max_message_bytes // 16  # the rest is framing
        self._quarantine = Quarantine(metrics)
        self._known: dict[str, ServedModel] = {}  # by fingerprint
        self._failures = Counter(
            f"sentinel_{metrics.process}_worker_failures_total",
            "Embed calls that a worker failed, by error reason; most go to another worker.",
            ["reason"],
            registry=metrics.registry,
        )

    @property
    def any_healthy(self) -> bool:
        return any(worker.healthy for worker in self.fleet.workers)

    @property
    def _any_unknown(self) -> bool:
        return any(worker.may_serve_any_model for worker in self.fleet.workers)

    def model(self, wanted: ModelRef | None = None) -> ServedModel:
        """Return a served model: the first, or the one that matches `wanted`.

        Raises:
            Unavailable: No worker is healthy, or one that may serve `wanted` has not told yet.
            FailedPrecondition: No healthy worker serves `wanted`.
        """
        served = self._served()
        for one in served:
            if wanted is None or matches(one.model, wanted):
                return one
        if wanted is None or not served or self._any_unknown:
            raise self._no_healthy_worker()
        raise self._mismatch(wanted.fingerprint or wanted.model)

    def model_besides(self, fingerprint: str, wanted: ModelRef | None) -> ServedModel:
        """Return the only served model other than `fingerprint`.

        Args:
            fingerprint: The model to leave out.
            wanted: Chooses among the others; None: there must be only one.

        Raises:
            Unavailable: No worker is healthy, or one that may serve such a model has not told
                yet.
            FailedPrecondition: No healthy worker serves such a model, or they serve several.
        """
        served = {one.model.fingerprint: one for one in self._served()}
        if not served:
            raise self._no_healthy_worker()
        others = [
            one
            for one in served.values()
            if one.model.fingerprint != fingerprint
            and (wanted is None or matches(one.model, wanted))
        ]
        if len(others) == 1:
            return others[0]
        if not others and self._any_unknown:
            raise self._no_healthy_worker()
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

    def named(self, name: str) -> list[ServedModel]:
        """Return what each healthy worker says of one model: the first, or the one of this name.

        Raises:
            Unavailable: No worker is healthy, or one that may serve `name` has not told yet.
            NotFound: No healthy worker serves `name`.
        """
        served = self._served()
        found = [one for one in served if name in ("", one.model.model)]
        if found:
            fingerprint = found[0].model.fingerprint
            return [one for one in found if one.model.fingerprint == fingerprint]
        if not served or self._any_unknown:
            raise self._no_healthy_worker()
        known = ", ".join(sorted({one.model.model for one in served}))
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"no worker serves {name[:100]!r}; use one of {known}, or leave it empty",
            model=name,
        )

    def is_asymmetric(self, fingerprint: str) -> bool:
        """Return whether vectors of this model depend on the role; True until a worker has told."""
        known = self.known(fingerprint)
        return True if known is None else known.details.asymmetric

    def known(self, fingerprint: str) -> ServedModel | None:
        """Return what a worker has told of a model, which never changes; None until one has."""
        if fingerprint not in self._known:
            told = (worker.served for worker in self.fleet.workers if worker.served)
            self._known |= {one.model.fingerprint: one for one in told}
        return self._known.get(fingerprint)

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
        return [worker.served for worker in self.fleet.workers if worker.healthy and worker.served]

    async def embed(
        self,
        contents: Sequence[Content],
        *,
        fingerprint: str,
        deadline: Deadline,
        options: EmbedOptions = _DEFAULTS,
    ) -> Embedded:
        """Embed a batch, in one call unless a worker takes less in one call.

        Contents that were at a worker when it was lost are tried alone (`Quarantine`); one that
        ends a worker again fails by itself with CONTENT_POISONOUS.

        Raises:
            FailedPrecondition: No worker serves this model.
            Unavailable: No worker that serves it is healthy.
            ResourceExhausted: All of them are full; with the shortest time until one has room.
            DeadlineExceeded: Time ran out.
            InvalidArgument: A worker does not accept the options.
        """
        call = _Call(fingerprint, deadline, options)
        if not self._quarantine.holds_any:
            return _joined(await self._embed_together(contents, call), fingerprint)
        keys = await self._quarantine.keys(contents, fingerprint)
        suspects = [self._quarantine.is_suspect(key) for key in keys]
        usual = [one for one, suspect in zip(contents, suspects, strict=True) if not suspect]
        alone = [one for one, suspect in zip(contents, suspects, strict=True) if suspect]
        answers = await together(
            [self._embed_together(usual, call), self._embed_each_alone(alone, call)]
        )
        joined = [_joined(answer, fingerprint) for answer in answers]
        of_usual, of_alone = (iter(answer.items) for answer in joined)
        items = [next(of_alone) if suspect else next(of_usual) for suspect in suspects]
        return replace(_joined(joined, fingerprint), items=items)

    async def _embed_together(self, contents: Sequence[Content], call: _Call) -> list[Embedded]:
        """Embed contents in as few calls as the workers' limits allow; answers in order."""
        limits = (
            worker.served.max_contents
            for worker in self.fleet.workers
            if worker.served and worker.served.model.fingerprint == call.fingerprint
        )
        if not contents:
            return []
        parts = split(contents, min(limits, default=len(contents)), self._max_call_bytes)
        if len(parts) == 1:  # the usual search: avoids a task
            return await self._embed_part(parts[0], call)
        answers = await together([self._embed_part(part, call) for part in parts])
        return [one for answer in answers for one in answer]

    async def _embed_part(self, contents: Sequence[Content], call: _Call) -> list[Embedded]:
        try:
            return [await self._ask(contents, call)]
        except WorkerLost as lost:
            keys = await self._quarantine.keys(contents, call.fingerprint)
            self._quarantine.suspect(keys)
            return await self._embed_each_alone(contents, call, lost.error)

    async def _embed_each_alone(
        self, contents: Sequence[Content], call: _Call, last: SentinelError | None = None
    ) -> list[Embedded]:
        """Embed suspect contents one by one, each kind by itself; answers in order.

        `last` is why they are suspect, just now; it is raised if no other worker is there.
        """
        if last is not None:
            # Other gateways have lost the same worker at this moment. Their suspects would meet
            # ours at the next one, and an innocent would be taken for the one that ends it.
            await asyncio.sleep(random.uniform(0, min(_SPREAD_S, call.deadline.remaining() / 4)))
        keys = await self._quarantine.keys(contents, call.fingerprint)
        answers: dict[int, Embedded] = {}

        async def embed_all(kind: Kind) -> None:
            for position, content in enumerate(contents):
                if content.kind is kind:
                    answers[position] = await self._embed_alone(content, keys[position], call, last)

        await together([embed_all(kind) for kind in Kind])
        return [answers[position] for position in range(len(contents))]

    async def _embed_alone(
        self, content: Content, key: bytes, call: _Call, last: SentinelError | None
    ) -> Embedded:
        """Embed one suspect content; answer with its error if it is rejected."""
        rejected = self._quarantine.rejection(key)
        if rejected is None:
            async with self._quarantine.turn(content.kind, call.deadline):
                rejected = self._quarantine.rejection(key)
                if rejected is None:
                    return await self._try(content, key, call, last)
        return Embedded([EmbeddedItem(None, error=rejected)], call.fingerprint)

    async def _try(
        self, content: Content, key: bytes, call: _Call, last: SentinelError | None
    ) -> Embedded:
        # Not as bulk work: it keeps other suspects waiting.
        call = replace(call, options=replace(call.options, bulk=False))
        while True:
            try:
                embedded = await self._ask([content], call, last, alone=True)
            except WorkerLost as lost:
                last = lost.error
                # Of a text and an image that are tried at once, the image is to blame: decoding is
                # the greater danger.
                if content.kind is Kind.TEXT and Kind.IMAGE in lost.on_trial:
                    continue
                rejected = self._quarantine.lose(key, ended=lost.ended)
                if rejected is None:
                    raise last from None
                return Embedded([EmbeddedItem(None, error=rejected)], call.fingerprint)
            self._quarantine.clear(key)
            return embedded

    async def _ask(
        self,
        contents: Sequence[Content],
        call: _Call,
        last: SentinelError | None = None,
        *,
        alone: bool = False,
    ) -> Embedded:
        """Embed on the worker that should answer first; if it cannot, on the next one.

        Raises:
            WorkerLost: A worker was lost, and its contents may be the reason.
        """
        size = call_size(contents, bulk=call.options.bulk)
        tried: list[Worker] = []
        cut = False
        while (worker := choose(self.fleet.workers, call.fingerprint, size, tried)) is not None:
            tried.append(worker)
            if alone:
                await worker.check()  # or a worker that has ended just before would be blamed on it
                if not worker.healthy:
                    continue
            try:
                embedded = await _embed_on(worker, contents, call, alone=alone)
            except WorkerLost as lost:
                self._note_failure(worker, lost.error)
                last = lost.error
                await worker.find_out(lost)
                if not lost.survived:
                    raise
                if worker.healthy and not cut:  # only the connection was cut
                    cut = True
                    tried.remove(worker)
            except (Unavailable, ResourceExhausted, Internal) as error:
                self._note_failure(worker, error)
                last = error
            else:
                if embedded.fingerprint == call.fingerprint:
                    return embedded
                # The worker was restarted with another model between two health checks.
                worker.forget_model()
                last = None
        raise (
            self._shortest_refusal(call.fingerprint, size)
            or last
            or self._no_worker_for(call.fingerprint)
        )

    def _note_failure(self, worker: Worker, error: SentinelError) -> None:
        self._failures.labels(error.reason).inc()
        if not isinstance(error, ResourceExhausted):  # under load, that is no news
            logger.warning(
                "worker failed a batch", extra={"worker": worker.address, "reason": error.reason}
            )

    def _shortest_refusal(self, fingerprint: str, size: CallSize) -> ResourceExhausted | None:
        """Return the refusal of the full worker that has room first; None if none is full."""
        refusals = [
            refusal
            for worker in self.fleet.workers
            if worker.healthy and worker.fingerprint == fingerprint
            if (refusal := worker.load.refusal(size)) is not None
        ]
        return min(refusals, key=lambda refusal: refusal.retry_after_s or 0.0, default=None)

    def _no_worker_for(self, fingerprint: str) -> SentinelError:
        known = any(worker.fingerprint == fingerprint for worker in self.fleet.workers)
        if known or not self.any_healthy or self._any_unknown:
            return self._no_healthy_worker()
        return self._mismatch(fingerprint)

    def _no_healthy_worker(self) -> Unavailable:
        return Unavailable(
            "NO_HEALTHY_WORKER",
            "no embedder worker of this model is serving "
            f"(configured: {self.fleet.configured}); start one or retry",
        )

    def _mismatch(self, expected: str) -> FailedPrecondition:
        actual = sorted(
            {worker.fingerprint or "" for worker in self.fleet.workers if worker.healthy}
        )
        return FailedPrecondition(
            "MODEL_MISMATCH",
            "the workers serve another model than the collection's; start a worker with its model, "
            "or index into a new collection",
            expected=expected,
            actual=",".join(actual),
        )


def split(contents: Sequence[Content], most_items: int, most_bytes: int) -> list[Sequence[Content]]:
    """Split `contents` into parts of at most `most_items` items and `most_bytes` bytes.

    A content of more bytes is a part of its own.
    """
    if len(contents) <= most_items and sum(one.size for one in contents) <= most_bytes:
        return [contents]
    parts: list[list[Content]] = []
    size = 0
    for content in contents:
        size += content.size
        if not parts or len(parts[-1]) == most_items or size > most_bytes:
            parts.append([])
            size = content.size
        parts[-1].append(content)
    return list(parts)


def matches(model: ModelRef, wanted: ModelRef) -> bool:
    """Tell whether `model` has the fingerprint of `wanted`, or its name if that has none."""
    if wanted.fingerprint:
        return model.fingerprint == wanted.fingerprint
    return not wanted.model or model.model == wanted.model


async def _embed_on(
    worker: Worker, contents: Sequence[Content], call: _Call, *, alone: bool
) -> Embedded:
    with worker.load.trial(contents[0].kind) if alone else nullcontext():
        return await worker.embed(
            contents,
            call.options,
            timeout_s=call.deadline.for_next_hop("embed"),
        )


def _joined(answers: Sequence[Embedded], fingerprint: str) -> Embedded:
    if len(answers) == 1:
        return answers[0]
    return Embedded(
        items=[item for answer in answers for item in answer.items],
        fingerprint=fingerprint,
        timings=reduce(WorkerTimings.longest, (one.timings for one in answers), WorkerTimings()),
    )
