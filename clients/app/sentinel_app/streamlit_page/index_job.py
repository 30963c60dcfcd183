"""Store uploaded files in a collection, in the background."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from sentinel_app.streamlit_page.backend import Backend, Job
from sentinel_app.uploads import pending_uploads
from sentinel_app.zips import images_in, total_images
from sentinel_client import Collection, FieldType, Item

# `sentinel index` stores file names in this field.
_NAME_FIELD = "path"


class IndexJob(Job):
    """An import of uploaded files.

    Attributes:
        stored: Images that are new in the collection.
        unchanged: Images that were in the collection before.
        total: Number of images and unusable files; 0 until they are counted.
        failures: File names with reasons.
        waiting: Whether it waits until another import ends.
        stopped: Whether a person stopped it before its end.
    """

    def __init__(
        self, backend: Backend, collection: Collection, files: list[tuple[str, bytes]], most: int
    ) -> None:
        """Start to store the images among `files`, pairs of name and content.

        A zip with more than `most` images is refused.
        """
        self.stored = self.unchanged = self.total = 0
        self.failures: list[tuple[str, str]] = []
        self.stopped = self.waiting = False
        self._collection = collection
        self._files = deque(files)
        self._most = most
        super().__init__(backend)

    @property
    def done(self) -> int:
        """Number of images and files that are stored, unchanged or failed."""
        return self.stored + self.unchanged + len(self.failures)

    def stop(self) -> None:
        """End the import; stored images stay."""
        if self.cancel():
            self.stopped = True

    async def _run(self) -> None:
        pending_uploads[self] = self._files
        try:
            self.total = await asyncio.to_thread(total_images, list(self._files), self._most)
            self.waiting = self._backend.imports.locked()
            async with self._backend.imports:
                self.waiting = False
                await self._store()
        finally:
            del pending_uploads[self]

    async def _store(self) -> None:
        names: dict[int, str] = {}
        items = self._items(names)
        stream = self._backend.client.ingest(items, collection=self._collection.name)
        async with aclosing(stream) as acks:
            async for ack in acks:
                self.stored += ack.stored_count
                self.unchanged += ack.unchanged_count
                self.failures += [(names[id(i)], e.message) for i, e in ack.failed_items]
                for item in ack.items:
                    names.pop(id(item), None)
                self.seconds = time.perf_counter() - self._started

    async def _items(self, names: dict[int, str]) -> AsyncGenerator[Item, None]:
        """Yield the items; record the file name of each in `names` by its `id()`."""
        has_names = any(
            schema.name == _NAME_FIELD and schema.type is FieldType.STRING
            for schema in self._collection.fields
        )
        images = images_in(self._take_files(), self._most)
        # Unpacking would block the loop, which serves every page.
        while (image := await asyncio.to_thread(next, images, None)) is not None:
            if image.problem:
                self.failures.append((image.name, image.problem))
                continue
            item = Item(image=image.data, fields={_NAME_FIELD: image.name} if has_names else {})
            names[id(item)] = image.name
            yield item

    def _take_files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files; free the memory of each when the next one is requested."""
        while self._files:
            yield self._files[0]
            self._files.popleft()
