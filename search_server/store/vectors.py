"""Searches of vectors: the nearest few with their rows, or thousands by id and cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search_server.store import rows, searching
from search_server.store.connection import MilvusConnection
from search_server.store.shared_calls import SharedCalls
from search_server.types.collections import CollectionInfo
from search_server.types.items import Row
from search_server.types.queries import ReadOptions
from search_server.types.values import Consistency, FloatArray
from sentinel_core.deadlines import Deadline

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
        asked = _asked(info, limit, expression, options, rows.output_fields(include_vectors))
        if len(vectors) == 1:
            most = max(1, ROWS_PER_CALL // limit)
            found = [await self._shared.search(asked, vectors[0], deadline, most=most)]
        else:
            found = await self._call(asked, vectors, deadline)
        return [[(rows.from_entity(hit["entity"]), _cosine(hit)) for hit in hits] for hits in found]

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
        if len(nearest) >= min(limit, matching) and matching > searching.MOST_ROWS_BY_RANGE:
            return nearest
        return searching.merged(nearest, await ranked(searching.EVERYTHING), limit)

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
                search_params=searching.by_cosine(dict(asked.params)),
                timeout=timeout,
                anns_field="vector",
                consistency_level=searching.level(asked.consistency),
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
    params = searching.index_params(info.index, options.index_params, limit, radius)
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
