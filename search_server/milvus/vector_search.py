"""Search vectors in Milvus; share one call among searches that differ only in the vector.

A graph or cluster index finds the nearest few well, but not always the nearest thousands. Measured
on server 2.3.5 (30,000 rows of 384 dimensions): the nearest 2,000 by HNSW with its own `ef` were
95 % complete, with twice as much 99.6 %; a growing segment returned 4,446 of 10,000 rows, whatever
the parameters. A range search (`radius`) looks at every row. It found all of them, at a cost that
grows with the rows, and has gaps of its own (811 of 1,000 rows under a filter). So `rank` merges
both if there are few rows or if some are missing.

A collection with rescoring gets its scores from `StoredVectors`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from search_server.milvus.stored_vectors import StoredVectors, candidates_for
from search_server.types.searches import Candidate, ScoredId, Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.vectors import Element
from sentinel_store.collections import VectorStorage
from sentinel_store.items import Row
from sentinel_store.milvus import errors, field_columns, indexes, schema, vector_columns
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.values import Consistency, FloatArray

# A row has at most 0.13 MB (text, fields, 2,048 dimensions): 500 of them stay below the 100 MiB
# that a Milvus server puts into one answer.
ROWS_PER_CALL = 500
# A range search with this radius finds every row; no cosine is less.
EVERYTHING = -1.01
# Up to this many rows, a deep ranking looks at all of them; some 1.5 us each, on two busy cores.
MOST_ROWS_BY_RANGE = 100_000

# The search parameters that a caller may set, whatever the index, and Milvus's greatest values. An
# index ignores the ones that it does not use.
_MAX_INDEX_PARAMS = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
# Milvus refuses these below the number of hits.
_AT_LEAST_LIMIT = ("ef", "search_list")
# Calls with equal keys that run at once; further searches wait and share the next one.
_MAX_CALLS = 2

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Request:
    """A Milvus search without its vectors; searches with equal requests can share a call."""

    collection: str
    limit: int
    expression: str
    output_fields: tuple[str, ...]
    consistency: Consistency
    params: tuple[tuple[str, float], ...]
    storage: VectorStorage


class VectorSearch:
    """Searches vectors. Use from one event loop."""

    def __init__(self, store: MilvusStore) -> None:
        self._milvus = store.connection
        self._count = store.count
        self._get = store.get
        self._stored = StoredVectors(store.connection)
        self._shared: SharedCalls[_Request, Any] = SharedCalls(self._call)

    async def search(
        self,
        selection: Selection,
        vectors: Sequence[FloatArray],
        *,
        limit: int,
        include_vectors: bool,
    ) -> list[list[tuple[Row, float]]]:
        """Return up to `limit` rows for each vector, with their cosines, best first.

        A single vector may share its Milvus call with those of other callers.
        """
        collection = selection.collection
        if _reads_apart(collection.storage, include_vectors):
            return await self._search_then_read(selection, vectors, limit, include_vectors)
        request = _request(selection, limit, schema.output_fields(include_vectors))
        found = await self._found(request, vectors, selection.deadline)
        return [
            [(schema.from_entity(hit["entity"], collection), _cosine(hit)) for hit in hits]
            for hits in found
        ]

    async def _search_then_read(
        self,
        selection: Selection,
        vectors: Sequence[FloatArray],
        limit: int,
        include_vectors: bool,
    ) -> list[list[tuple[Row, float]]]:
        rankings = await self.nearest_ids(selection, vectors, limit=limit)
        ids = list(dict.fromkeys(item_id for ranking in rankings for item_id, _ in ranking))
        found = await self._get(
            selection.collection,
            ids,
            selection.deadline,
            include_vectors=include_vectors,
            consistency=selection.consistency,
        )
        rows = {row.id: row for row in found}
        return [
            [(rows[one], score) for one, score in ranking if one in rows] for ranking in rankings
        ]

    async def nearest_ids(
        self,
        selection: Selection,
        vectors: Sequence[FloatArray],
        *,
        limit: int,
    ) -> list[list[ScoredId]]:
        """Return up to `limit` ids, at most 16,384, for each vector, with cosines, best first."""
        rescore = selection.collection.storage.rescore
        found = await self._nearest(selection, vectors, candidates_for(limit) if rescore else limit)
        if not rescore:
            return found
        ids = [[item_id for item_id, _ in ranking] for ranking in found]
        scored = await self._stored.scored(selection, vectors, ids)
        return [ranking[:limit] for ranking in scored]

    async def _nearest(
        self,
        selection: Selection,
        vectors: Sequence[FloatArray],
        limit: int,
        radius: float | None = None,
    ) -> list[list[ScoredId]]:
        """Return ids with Milvus's scores. With `radius`, do a range search for greater cosines.

        A plain search may miss rows.
        """
        request = _request(selection, limit, ["id"], radius)
        found = await self._found(request, vectors, selection.deadline)
        return [[(hit["id"], _cosine(hit)) for hit in hits] for hits in found]

    async def rank(self, selection: Selection, vector: FloatArray, *, limit: int) -> list[ScoredId]:
        """Return up to `limit` ids with their cosines, best first.

        If the index misses rows, or if there are few rows, add what a range search finds.
        """
        rescore = selection.collection.storage.rescore
        most = candidates_for(limit) if rescore else limit
        found = await self._ranked_by_milvus(selection, vector, most)
        if rescore:
            ids = [item_id for item_id, _ in found]
            [found] = await self._stored.scored(selection, [vector], [ids])
        return found[:limit]

    async def _ranked_by_milvus(
        self, selection: Selection, vector: FloatArray, limit: int
    ) -> list[ScoredId]:
        [nearest] = await self._nearest(selection, [vector], limit)
        if self._milvus.is_lite:
            return nearest  # FLAT is exact, and a range only filters what another index found
        # Nothing is missing if it found `limit` rows, or all rows.
        matching = await self._matching(selection)
        if len(nearest) >= min(limit, matching) and matching > MOST_ROWS_BY_RANGE:
            return nearest
        [in_range] = await self._nearest(selection, [vector], limit, EVERYTHING)
        scores = dict(in_range) | dict(nearest)
        return sorted(scores.items(), key=lambda one: -one[1])[:limit]

    async def candidates(
        self,
        selection: Selection,
        vector: FloatArray,
        *,
        limit: int,
        include_vectors: bool,
        field: str,
    ) -> list[Candidate]:
        """Return up to `limit` candidates for reranking `vector`, `[dimensions]`, in any order.

        They get their value of `field`, a declared STRING, INT64 or BOOL field; empty: of none.
        """
        storage = selection.collection.storage
        vectors_apart = _reads_apart(storage, include_vectors)
        columns = ["id"]
        if include_vectors and not vectors_apart:
            columns.append("vector")
        column, absent = "", None
        if field:
            column = field_columns.column_of(field)
            absent = field_columns.absent_marker(selection.collection.fields[field])
            columns.append(column)
        [found] = await self._call(
            _request(selection, limit, columns), [vector], selection.deadline
        )
        vectors: dict[str, FloatArray] = {}
        if vectors_apart:
            vectors = await self._stored.of(selection, [hit["id"] for hit in found])
            found = [hit for hit in found if hit["id"] in vectors]
        candidates = []
        for hit in found:
            entity, score = hit["entity"], _cosine(hit)
            value = entity[column] if column else None
            stored = vectors.get(hit["id"])
            if storage.rescore and stored is not None:
                score = float(np.clip(stored @ vector, -1.0, 1.0))
            elif stored is None and include_vectors:
                stored = vector_columns.from_column(entity["vector"], storage)
            candidates.append(
                Candidate(
                    id=hit["id"],
                    score=score,
                    vector=stored if include_vectors else None,
                    value=None if value == absent else value,
                )
            )
        return candidates

    async def found_all(self, selection: Selection, found: int) -> bool:
        """Tell whether a search that found `found` rows found every row that matches."""
        if self._milvus.is_lite:
            return True  # or there is no way to find more
        return found >= await self._matching(selection)

    async def _matching(self, selection: Selection) -> int:
        return await self._count(
            selection.collection,
            selection.expression,
            selection.deadline,
            consistency=selection.consistency,
        )

    async def _found(
        self, request: _Request, vectors: Sequence[FloatArray], deadline: Deadline
    ) -> Any:
        if len(vectors) > 1:
            return await self._call(request, vectors, deadline)
        most = max(1, ROWS_PER_CALL // request.limit)
        return [await self._shared.search(request, vectors[0], deadline, most=most)]

    async def _call(
        self, request: _Request, vectors: Sequence[FloatArray], deadline: Deadline
    ) -> Any:
        return await self._milvus.search(
            request.collection,
            deadline,
            consistency=request.consistency,
            data=vector_columns.to_query(vectors, request.storage),
            anns_field="vector",
            filter=request.expression,
            limit=request.limit,
            output_fields=list(request.output_fields),
            search_params={"metric_type": "COSINE", "params": dict(request.params)},
        )


def _reads_apart(storage: VectorStorage, include_vectors: bool) -> bool:
    """Tell whether a search needs vectors and leaves them to a read by id.

    Milvus Lite 2.5 fails to send 16-bit vectors with hits; a read by id works everywhere.
    """
    return storage.rescore or (include_vectors and storage.element is not Element.FLOAT32)


def check_index_params(params: Mapping[str, int]) -> None:
    """Raise InvalidArgument if a search parameter is unknown or out of its range."""
    for name, value in params.items():
        if name not in _MAX_INDEX_PARAMS:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"no index has a search parameter {name[:50]!r}; use one of "
                f"{', '.join(_MAX_INDEX_PARAMS)}",
                field="params.index_params",
            )
        if not 1 <= value <= _MAX_INDEX_PARAMS[name]:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"{name} is {value}; it must be 1 to {_MAX_INDEX_PARAMS[name]}",
                field=f"params.index_params[{name}]",
            )


def _request(
    selection: Selection, limit: int, output_fields: Sequence[str], radius: float | None = None
) -> _Request:
    params: dict[str, float] = dict(indexes.search_params(selection.collection.index, limit))
    for name, value in selection.index_params.items():
        params[name] = max(value, limit) if name in _AT_LEAST_LIMIT else value
    if radius is not None:
        params["radius"] = radius
    return _Request(
        selection.collection.name,
        limit,
        selection.expression,
        tuple(output_fields),
        selection.consistency,
        tuple(sorted(params.items())),
        selection.collection.storage,
    )


def _cosine(hit: Any) -> float:
    """Return a hit's score; rounding takes the cosine of equal vectors a little over 1."""
    distance: float = hit["distance"]
    return distance if -1.0 <= distance <= 1.0 else max(-1.0, min(1.0, distance))


@dataclass(eq=False, slots=True)
class _Waiter(Generic[R]):
    """A search that waits for a shared call, or for its answer."""

    vector: FloatArray
    deadline: Deadline
    answer: asyncio.Future[R]


@dataclass(slots=True)
class _Queue(Generic[R]):
    """The searches with one key."""

    max_vectors: int
    running: int = 0
    waiting: deque[_Waiter[R]] = field(default_factory=deque)


class SharedCalls(Generic[K, R]):
    """Answers several searches by one Milvus call if they differ in nothing but the vector.

    A call costs Milvus and us more than one more vector in it: 32 concurrent callers get about
    twice as many answers this way (docs/adr/0014). While fewer than two calls run, a search makes
    its own call at once. Otherwise it waits until a call ends; the next call takes all that wait.
    Use from one event loop.

    Args:
        call: Searches for several vectors; returns one answer for each, in order.
    """

    def __init__(
        self, call: Callable[[K, list[FloatArray], Deadline], Awaitable[Sequence[R]]]
    ) -> None:
        self._call = call
        self._queues: dict[K, _Queue[R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def search(self, key: K, vector: FloatArray, deadline: Deadline, *, most: int) -> R:
        """Return the answer to one search; a call with this key has at most `most` vectors.

        Raises:
            SentinelError: Errors of `call`, or DeadlineExceeded if `deadline` passes first.
        """
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(most)
        if queue.running >= _MAX_CALLS:
            return await _wait(queue, vector, deadline)
        queue.running += 1
        try:
            [answer] = await self._call(key, [vector], deadline)
        finally:
            self._on_end(key, queue)
        return answer

    def _on_end(self, key: K, queue: _Queue[R]) -> None:
        """Start calls for the searches that wait, after a call has ended."""
        queue.running -= 1
        while queue.waiting and queue.running < _MAX_CALLS:
            batch: list[_Waiter[R]] = []
            while queue.waiting and len(batch) < queue.max_vectors:
                waiter = queue.waiting.popleft()
                if not waiter.answer.done():
                    batch.append(waiter)
            if batch:
                self._start(key, queue, batch)
        if not queue.running:
            self._queues.pop(key, None)

    def _start(self, key: K, queue: _Queue[R], batch: Sequence[_Waiter[R]]) -> None:
        queue.running += 1
        task = asyncio.create_task(self._run(key, batch))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:  # even if it was cancelled before it began
            self._tasks.discard(task)
            self._on_end(key, queue)

        task.add_done_callback(ended)
        _cancel_when_all_leave(task, batch)

    async def _run(self, key: K, batch: Sequence[_Waiter[R]]) -> None:
        latest = max((waiter.deadline for waiter in batch), key=lambda deadline: deadline.at)
        try:
            answers = await self._call(key, [waiter.vector for waiter in batch], latest)
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            for waiter in batch:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)
        else:
            for waiter, answer in pairs:
                if not waiter.answer.done():
                    waiter.answer.set_result(answer)


async def _wait(queue: _Queue[R], vector: FloatArray, deadline: Deadline) -> R:
    patience = deadline.for_next_hop("milvus")
    answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    queue.waiting.append(_Waiter(vector, deadline, answer))
    try:
        async with asyncio.timeout(patience):
            return await answer  # cancelled with this task, so the call knows that it left
    except TimeoutError as error:
        raise errors.out_of_time() from error
    except SentinelError as error:
        raise error.at(error.field) from error  # a copy for each caller


def _cancel_when_all_leave(task: asyncio.Task[None], batch: Sequence[_Waiter[R]]) -> None:
    left = len(batch)

    def done(answer: asyncio.Future[R]) -> None:
        nonlocal left
        left -= 1
        if not left and answer.cancelled():
            task.cancel()  # has no effect on a finished task

    for waiter in batch:
        waiter.answer.add_done_callback(done)
