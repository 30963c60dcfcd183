"""Searches of vectors: the nearest few with their rows, or thousands by id and cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from search_server.store import rows, searching
from search_server.store.connection import MilvusConnection
from search_server.types import CollectionInfo, Consistency, FloatArray, ReadOptions, Row
from sentinel_core.deadlines import Deadline


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
        """Return up to `limit` rows for each vector, with their cosines, best first."""
        found = await self._search(
            info,
            options,
            deadline,
            data=list(vectors),
            limit=limit,
            filter=expression,
            output_fields=rows.output_fields(include_vectors),
        )
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
        found = await self._search(
            info,
            options,
            deadline,
            radius=radius,
            data=list(vectors),
            limit=limit,
            filter=expression,
            output_fields=["id"],
        )
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

    async def _search(
        self,
        info: CollectionInfo,
        options: ReadOptions,
        deadline: Deadline,
        *,
        radius: float | None = None,
        **search: Any,
    ) -> Any:
        return await self._milvus.read(
            info.name,
            lambda client, timeout: client.search(
                info.name,
                anns_field="vector",
                search_params=searching.parameters(
                    info.index, options.index_params, search["limit"], radius
                ),
                consistency_level=searching.level(options.consistency),
                timeout=timeout,
                **search,
            ),
            deadline,
        )


def _cosine(hit: Any) -> float:
    """Return a hit's score; rounding takes the cosine of equal vectors a little over 1."""
    return max(-1.0, min(1.0, float(hit["distance"])))
