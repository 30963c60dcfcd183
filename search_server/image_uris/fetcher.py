"""Fetch the images that a request names by URI: concurrently, within limits, each failing alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from aiohttp.abc import AbstractResolver

from search_server.image_uris.allowlist import (
    HTTP_SCHEMES,
    AllowedPrefix,
    Allowlist,
    HttpUri,
    ParsedUri,
    parse_uri,
)
from search_server.image_uris.readers import FolderReader, HttpReader, StoreReader, unavailable
from search_server.settings import GatewaySettings
from search_server.types.items import UnreadableItem
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Item


class Fetcher:
    """Create and use it inside one event loop; close it at the end."""

    def __init__(
        self,
        settings: GatewaySettings,
        metrics: ServerMetrics,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Parse the allowlist; open no connection yet. Without a resolver the system's is used.

        Raises:
            InvalidArgument: An entry of the list is not a valid prefix.
            Unavailable: A package that a prefix needs is not installed.
        """
        self._settings = settings
        self._metrics = metrics
        self._allowlist = Allowlist(settings.uri_places())
        self._readers: dict[AllowedPrefix, FolderReader | StoreReader] = {}
        for prefix in self._allowlist.prefixes:
            if prefix.scheme == "file":
                self._readers[prefix] = FolderReader(prefix)
            elif prefix.scheme not in HTTP_SCHEMES:
                self._readers[prefix] = StoreReader(prefix)
        self._http = HttpReader(
            self._allowlist,
            allow_private=settings.image_uri_private,
            max_redirects=settings.image_uri_redirects,
            resolver=resolver,
        )
        self._slots = asyncio.Semaphore(settings.image_uri_fetches)
        self._executor = ThreadPoolExecutor(settings.image_uri_fetches, thread_name_prefix="fetch")

    async def fetch_items(
        self, items: Sequence[Item | UnreadableItem], deadline: Deadline
    ) -> list[Item | UnreadableItem]:
        """Return the items with their images' bytes; a failed fetch gives an UnreadableItem.

        Images that are stored by reference are not fetched.
        """
        fetched = list(items)
        waiting = [
            (place, item, item.content)
            for place, item in enumerate(items)
            if isinstance(item, Item)
            and item.content is not None
            and item.content.uri
            and not item.content.digest
        ]
        answers = await self.fetch([content for _, _, content in waiting], deadline)
        for (place, item, _), answer in zip(waiting, answers, strict=True):
            if isinstance(answer, SentinelError):
                error = answer.at(f"items[{place}].content.image.uri")
                fetched[place] = UnreadableItem(item.id, error)
            else:
                fetched[place] = replace(item, content=answer)
        return fetched

    async def fetch(
        self, contents: Sequence[Content], deadline: Deadline
    ) -> list[Content | SentinelError]:
        """Return the contents of one request, with the bytes of images that are named by URI.

        A failed fetch gives its error, without a field path, in place of the content.
        """
        # Fetch each URI once, however often it is named.
        uris = list(dict.fromkeys(content.uri for content in contents if content.uri))
        if not uris:
            return list(contents)
        # Keep half of the time for the later stages: a host that never answers must not cost the
        # request's other items theirs.
        ends = asyncio.get_running_loop().time() + deadline.remaining() / 2
        # All files of a request together: no more bytes than it could have sent itself.
        budget = _ByteBudget(self._settings.max_message_bytes)
        with self._metrics.stage("fetch"):
            answers = await asyncio.gather(*(self._fetch_one(uri, ends, budget) for uri in uris))
        by_uri = dict(zip(uris, answers, strict=True))
        for answer in answers:
            outcome = answer.reason.lower() if isinstance(answer, SentinelError) else "ok"
            self._metrics.items.labels("fetch", outcome).inc()
        return [_with_bytes(content, by_uri) for content in contents]

    async def _fetch_one(
        self, text: str, ends: float, budget: _ByteBudget
    ) -> bytes | SentinelError:
        try:
            uri = parse_uri(text)
            prefix = self._allowlist.find(uri)
        except SentinelError as error:
            return error
        try:
            async with asyncio.timeout_at(ends), self._slots:
                budget.spend(0)
                async with asyncio.timeout(self._settings.image_uri_timeout_seconds):
                    data = await self._read(prefix, uri)
                budget.spend(len(data))
                return data
        except TimeoutError:
            return unavailable(uri, "it took too long")
        except SentinelError as error:
            return error

    async def _read(self, prefix: AllowedPrefix, uri: ParsedUri) -> bytes:
        most = self._settings.max_image_bytes
        if isinstance(uri, HttpUri):
            return await self._http.read(uri, most)
        read = self._readers[prefix].read
        return await asyncio.get_running_loop().run_in_executor(self._executor, read, uri, most)

    async def close(self) -> None:
        """Close the connections; wait for the reads in progress."""
        await self._http.close()
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)


def _with_bytes(
    content: Content, by_uri: dict[str, bytes | SentinelError]
) -> Content | SentinelError:
    if not content.uri:
        return content
    answer = by_uri[content.uri]
    return answer if isinstance(answer, SentinelError) else replace(content, data=answer)


class _ByteBudget:
    """How many bytes one request may still fetch."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spent = 0

    def spend(self, count: int) -> None:
        """Take `count` bytes; raise InvalidArgument if the budget is exceeded, now or before."""
        self._spent += count
        if self._spent > self._max_bytes:
            raise InvalidArgument(
                "BATCH_TOO_LARGE",
                f"the images that this request names have more than {self._max_bytes} bytes "
                "together; send fewer of them at once",
                limit=self._max_bytes,
            )
