"""Embeddings of text queries that were asked for before, or are being asked for right now.

A key holds the model's fingerprint and all that decides the vector, so an entry can never be
stale: another model has other keys. Ingest does not come here; it would only push queries out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

from search_server.embedders.pool import EmbedderPool
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Kind
from sentinel_store.values import FloatArray


@dataclass(frozen=True, slots=True)
class TextKey:
    """What decides a text's vector; queries are embedded with the worker's default options."""

    fingerprint: str
    digest: bytes  # and not the text, which may be long


@dataclass(frozen=True, slots=True)
class QueryEmbedding:
    """What became of one content of a query.

    Attributes:
        vector: float32 `[dimensions]`, L2-normalised, read-only; None with `error`.
        error: Why this content could not be embedded; shared by all who asked for it.
        cached: Whether it was there already.
    """

    vector: FloatArray | None = None
    error: SentinelError | None = None
    cached: bool = False


@dataclass(slots=True)
class QueryEmbeddings:
    """One embedding per content, in order; seconds on the worker, None when it was not asked."""

    items: list[QueryEmbedding]
    queue_s: float | None = None
    inference_s: float | None = None


@dataclass(slots=True)
class _Landed:
    """What an Embed call brought, by key."""

    items: dict[Hashable, QueryEmbedding] = field(default_factory=dict)
    queue_s: float | None = None
    inference_s: float | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    """One Embed call under way, and how many callers wait for it."""

    keys: list[Hashable]
    task: asyncio.Task[_Landed]
    waiters: int = 0


class EmbeddingCache:
    """Embeds queries. Use inside one event loop."""

    def __init__(self, pool: EmbedderPool, max_entries: int, metrics: ServerMetrics) -> None:
        """Begin empty.

        Args:
            pool: Embeds what is not there.
            max_entries: Vectors to keep; the least recently used goes first. 0: none, and equal
                queries are embedded each for itself.
            metrics: Tells hits, misses and entries.
        """
        self._pool = pool
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, FloatArray] = OrderedDict()
        self._flying: dict[Hashable, _Flight] = {}
        prefix = f"sentinel_{metrics.process}_embedding_cache"
        self._lookups = Counter(
            f"{prefix}_lookups_total",
            "Text queries by where their embedding came from: hit, miss, or joined (the Embed "
            "call of an equal query that was under way).",
            ["outcome"],
            registry=metrics.registry,
        )
        self._size = Gauge(
            f"{prefix}_entries", "Embeddings of text queries kept.", registry=metrics.registry
        )

    async def embed(
        self, contents: Sequence[Content], *, fingerprint: str, deadline: Deadline
    ) -> QueryEmbeddings:
        """Return the embeddings of `contents`; what is not known is embedded in one call.

        What that call raises (`EmbedderPool.embed`) is the error of every content in it, and not
        of those that were known. Nothing is kept of a failure.
        """
        keys = [self._key(content, fingerprint) for content in contents]
        wanted = dict(zip(keys, contents, strict=True))
        answer = _Landed(self._known(wanted))
        while missing := {key: wanted[key] for key in wanted if key not in answer.items}:
            await self._fill(answer, missing, fingerprint, deadline)
        return QueryEmbeddings(
            [answer.items[key] for key in keys], answer.queue_s, answer.inference_s
        )

    async def close(self) -> None:
        """End the calls under way."""
        tasks = {flight.task for flight in self._flying.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _key(self, content: Content, fingerprint: str) -> Hashable:
        if content.kind is Kind.TEXT and self._max_entries:
            return TextKey(fingerprint, hashlib.sha256(content.data).digest())
        return object()  # equal to no other

    def _known(self, wanted: Mapping[Hashable, Content]) -> dict[Hashable, QueryEmbedding]:
        known: dict[Hashable, QueryEmbedding] = {}
        for key in wanted:
            vector = self._entries.get(key)
            if vector is not None:
                self._entries.move_to_end(key)
                self._lookups.labels("hit").inc()
                known[key] = QueryEmbedding(vector, cached=True)
        return known

    async def _fill(
        self,
        answer: _Landed,
        missing: Mapping[Hashable, Content],
        fingerprint: str,
        deadline: Deadline,
    ) -> None:
        """Add to `answer` what the calls bring that are under way, and one for all the rest."""
        own = self._begin(missing, fingerprint, deadline)
        flights = {self._flying[key] for key in missing}
        for flight in flights:
            flight.waiters += 1
        try:
            for flight in flights:
                mine = [key for key in flight.keys if key in missing]
                try:
                    landed = await _landing(flight, deadline)
                except SentinelError as error:
                    late = isinstance(error, DeadlineExceeded) and flight.task.done()
                    if flight is own or not late:
                        answer.items |= {key: QueryEmbedding(error=error) for key in mine}
                    # Else whoever began it had less time than we have, and it is begun anew.
                    continue
                answer.items |= {key: landed.items[key] for key in mine}
                answer.queue_s, answer.inference_s = landed.queue_s, landed.inference_s
        finally:
            for flight in flights:
                self._leave(flight)

    def _begin(
        self, missing: Mapping[Hashable, Content], fingerprint: str, deadline: Deadline
    ) -> _Flight | None:
        """Begin a call for what is not under way yet; None when all of it is."""
        new = {key: content for key, content in missing.items() if key not in self._flying}
        texts = sum(isinstance(key, TextKey) for key in new)
        self._lookups.labels("joined").inc(len(missing) - len(new))
        self._lookups.labels("miss").inc(texts)
        if not new:
            return None
        # A task of its own, so that it outlives the caller who began it while others wait.
        task = asyncio.create_task(self._embed(new, fingerprint, deadline))
        flight = _Flight(list(new), task)
        self._flying |= dict.fromkeys(new, flight)
        task.add_done_callback(lambda _: self._end(flight))
        return flight

    async def _embed(
        self, new: Mapping[Hashable, Content], fingerprint: str, deadline: Deadline
    ) -> _Landed:
        answer = await self._pool.embed(
            list(new.values()), fingerprint=fingerprint, deadline=deadline
        )
        landed = _Landed({}, answer.queue_s, answer.inference_s)
        for key, item in zip(new, answer.items, strict=True):
            landed.items[key] = QueryEmbedding(item.vector, item.error)
            if item.vector is not None:
                item.vector.setflags(write=False)
                if isinstance(key, TextKey):
                    self._keep(key, item.vector)
        return landed

    def _keep(self, key: TextKey, vector: FloatArray) -> None:
        self._entries[key] = vector
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        self._size.set(len(self._entries))

    def _end(self, flight: _Flight) -> None:
        self._forget(flight)
        if not flight.task.cancelled():
            flight.task.exception()  # read, even if everybody who waited has left

    def _forget(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flying.get(key) is flight:
                del self._flying[key]

    def _leave(self, flight: _Flight) -> None:
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            flight.task.cancel()
            self._forget(flight)  # now, or the next caller would board it


async def _landing(flight: _Flight, deadline: Deadline) -> _Landed:
    # Not awaited directly: a caller who leaves must not take the call down with it.
    done, _ = await asyncio.wait({flight.task}, timeout=deadline.for_next_hop("embed"))
    if not done:
        raise DeadlineExceeded(
            "OUT_OF_TIME",
            "the query was not embedded in time; use a longer deadline",
            stage="embed",
        )
    try:
        return flight.task.result()
    except SentinelError as error:
        raise error.at(error.field) from error  # each caller its own
