"""One search in the background of a page: hits gather while the page shows those that are there."""

from __future__ import annotations

import asyncio
import time
from concurrent import futures
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sentinel_app import problems
from sentinel_app.backend import Backend
from sentinel_client import Hit, Q, SearchOptions, SearchTimings, SentinelError

# A browser tab in the background asks once a second at most; one that is gone, never again.
_UNSEEN_S = 5.0
_LOOK_S = 0.5
_numbers = count(1)


@dataclass(frozen=True)
class Request:
    """What is searched for."""

    query: Q
    collection: str
    limit: int
    options: SearchOptions


@dataclass
class SearchJob:
    """A search that was begun. The page calls `seen` while it looks; else the search is ended.

    `abandoned` says that this happened: the hits are not all there are.
    """

    request: Request
    number: int = field(default_factory=lambda: next(_numbers))
    hits: list[Hit] = field(default_factory=list)
    timings: SearchTimings | None = None
    error: SentinelError | None = None
    seconds: float = 0.0
    abandoned: bool = False
    _future: futures.Future[None] | None = None
    _last_seen: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, backend: Backend, request: Request) -> SearchJob:
        """Begin to search."""
        job = cls(request)
        job._future = backend.start(job._run(backend))
        return job

    @property
    def running(self) -> bool:
        """Whether more hits may come."""
        return self._future is not None and not self._future.done()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, so long at most; return whether it came."""
        if self._future is not None:
            futures.wait([self._future], seconds)
        return not self.running

    def seen(self) -> None:
        """Say that somebody still looks."""
        self._last_seen = time.monotonic()

    def cancel(self) -> None:
        """End the search, if it is not over; the hits that came stay."""
        if self._future is not None:
            self._future.cancel()

    async def _run(self, backend: Backend) -> None:
        searching = asyncio.create_task(self._search(backend))
        try:
            while not (await asyncio.wait([searching], timeout=_LOOK_S))[0]:
                if time.monotonic() - self._last_seen > _UNSEEN_S:
                    self.abandoned = True
                    return
        finally:
            searching.cancel()

    async def _search(self, backend: Backend) -> None:
        request, started = self.request, time.perf_counter()
        options: dict[str, Any] = {**request.options, "include_thumbnails": True}
        stream = backend.client.stream_search(
            request.query,
            collection=request.collection,
            limit=request.limit,
            on_timings=self._note,
            **options,
        )
        try:
            async for hit in stream:
                self.hits.append(hit)
        except SentinelError as error:
            self.error = error
        # The border of the page's background: what is not caught here, nobody would see.
        except Exception:
            self.error = problems.unexpected("a search")
        finally:
            await stream.aclose()
            self.seconds = time.perf_counter() - started

    def _note(self, timings: SearchTimings) -> None:
        self.timings = timings
