"""Answer many searches at once, each failing alone.

The vectors of all queries are found together (query_vectors.py). Searches that differ only in the
vector and in the query's own items get their first pages from one Milvus search (nearest.py).
Later pages and reranked searches run one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.paging import Position
from search_server.search.searcher import Page, Searcher
from search_server.types.queries import SearchSpec
from search_server.types.searches import Hit, Search
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError

# Rows that a batch holds, at up to 0.13 MB each: pages are cut to their bytes one by one.
_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page of one search: at most `size` hits after `position`."""

    spec: SearchSpec
    size: int
    position: Position


@dataclass(frozen=True, slots=True)
class _Member:
    """A search of the batch that has its vector, and its index in the batch."""

    index: int
    request: PageRequest
    search: Search


class BatchSearcher:
    """Answers batches of searches. Stateless; any number of calls run at once."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    async def pages(
        self,
        requests: Sequence[PageRequest | SentinelError],
        deadline: Deadline,
        *,
        max_bytes: int,
    ) -> list[Page | SentinelError]:
        """Return one page, or its error, for each request, in order.

        Each page has an equal part of `max_bytes`; a page of one hit may have more.
        An error among the requests (its message could not be read) is returned as it is.
        """
        results: dict[int, Page | SentinelError] = {}
        groups: dict[Hashable, list[_Member]] = {}
        specs = [one.spec for one in requests if not isinstance(one, SentinelError)]
        searches = iter(await self._searcher.prepare_all(specs, deadline))
        for index, request in enumerate(requests):
            if isinstance(request, SentinelError):
                results[index] = request
                continue
            search = next(searches)
            if isinstance(search, SentinelError):
                results[index] = search
            else:
                member = _Member(index, request, search)
                groups.setdefault(_group_key(member), []).append(member)
        of_one = max_bytes // max(1, len(requests))
        for wave in _waves(groups.values()):
            for found in await asyncio.gather(*(self._group(group, of_one) for group in wave)):
                results |= found
        return [results[index] for index in range(len(requests))]

    async def _group(
        self, group: Sequence[_Member], max_bytes: int
    ) -> dict[int, Page | SentinelError]:
        if len(group) == 1:
            return {group[0].index: await self._page(group[0], None, max_bytes)}
        pages: list[Page | SentinelError] = []
        searches = [member.search for member in group]
        source = self._searcher.first_hits(searches, group[0].request.size)
        try:
            async with aclosing(source) as parts:
                async for part in parts:
                    members = group[len(pages) : len(pages) + len(part)]
                    pages += await asyncio.gather(
                        *(
                            self._page(member, hits, max_bytes)
                            for member, hits in zip(members, part, strict=True)
                        )
                    )
        except SentinelError as error:
            pages += [error.at(error.field) for _ in group[len(pages) :]]
        return {member.index: page for member, page in zip(group, pages, strict=True)}

    async def _page(
        self, member: _Member, first_hits: list[Hit] | None, max_bytes: int
    ) -> Page | SentinelError:
        request = member.request
        try:
            return await self._searcher.page(
                member.search,
                request.size,
                request.position,
                max_bytes=max_bytes,
                first_hits=first_hits,
            )
        except SentinelError as error:
            return error


def _waves(groups: Iterable[list[_Member]]) -> Iterator[list[list[_Member]]]:
    """Yield the groups in order, in waves that hold few rows each."""
    wave: list[list[_Member]] = []
    rows = 0
    for group in groups:
        group_rows = min(ROWS_PER_CALL, len(group) * group[0].request.size)
        if wave and rows + group_rows > _ROWS_AT_ONCE:
            yield wave
            wave, rows = [], 0
        wave.append(group)
        rows += group_rows
    if wave:
        yield wave


def _group_key(member: _Member) -> Hashable:
    """Return a key that is equal for searches that one Milvus search can answer."""
    request, selection = member.request, member.search.selection
    if request.position.rank or request.size >= ROWS_PER_CALL or request.spec.is_reranked:
        return member.index  # alone
    return (
        selection.collection.name,
        selection.filter_expression,
        request.size,
        request.spec.include_vectors,
        selection.consistency,
        tuple(sorted(selection.index_params.items())),
    )
