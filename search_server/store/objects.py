"""Image bytes and thumbnails, content-addressed, in any place fsspec can write.

    images/ab/abcdef…           the encoded file as it came, named by its SHA-256
    thumbnails/ab/abcdef….webp  its thumbnail

A name says what the bytes are, so a write that is repeated changes nothing and two writers of
the same image cannot disturb each other.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sentinel_core.errors import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
_THREADS = 8


class ObjectStore:
    """Use from one event loop; the file system's blocking calls run in threads it owns."""

    def __init__(self, uri: str) -> None:
        """Open the store, making its folder when it is local and not there.

        Raises:
            Unavailable: The place cannot be opened.
        """
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
            self._is_local = isinstance(self._fs, LocalFileSystem)
            if self._is_local:
                self._fs.makedirs(self._root, exist_ok=True)
        except Exception as error:  # each file system raises its own kinds
            raise _unavailable(f"cannot open {uri}: {error}") from error
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    def image_uri(self, digest: str) -> str:
        """Return the URI of the image with this SHA-256."""
        return str(self._fs.unstrip_protocol(self._image_path(digest)))

    async def put_images(self, images: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Store (digest, image, thumbnail) triples; when it returns, all of them are stored.

        Raises:
            Unavailable: The store refused a write; some of the others may be stored.
        """
        await asyncio.gather(
            *(self._run(self._put_image, digest, data, thumb) for digest, data, thumb in images)
        )

    async def get_thumbnails(self, digests: Sequence[str]) -> list[bytes]:
        """Return the WebP thumbnails in order; empty for one that is not there."""
        return await asyncio.gather(*(self._run(self._get_thumbnail, d) for d in digests))

    def close(self) -> None:
        """Wait for the writes in progress."""
        self._executor.shutdown()

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, *arguments)
        except Exception as error:
            logger.exception("object store failed")
            raise _unavailable(f"the object store failed: {type(error).__name__}") from error

    def _image_path(self, digest: str) -> str:
        return f"{self._root}/images/{digest[:2]}/{digest}"

    def _thumbnail_path(self, digest: str) -> str:
        return f"{self._root}/thumbnails/{digest[:2]}/{digest}.webp"

    def _put_image(self, digest: str, data: bytes, thumbnail: bytes) -> None:
        if thumbnail:
            self._write(self._thumbnail_path(digest), thumbnail)
        self._write(self._image_path(digest), data)

    def _write(self, path: str, data: bytes) -> None:
        if self._fs.exists(path):
            return  # content-addressed and only ever whole
        if not self._is_local:
            self._fs.pipe_file(path, data)  # one PUT, atomic by the store's own promise
            return
        draft = f"{path}.{uuid.uuid4().hex}.tmp"
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        try:
            self._fs.pipe_file(draft, data)
            self._fs.mv(draft, path)
        except OSError:
            with suppress(OSError):
                self._fs.rm_file(draft)  # a full disk should not fill further
            raise

    def _get_thumbnail(self, digest: str) -> bytes:
        try:
            return bytes(self._fs.cat_file(self._thumbnail_path(digest)))
        except FileNotFoundError:
            return b""


def _unavailable(message: str) -> Unavailable:
    return Unavailable(
        "OBJECT_STORE_UNAVAILABLE", f"{message}; check its path, permissions and space, then retry"
    )
