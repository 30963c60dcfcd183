"""Embed queries; cache the embeddings of texts, and share the calls of equal texts in flight.

A key has the model's fingerprint and everything else that decides the vector, so an entry is never
stale. Writes do not use the cache: they would only evict queries.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Counter, Gauge

from search_server.embedders.pool import EmbedderPool
from search_server.types.embeddings import EmbeddedItem, EmbedOptions, WorkerTimings
from search_server.types.searches import Notice
from sentinel_core.calls import Deadline, current_caller
from sentinel_core.errors import DeadlineExceeded, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_core.vectors import Role
from sentinel_store.items import Content, Kind
from sentinel_store.values import FloatArray


class TextKey(NamedTuple):  # hashed in each search, which is slower for a dataclass
    """What decides a text's vector; queries use the worker's default options otherwise.

    And the tenant, who must not notice by the time what others have searched for.
    """

    tenant: str
    fingerprint: str
    dimensions: int | None
    digest: bytes  # not the text, which may be long
    role: Role | None  # None if the model ignores it: then both roles share the entry


@dataclass(frozen=True, slots=True)
class _Space:
    """What a call asks for: a model, how many elements (None: the model's own), and a role."""

    fingerprint: str
    dimensions: int | None
    role: Role


@dataclass(slots=True)
class QueryEmbedding:
    """The embedding of one content of a query, or its error.

    Attributes:
        item: All callers share it; its vector is read-only.
        timings: Of the call that embedded it; None if the cache had it, or if the call failed.
        notices: What callers should know about the text; None until somebody has looked. The cache
            keeps them with the vector.
    """

    item: EmbeddedItem
    timings: WorkerTimings | None = None
    notices: tuple[Notice, ...] | None = None

    @property
    def vector(self) -> FloatArray | None:
        return self.item.vector

    @property
    def error(self) -> SentinelError | None:
        return self.item.error

    @property
    def cached(self) -> bool:
        """Whether the cache had it."""
        return self.timings is None and self.error is None

    @property
    def call_failed(self) -> bool:
        """Whether its error is no fault of this content."""
        return self.timings is None and self.error is not None


_Embeddings = dict[Hashable, QueryEmbedding]


@dataclass(slots=True, eq=False)
class _EmbedCall:
    """An Embed call in flight, and the number of callers that wait for it."""

    keys: list[Hashable]
    task: asyncio.Task[_Embeddings]
    waiters: int = 0


class QueryCache:
    """Embeds queries. Use inside one event loop."""

    def __init__(self, pool: EmbedderPool, max_entries: int, metrics: ServerMetrics) -> None:
        """Keep the `max_entries` vectors that were used last; 0 keeps none and shares no calls."""
        self._pool = pool
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, QueryEmbedding] = OrderedDict()
        self._in_flight: dict[Hashable, _EmbedCall] = {}
        prefix = f"sentinel_{metrics.process}_embedding_cache"
        self._lookups = Counter(
            f"{prefix}_lookups_total",
            "Text queries by where their embedding came from: hit, miss, or joined (the Embed "
            "call of an equal query that was under way).",
            ["outcome"],
            registry=metrics.registry,
        )
        self._hits = self._lookups.labels("hit")
        self._size = Gauge(
            f"{prefix}_entries", "Embeddings of text queries kept.", registry=metrics.registry
        )

    async def embed(
        self,
        contents: Sequence[Content],
        *,
        fingerprint: str,
        deadline: Deadline,
        role: Role = Role.QUERY,
        dimensions: int | None = None,
    ) -> list[QueryEmbedding]:
        """Return the embeddings of `contents`, in order; embed what is not cached in one call.

        `dimensions` is the number of elements of each vector; None: the model's own.

        An error of that call (`EmbedderPool.embed`) is the error of every content in it, but not
        of the cached ones. Errors are not cached.
        """
        space = _Space(fingerprint, dimensions, role)
        keys = self._keys(contents, space)
        wanted = dict(zip(keys, contents, strict=True))
        found = self._cached(wanted)
        while missing := {key: wanted[key] for key in wanted if key not in found}:
            await self._fill(found, missing, space, deadline)
        return [found[key] for key in keys]

    async def close(self) -> None:
        """Cancel the calls in flight."""
        tasks = {call.task for call in self._in_flight.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keys(self, contents: Sequence[Content], space: _Space) -> list[Hashable]:
        tenant = current_caller().tenant
        role = space.role if self._pool.is_asymmetric(space.fingerprint) else None
        keys: list[Hashable] = []
        for content in contents:
            if content.kind is Kind.TEXT and self._max_entries:
                digest = hashlib.sha256(content.data).digest()
                keys.append(TextKey(tenant, space.fingerprint, space.dimensions, digest, role))
            else:
                keys.append(object())  # equal to no other key
        return keys

    def _cached(self, wanted: Mapping[Hashable, Content]) -> _Embeddings:
        cached: _Embeddings = {}
        for key in wanted:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                self._hits.inc()
                cached[key] = entry
        return cached

    async def _fill(
        self,
        found: _Embeddings,
        missing: Mapping[Hashable, Content],
        space: _Space,
        deadline: Deadline,
    ) -> None:
        """Add to `found` the results of calls in flight, and of a new call for the rest."""
        own = self._start(missing, space, deadline)
        calls = {self._in_flight[key] for key in missing}
        for call in calls:
            call.waiters += 1
        try:
            for call in calls:
                mine = [key for key in call.keys if key in missing]
                try:
                    results = await _wait(call, deadline)
                except SentinelError as error:
                    late = isinstance(error, DeadlineExceeded) and call.task.done()
                    if call is own or not late:
                        found |= {
                            key: QueryEmbedding(EmbeddedItem(None, error=error)) for key in mine
                        }
                    # The caller that started this call had less time than we have: start a new one.
                    continue
                found |= {key: results[key] for key in mine}
        finally:
            for call in calls:
                self._leave(call)

    def _start(
        self, missing: Mapping[Hashable, Content], space: _Space, deadline: Deadline
    ) -> _EmbedCall | None:
        """Start a call for the keys that are in no call yet; return None if all of them are."""
        new = {key: content for key, content in missing.items() if key not in self._in_flight}
        texts = sum(isinstance(key, TextKey) for key in new)
        self._lookups.labels("joined").inc(len(missing) - len(new))
        self._lookups.labels("miss").inc(texts)
        if not new:
            return None
        # A task, so that it outlives the caller who started it while others wait.
        task = asyncio.create_task(self._embed(new, space, deadline))
        call = _EmbedCall(list(new), task)
        self._in_flight |= dict.fromkeys(new, call)
        task.add_done_callback(lambda _: self._on_end(call))
        return call

    async def _embed(
        self, new: Mapping[Hashable, Content], space: _Space, deadline: Deadline
    ) -> _Embeddings:
        answer = await self._pool.embed(
            list(new.values()),
            fingerprint=space.fingerprint,
            deadline=deadline,
            options=EmbedOptions(role=space.role, dimensions=space.dimensions),
        )
        results: _Embeddings = {}
        for key, item in zip(new, answer.items, strict=True):
            results[key] = QueryEmbedding(item, answer.timings)
            if item.vector is not None:
                item.vector.setflags(write=False)
                if isinstance(key, TextKey):
                    self._entries[key] = QueryEmbedding(item)
                    if len(self._entries) > self._max_entries:
                        self._entries.popitem(last=False)
                    self._size.set(len(self._entries))
        return results

    def _on_end(self, call: _EmbedCall) -> None:
        self._forget(call)
        if not call.task.cancelled():
            call.task.exception()  # read, even if all callers have left

    def _forget(self, call: _EmbedCall) -> None:
        for key in call.keys:
            if self._in_flight.get(key) is call:
                del self._in_flight[key]

    def _leave(self, call: _EmbedCall) -> None:
        call.waiters -= 1
        if not call.waiters and not call.task.done():
            call.task.cancel()
            self._forget(call)  # now, or the next caller would join it


async def _wait(call: _EmbedCall, deadline: Deadline) -> _Embeddings:
    # Not awaited directly: a caller who leaves must not cancel the call.
    done, _ = await asyncio.wait({call.task}, timeout=deadline.for_next_hop("embed"))
    if not done:
        raise DeadlineExceeded(
            "OUT_OF_TIME",
            "the query was not embedded in time; use a longer deadline",
            stage="embed",
        )
    try:
        return call.task.result()
    except SentinelError as error:
        raise error.at(error.field) from error  # a copy for each caller
