"""Dropped files on their way into a collection, in the background of a page."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field

from sentinel_app import problems
from sentinel_app.archives import Entry, count, entries
from sentinel_app.backend import Backend
from sentinel_app.uploads import Files, under_way
from sentinel_client import Collection, FieldType, Item, SentinelError

# The field that `sentinel index` keeps a file's name in.
_NAME_FIELD = "path"


@dataclass
class IndexJob:
    """Files on their way. Goes on when the page is left.

    Attributes:
        total: How many pictures and unusable files there are; 0 until they are counted.
        failures: Names with reasons.
        stopped: Whether somebody ended it before all was stored.
    """

    collection: str
    stored: int = 0
    unchanged: int = 0
    total: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    error: SentinelError | None = None
    stopped: bool = False
    seconds: float = 0.0
    _future: Future[None] | None = None

    @classmethod
    def start(
        cls, backend: Backend, collection: Collection, files: list[tuple[str, bytes]]
    ) -> IndexJob:
        """Begin to store the pictures among `files`, (name, bytes) each."""
        job = cls(collection.name)
        named = any(
            schema.name == _NAME_FIELD and schema.type is FieldType.STRING
            for schema in collection.fields
        )
        job._future = backend.start(job._run(backend, deque(files), named=named))
        return job

    @property
    def running(self) -> bool:
        """Whether files are still on their way."""
        return self._future is not None and not self._future.done()

    @property
    def done(self) -> int:
        """Pictures and files that are decided."""
        return self.stored + self.unchanged + len(self.failures)

    def stop(self) -> None:
        """End it; what is stored stays."""
        if self._future is not None and self._future.cancel():
            self.stopped = True

    async def _run(self, backend: Backend, files: Files, *, named: bool) -> None:
        started = time.perf_counter()
        under_way.append(files)
        try:
            self.total = await asyncio.to_thread(count, list(files))
            await self._store(backend, files, named=named, started=started)
        except SentinelError as error:
            self.error = error
        # The border of the page's background: what is not caught here, nobody would see.
        except Exception:
            self.error = problems.unexpected("indexing dropped files")
        finally:
            under_way.remove(files)
            self.seconds = time.perf_counter() - started

    async def _store(self, backend: Backend, files: Files, *, named: bool, started: float) -> None:
        names: dict[int, str] = {}

        async def items() -> AsyncGenerator[Item, None]:
            following: Iterator[Entry] = entries(_taken(files))
            # Unpacking is work for another thread than the one that all pages' calls run on.
            while (entry := await asyncio.to_thread(next, following, None)) is not None:
                if entry.problem:
                    self.failures.append((entry.name, entry.problem))
                    continue
                item = Item(image=entry.data, fields={_NAME_FIELD: entry.name} if named else {})
                names[id(item)] = entry.name
                yield item

        async with aclosing(backend.client.ingest(items(), collection=self.collection)) as acks:
            async for ack in acks:
                self.stored += ack.stored_count
                self.unchanged += ack.unchanged_count
                self.failures += [(names[id(i)], e.message) for i, e in ack.failed_items]
                for item in ack.items:
                    names.pop(id(item), None)
                self.seconds = time.perf_counter() - started


def _taken(files: Files) -> Iterator[tuple[str, bytes]]:
    """Yield the files; let go of each when the next is asked for, since memory is bounded."""
    while files:
        yield files[0]
        files.popleft()
