"""A search: the terms that it combines, and the job that collects its hits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from operator import add

from sentinel_app.streamlit_page.backend import Backend, Job
from sentinel_client import Box, Hit, Q, SearchOptions, SearchTimings

# The limit of the contract.
MAX_TERMS = 16
# Browsers slow the timers of a hidden tab down to one look a second; a closed tab never looks.
_ABANDONED_AFTER_S = 5.0
_CHECK_INTERVAL_S = 0.5
_term_numbers = count(1)
_job_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a query, shown as a chip. Exactly one of text, image and item_id is set.

    Attributes:
        label: Text of the chip.
        weight: Negative to subtract the term.
        thumbnail: Small picture for the chip; empty for text.
        thumbnail_type: Its media type.
        key: Unique among all terms of this process.
    """

    label: str
    text: str = ""
    image: bytes = field(default=b"", repr=False)
    crop: Box | None = None
    item_id: str = ""
    weight: float = 1.0
    thumbnail: bytes = field(default=b"", repr=False)
    thumbnail_type: str = "image/webp"
    key: str = field(default_factory=lambda: f"t{next(_term_numbers)}")

    @property
    def query(self) -> Q:
        """The term as a query, without its weight."""
        if self.image:
            return Q(image=self.image, crop=self.crop)
        return Q(item_id=self.item_id) if self.item_id else Q(self.text)


def text_term(text: str, weight: float = 1.0) -> Term:
    """Return the term of some text."""
    return Term(text.strip(), text=text.strip(), weight=weight)


def combined_query(terms: Sequence[Term]) -> Q | None:
    """Return the weighted sum of the terms; None if there are none."""
    parts = [term.query if term.weight == 1.0 else term.weight * term.query for term in terms]
    return reduce(add, parts) if parts else None


def with_weights(terms: list[Term], weights: dict[str, float]) -> list[Term]:
    """Return the terms whose keys are in `weights`, with these weights; drop the others."""
    return [replace(term, weight=weights[term.key]) for term in terms if term.key in weights]


@dataclass(frozen=True)
class SearchRequest:
    """Arguments of a search. Entering the same text again makes another request."""

    terms: tuple[Term, ...]
    collection: str
    limit: int
    options: SearchOptions


class SearchJob(Job):
    """A running search. The page calls `viewed` while it is open; otherwise the search is ended.

    Attributes:
        number: Unique among all searches of this process.
        retries: How often this search was retried automatically.
        hits: The hits so far, best first.
        timings: The gateway's timings, at the end.
        abandoned: Whether it was ended because the page was closed; hits may be missing.
    """

    def __init__(self, backend: Backend, request: SearchRequest, retries: int = 0) -> None:
        self.request = request
        self.retries = retries
        self.number = next(_job_numbers)
        self.hits: list[Hit] = []
        self.timings: SearchTimings | None = None
        self.abandoned = False
        self._last_viewed = time.monotonic()
        super().__init__(backend)

    def restart(self, retries: int = 0) -> SearchJob:
        """Start the same search again."""
        return SearchJob(self._backend, self.request, retries)

    def viewed(self) -> None:
        """Record that a page is showing the search."""
        self._last_viewed = time.monotonic()

    async def _run(self) -> None:
        search = asyncio.create_task(self._collect())
        try:
            while not (await asyncio.wait([search], timeout=_CHECK_INTERVAL_S))[0]:
                if time.monotonic() - self._last_viewed > _ABANDONED_AFTER_S:
                    self.abandoned = True
                    return
            search.result()
        finally:
            search.cancel()

    async def _collect(self) -> None:
        request = self.request
        options: SearchOptions = {**request.options, "include_thumbnails": True}
        stream = self._backend.client.stream_search(
            combined_query(request.terms),
            collection=request.collection,
            limit=request.limit,
            on_timings=self._set_timings,
            **options,
        )
        try:
            async for hit in stream:
                self.hits.append(hit)
        finally:
            await stream.aclose()

    def _set_timings(self, timings: SearchTimings) -> None:
        self.timings = timings
