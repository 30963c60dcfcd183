"""Use case: many searches at once, each failing alone.

Their queries' vectors are found together (queries.py). First pages of searches that differ for
Milvus in nothing but the vector, and the query's own items, are one Milvus search
(first_pages.py); later pages, and rankings that are not simply Milvus's, are searches of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search import message_size
from search_server.search.position import Position
from search_server.search.reranking import is_reranked
from search_server.search.searcher import Searcher
from search_server.types.items import Hit, Search
from search_server.types.queries import SearchSpec
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError

# Rows that a batch holds, at up to 0.13 MB each: pages are cut to their bytes one by one.
_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One search of a batch: what to search for, and which page of it, of at most `size` hits."""

    spec: SearchSpec
    size: int
    position: Position


@dataclass(frozen=True, slots=True)
class Page:
    """A page of hits, the search it belongs to, and the position after it; None on the last."""

    search: Search
    hits: list[Hit]
    following: Position | None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A search whose vector is known, and its place in the batch."""

    place: int
    entry: Entry
    search: Search


class BatchSearcher:
    """Answers batches of searches. Stateless; any number of calls run at once."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    async def pages(
        self, entries: Sequence[Entry | SentinelError], deadline: Deadline
    ) -> list[Page | SentinelError]:
        """Return one page, or why there is none, for each entry, in order.

        An entry that is an error already (it could not be read from the request) stays one.
        """
        answers: dict[int, Page | SentinelError] = {}
        read = [(n, entry) for n, entry in enumerate(entries) if isinstance(entry, Entry)]
        answers |= {n: entry for n, entry in enumerate(entries) if not isinstance(entry, Entry)}
        searches = await self._searcher.prepare_all([entry.spec for _, entry in read], deadline)
        groups: dict[Hashable, list[_Ready]] = {}
        for (place, entry), search in zip(read, searches, strict=True):
            if isinstance(search, SentinelError):
                answers[place] = search
            else:
                ready = _Ready(place, entry, search)
                groups.setdefault(_likeness(ready), []).append(ready)
        # All pages go into one message.
        max_bytes = message_size.MAX_BYTES // max(1, len(entries))
        for wave in _waves(groups.values()):
            for found in await asyncio.gather(
                *(self._group(group, max_bytes, deadline) for group in wave)
            ):
                answers |= found
        return [answers[place] for place in range(len(entries))]

    async def _group(
        self, group: Sequence[_Ready], max_bytes: int, deadline: Deadline
    ) -> dict[int, Page | SentinelError]:
        if len(group) == 1:
            return {group[0].place: await self._page(group[0], None, max_bytes, deadline)}
        pages: list[Page | SentinelError] = []
        searches = [ready.search for ready in group]
        source = self._searcher.tops(searches, group[0].entry.size, deadline)
        try:
            async with aclosing(source) as parts:
                async for tops in parts:
                    part = group[len(pages) : len(pages) + len(tops)]
                    pages += await asyncio.gather(
                        *(
                            self._page(ready, top, max_bytes, deadline)
                            for ready, top in zip(part, tops, strict=True)
                        )
                    )
        except SentinelError as error:
            pages += [error.at(error.field) for _ in group[len(pages) :]]
        return {ready.place: page for ready, page in zip(group, pages, strict=True)}

    async def _page(
        self, ready: _Ready, top: list[Hit] | None, max_bytes: int, deadline: Deadline
    ) -> Page | SentinelError:
        try:
            hits, following = await self._searcher.page(
                ready.search,
                ready.entry.size,
                ready.entry.position,
                deadline,
                max_bytes=max_bytes,
                top=top,
            )
        except SentinelError as error:
            return error
        return Page(ready.search, hits, following)


def _waves(groups: Iterable[list[_Ready]]) -> Iterator[list[list[_Ready]]]:
    """Yield the groups in turn, so many at a time that few rows are held."""
    wave: list[list[_Ready]] = []
    rows = 0
    for group in groups:
        its = min(ROWS_PER_CALL, len(group) * group[0].entry.size)
        if wave and rows + its > _ROWS_AT_ONCE:
            yield wave
            wave, rows = [], 0
        wave.append(group)
        rows += its
    if wave:
        yield wave


def _likeness(ready: _Ready) -> Hashable:
    """Return what searches have in common that are one Milvus search; else the place alone."""
    entry, search = ready.entry, ready.search
    if entry.position.rank or entry.size >= ROWS_PER_CALL or is_reranked(entry.spec):
        return ready.place
    options = search.options
    return (
        search.collection.name,
        search.filter,
        entry.size,
        entry.spec.include_vectors,
        options.consistency,
        tuple(sorted(options.index_params.items())),
    )
