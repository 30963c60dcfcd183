"""Searches of vectors: the nearest few with their rows, or thousands by id and cosine.

Several searches by one Milvus call, where they differ in nothing but the vector.

A call costs Milvus and us more than a vector in it: 32 callers at once get about twice as many
answers so (docs/adr/0014). A search that finds few others under way has a call of its own, at
once; only one that would be one too many waits, until a call ends, and takes all that wait along.


How Milvus is told to search: consistency levels, parameters of the index, deep rankings.

A graph or cluster index finds the nearest few well and the nearest thousands not always. Measured
on server 2.3.5 (30,000 rows of 384 dimensions): the nearest 2,000 by HNSW with its own `ef` were
95 % complete, with twice as much 99.6 %; a segment that still grows returned 4,446 rows when
asked for 10,000, whatever the parameters. A search by range (`radius`) looks at every row: it
found them all, at a cost that grows with the rows, and has gaps of its own elsewhere (811 of 1,000
rows under a filter). So a deep ranking takes both, where rows are few or some are missing.


The nearest rows with no more than what is compared to choose among them (reranking.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from search_server.types.items import Candidate
from search_server.types.queries import ReadOptions
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_store.collections import CollectionInfo, VectorIndex
from sentinel_store.items import Row
from sentinel_store.milvus import errors, indexes, schema
from sentinel_store.milvus.connection import MilvusConnection, level
from sentinel_store.values import Consistency, FloatArray

# A row has at most 0.13 MB (text, fields, 2,048 dimensions): 500 of them stay below the 100 MiB
# that a Milvus server puts into one answer.
ROWS_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that Milvus is told of a search, but for the vector."""

    collection: str
    limit: int
    expression: str
    output_fields: tuple[str, ...]
    consistency: Consistency
    params: tuple[tuple[str, float], ...]


class Count(Protocol):
    """Tells how many rows match an expression."""

    async def __call__(
        self,
        info: CollectionInfo,
        expression: str,
        deadline: Deadline,
        *,
        consistency: Consistency,
    ) -> int: ...


class VectorSearch:
    """The part of the store that searches vectors."""

    def __init__(self, milvus: MilvusConnection, count: Count) -> None:
        self._milvus = milvus
        self._count = count
        self._shared: SharedCalls[_Asked, Any] = SharedCalls(self._call)

    async def search(
        self,
        info: CollectionInfo,
        vectors: Sequence[FloatArray],
        *,
        limit: int,
        expression: str,
        include_vectors: bool,
        options: ReadOptions,
        deadline: Deadline,
    ) -> list[list[tuple[Row, float]]]:
        """Return up to `limit` rows for each vector, with their cosines, best first.

        A single vector may share its call to Milvus with those of others.
        """
        asked = _asked(info, limit, expression, options, schema.output_fields(include_vectors))
        if len(vectors) == 1:
            most = max(1, ROWS_PER_CALL // limit)
            found = [await self._shared.search(asked, vectors[0], deadline, most=most)]
        else:
            found = await self._call(asked, vectors, deadline)
        return [
            [(schema.from_entity(hit["entity"]), _cosine(hit)) for hit in hits] for hits in found
        ]

    async def nearest(
        self,
        info: CollectionInfo,
        vectors: Sequence[FloatArray],
        *,
        limit: int,
        expression: str,
        options: ReadOptions,
        deadline: Deadline,
        radius: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return the ids of up to `limit` rows for each vector, with their cosines, best first.

        As far as the index finds them, within `radius` (a cosine) where one is given.
        """
        asked = _asked(info, limit, expression, options, ["id"], radius=radius)
        found = await self._call(asked, vectors, deadline)
        return [[(hit["id"], _cosine(hit)) for hit in hits] for hits in found]

    async def rank(
        self,
        info: CollectionInfo,
        vector: FloatArray,
        *,
        limit: int,
        expression: str,
        options: ReadOptions,
        deadline: Deadline,
    ) -> list[tuple[str, float]]:
        """Return the ids of up to `limit` rows with their cosines, best first.

        Where the index finds fewer rows than there are, or there are few enough to look at all of
        them, what a search by range finds comes in addition (searching.py).
        """

        async def ranked(radius: float | None) -> list[tuple[str, float]]:
            [found] = await self.nearest(
                info,
                [vector],
                limit=limit,
                expression=expression,
                options=options,
                deadline=deadline,
                radius=radius,
            )
            return found

        nearest = await ranked(None)
        if self._milvus.is_lite:
            return nearest  # FLAT is exact, and a range only filters what another index found
        # Nothing is missing if it found as many as were asked for, or as there are.
        matching = await self._count(info, expression, deadline, consistency=options.consistency)
        if len(nearest) >= min(limit, matching) and matching > MOST_ROWS_BY_RANGE:
            return nearest
        return merged(nearest, await ranked(EVERYTHING), limit)

    async def is_all(
        self,
        info: CollectionInfo,
        found: int,
        expression: str,
        options: ReadOptions,
        deadline: Deadline,
    ) -> bool:
        """Return whether a search that found no more than `found` rows found all that match."""
        if self._milvus.is_lite:
            return True  # or there is no way to find more
        return found >= await self._count(
            info, expression, deadline, consistency=options.consistency
        )

    async def _call(self, asked: _Asked, vectors: Sequence[FloatArray], deadline: Deadline) -> Any:
        # As lists: pymilvus packs an array's elements one by one, in five times the time.
        data = [vector.tolist() for vector in vectors]
        return await self._milvus.read(
            asked.collection,
            lambda client, timeout: client.search(
                asked.collection,
                data,
                filter=asked.expression,
                limit=asked.limit,
                output_fields=list(asked.output_fields),
                search_params=by_cosine(dict(asked.params)),
                timeout=timeout,
                anns_field="vector",
                consistency_level=level(asked.consistency),
            ),
            deadline,
        )


def _asked(
    info: CollectionInfo,
    limit: int,
    expression: str,
    options: ReadOptions,
    output_fields: Sequence[str],
    *,
    radius: float | None = None,
) -> _Asked:
    params = index_params(info.index, options.index_params, limit, radius)
    return _Asked(
        info.name,
        limit,
        expression,
        tuple(output_fields),
        options.consistency,
        tuple(sorted(params.items())),
    )


def _cosine(hit: Any) -> float:
    """Return a hit's score; rounding takes the cosine of equal vectors a little over 1."""
    return max(-1.0, min(1.0, float(hit["distance"])))


# Calls that are alike and under way at the same time; further searches share the next one.
_AT_ONCE = 2

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[R]):
    """A search that has no call yet, or shares one."""

    vector: FloatArray
    deadline: Deadline
    answer: asyncio.Future[R]


@dataclass(slots=True)
class _Line(Generic[R]):
    """The searches that are alike."""

    most: int
    under_way: int = 0
    waiting: deque[_Waiting[R]] = field(default_factory=deque)


class SharedCalls(Generic[K, R]):
    """Use from one event loop.

    Args:
        call: Searches for several vectors; returns one answer for each, in order.
    """

    def __init__(
        self, call: Callable[[K, list[FloatArray], Deadline], Awaitable[Sequence[R]]]
    ) -> None:
        self._call = call
        self._lines: dict[K, _Line[R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def search(self, key: K, vector: FloatArray, deadline: Deadline, *, most: int) -> R:
        """Return the answer to one search.

        Args:
            key: What it must have in common with others to share a call.
            vector: The query's.
            deadline: When its answer is of no use any more.
            most: Vectors that a call of this key may have.

        Raises:
            SentinelError: As `call` raises it; DeadlineExceeded, too, if the time is over sooner.
        """
        line = self._lines.setdefault(key, _Line(most))
        if line.under_way >= _AT_ONCE:
            return await _share(line, vector, deadline)
        line.under_way += 1
        try:
            [answer] = await self._call(key, [vector], deadline)
        finally:
            self._end(key, line)
        return answer

    def _end(self, key: K, line: _Line[R]) -> None:
        """Let the searches that wait have the place of a call that has ended."""
        line.under_way -= 1
        while line.waiting and line.under_way < _AT_ONCE:
            together: list[_Waiting[R]] = []
            while line.waiting and len(together) < line.most:
                waiting = line.waiting.popleft()
                if not waiting.answer.done():
                    together.append(waiting)
            if together:
                line.under_way += 1
                self._begin(key, line, together)
        if not line.under_way:
            self._lines.pop(key, None)

    def _begin(self, key: K, line: _Line[R], together: Sequence[_Waiting[R]]) -> None:
        task = asyncio.create_task(self._run(key, together))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:  # even if it was cancelled before it began
            self._tasks.discard(task)
            self._end(key, line)

        task.add_done_callback(ended)
        _cancel_when_all_leave(task, together)

    async def _run(self, key: K, together: Sequence[_Waiting[R]]) -> None:
        latest = max((one.deadline for one in together), key=lambda deadline: deadline.at)
        try:
            answers = await self._call(key, [one.vector for one in together], latest)
            pairs = list(zip(together, answers, strict=True))
        except Exception as error:
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)
        else:
            for one, answer in pairs:
                if not one.answer.done():
                    one.answer.set_result(answer)


async def _share(line: _Line[R], vector: FloatArray, deadline: Deadline) -> R:
    patience = deadline.for_next_hop("milvus")
    answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    line.waiting.append(_Waiting(vector, deadline, answer))
    try:
        async with asyncio.timeout(patience):
            return await answer  # cancelled with us, which says that nobody waits for it
    except TimeoutError as error:
        raise errors.out_of_time() from error
    except SentinelError as error:
        raise error.at(error.field) from error  # each caller its own


def _cancel_when_all_leave(task: asyncio.Task[None], together: Sequence[_Waiting[R]]) -> None:
    left = len(together)

    def done(answer: asyncio.Future[R]) -> None:
        nonlocal left
        left -= 1
        if not left and answer.cancelled():
            task.cancel()  # nothing where it has ended, as it has unless all of them were cancelled

    for one in together:
        one.answer.add_done_callback(done)


# What may be asked for, whatever the index: names and the least and greatest values that Milvus
# knows for them. An index takes what it has a use for and ignores the rest.
_MOST = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
# Milvus refuses these below the number of hits.
_AT_LEAST_LIMIT = ("ef", "search_list")

# A search by range with this radius has every row within; no cosine is less.
EVERYTHING = -1.01
# Up to how many rows a deep ranking looks at all of them; some 1.5 us each, on two busy cores.
MOST_ROWS_BY_RANGE = 100_000


def check_index_params(params: Mapping[str, int]) -> None:
    """Raise InvalidArgument if one is unknown or out of its range."""
    for name, value in params.items():
        if name not in _MOST:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"no index has a search parameter {name[:50]!r}; there are {', '.join(_MOST)}",
                field="params.index_params",
            )
        if not 1 <= value <= _MOST[name]:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"{name} is {value}; it must be 1 to {_MOST[name]}",
                field=f"params.index_params[{name}]",
            )


def by_cosine(params: Mapping[str, float]) -> dict[str, Any]:
    """Return what Milvus takes as a search's parameters, from those of its index."""
    return {"metric_type": "COSINE", "params": params}


def index_params(
    index: VectorIndex, asked: Mapping[str, int], limit: int, radius: float | None = None
) -> dict[str, float]:
    """Return the parameters of Milvus's index for a search for `limit` hits.

    Args:
        index: The collection's.
        asked: What a caller chose, checked; the index's own choice where it chose nothing.
        limit: Most hits.
        radius: Only hits of a greater cosine, found by a search by range; None for all, found as
            the index finds nearest neighbours.
    """
    params: dict[str, float] = dict(indexes.search_params(index, limit))
    for name, value in asked.items():
        params[name] = max(value, limit) if name in _AT_LEAST_LIMIT else value
    if radius is not None:
        params["radius"] = radius
    return params


def merged(
    nearest: Sequence[tuple[str, float]], in_range: Sequence[tuple[str, float]], limit: int
) -> list[tuple[str, float]]:
    """Return the best `limit` of two rankings of one collection, each id once."""
    scores = dict(in_range) | dict(nearest)
    return sorted(scores.items(), key=lambda one: -one[1])[:limit]


class Candidates:
    """Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def nearest(
        self,
        info: CollectionInfo,
        vector: FloatArray,
        *,
        limit: int,
        expression: str,
        include_vectors: bool,
        field: str,
        options: ReadOptions,
        deadline: Deadline,
    ) -> list[Candidate]:
        """Return up to `limit` rows as candidates, best first.

        Args:
            info: The collection.
            vector: The query's, float32 `[dimensions]`.
            limit: At most 16,384.
            expression: What candidates must match; empty for nothing.
            include_vectors: Whether they have their vectors.
            field: The declared STRING, INT64 or BOOL field they have the value of; empty: none.
            options: How Milvus is to search.
            deadline: When the search must be over.
        """
        column = schema.column_of(field) if field else ""
        absent = schema.absent_marker(info.fields[field]) if field else None
        wanted = {"id": True, "vector": include_vectors, column: bool(field)}
        found = await self._milvus.read(
            info.name,
            lambda client, timeout: client.search(
                info.name,
                data=[vector.tolist()],
                anns_field="vector",
                filter=expression,
                limit=limit,
                output_fields=[name for name, is_wanted in wanted.items() if is_wanted],
                search_params=by_cosine(index_params(info.index, options.index_params, limit)),
                consistency_level=level(options.consistency),
                timeout=timeout,
            ),
            deadline,
        )
        candidates = []
        for hit in found[0]:
            entity = hit["entity"]
            value = entity.get(column)
            candidates.append(
                Candidate(
                    id=hit["id"],
                    # Rounding takes the cosine of equal vectors a little over 1.
                    score=max(-1.0, min(1.0, float(hit["distance"]))),
                    vector=np.asarray(entity["vector"], np.float32) if include_vectors else None,
                    value=None if value == absent else value,
                )
            )
        return candidates
