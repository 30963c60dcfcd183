"""Fetches images that requests name by URI: many at once, within bounds, each failing alone.

Items to store whose images are named by URI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from aiohttp.abc import AbstractResolver

from search_server.image_uris.allowlist import HTTP_SCHEMES, Place, Places, Target, read_target
from search_server.image_uris.readers import FolderReader, HttpReader, StoreReader, unavailable
from search_server.types.items import UnreadableItem
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Item


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may do and cost.

    Attributes:
        places: URIs of the places that may be fetched from; none by default.
        allow_private: Whether hosts may have addresses that are not public.
        max_image_bytes: Largest file.
        max_call_bytes: Most bytes for one request of ours, all its files together.
        timeout_s: Longest time for one file, in seconds.
        max_redirects: Most http redirects of one file.
        concurrency: Most files being fetched at once.
    """

    places: Sequence[str]
    allow_private: bool
    max_image_bytes: int
    max_call_bytes: int
    timeout_s: float
    max_redirects: int
    concurrency: int


class Fetcher:
    """Use from one event loop, and make it there; close it at the end."""

    def __init__(
        self,
        limits: FetchLimits,
        metrics: ServerMetrics,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Read the list of places and open nothing yet.

        Args:
            limits: What may be fetched.
            metrics: Counts fetches by outcome.
            resolver: Resolves host names; the system's when None.

        Raises:
            InvalidArgument: An entry of the list is no place.
            Unavailable: A package that a place needs is not installed.
        """
        self._limits = limits
        self._metrics = metrics
        self._places = Places(limits.places)
        self._readers: dict[Place, FolderReader | StoreReader] = {}
        for place in self._places.every:
            if place.scheme == "file":
                self._readers[place] = FolderReader(place)
            elif place.scheme not in HTTP_SCHEMES:
                self._readers[place] = StoreReader(place)
        self._http = HttpReader(
            self._places,
            allow_private=limits.allow_private,
            max_redirects=limits.max_redirects,
            resolver=resolver,
        )
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._executor = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="fetch")

    async def fill(
        self, contents: Sequence[Content], deadline: Deadline
    ) -> list[Content | SentinelError]:
        """Return the contents of one request with the bytes of those that are named by URI.

        What could not be fetched is an error in its place, without a field.
        """
        # Each once, however often it is named.
        uris = list(dict.fromkeys(content.uri for content in contents if content.uri))
        if not uris:
            return list(contents)
        # Half of the time is kept for what comes after: a place that never answers must not
        # cost the request's other items theirs.
        ends = asyncio.get_running_loop().time() + deadline.remaining() / 2
        budget = _Budget(self._limits.max_call_bytes)
        with self._metrics.stage("fetch"):
            answers = await asyncio.gather(*(self._fetch(uri, ends, budget) for uri in uris))
        found = dict(zip(uris, answers, strict=True))
        for answer in found.values():
            outcome = answer.reason.lower() if isinstance(answer, SentinelError) else "ok"
            self._metrics.items.labels("fetch", outcome).inc()
        return [_filled(content, found) for content in contents]

    async def _fetch(self, uri: str, ends: float, budget: _Budget) -> bytes | SentinelError:
        try:
            target = read_target(uri)
            place = self._places.find(target)
        except SentinelError as error:
            return error
        try:
            async with asyncio.timeout_at(ends), self._slots:
                budget.spend(0)
                async with asyncio.timeout(self._limits.timeout_s):
                    data = await self._read(place, target)
                budget.spend(len(data))
                return data
        except TimeoutError:
            return unavailable(target, "it took too long")
        except SentinelError as error:
            return error

    async def _read(self, place: Place, target: Target) -> bytes:
        most = self._limits.max_image_bytes
        reader = self._readers.get(place)
        if reader is None:
            return await self._http.read(target, most)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, reader.read, target, most)

    async def close(self) -> None:
        """Close connections; wait for the reads in progress."""
        await self._http.close()
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)


def _filled(content: Content, found: dict[str, bytes | SentinelError]) -> Content | SentinelError:
    if not content.uri:
        return content
    answer = found[content.uri]
    return answer if isinstance(answer, SentinelError) else replace(content, data=answer)


class _Budget:
    """How many bytes one request may still have fetched."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spent = 0

    def spend(self, count: int) -> None:
        """Take `count` bytes.

        Raises:
            InvalidArgument: They are not left, or it was overspent before.
        """
        self._spent += count
        if self._spent > self._max_bytes:
            raise InvalidArgument(
                "BATCH_TOO_LARGE",
                f"the images that this request names have more than {self._max_bytes} bytes "
                "together; send fewer of them at once",
                limit=self._max_bytes,
            )


async def fetch_items(
    fetcher: Fetcher, items: Sequence[Item | UnreadableItem], deadline: Deadline
) -> list[Item | UnreadableItem]:
    """Return the items with their images' bytes, those that are not to be had as unreadable."""
    filled = list(items)
    waiting = [
        (place, item, item.content)
        for place, item in enumerate(items)
        if isinstance(item, Item) and item.content is not None and item.content.uri
    ]
    answers = await fetcher.fill([content for _, _, content in waiting], deadline)
    for (place, item, _), answer in zip(waiting, answers, strict=True):
        if isinstance(answer, SentinelError):
            error = answer.at(f"items[{place}].content.image.uri")
            filled[place] = UnreadableItem(item.id, error)
        else:
            filled[place] = replace(item, content=answer)
    return filled
