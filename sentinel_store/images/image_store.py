"""Image bytes and thumbnails, content-addressed, in a folder or in any place fsspec can write.

    images/ab/abcdef…           the encoded file as it came, named by its SHA-256
    thumbnails/ab/abcdef….webp  its thumbnail
    aside/…                     what no row named, on its way out (orphans.py)
    drafts/…                    local disks only: files that are being written

A name says what the bytes are, so a write that is repeated changes nothing and two writers of
the same image cannot disturb each other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, Unavailable
from sentinel_store.images.local_files import LocalFiles, StoredFile
from sentinel_store.images.remote_files import RemoteFiles

logger = logging.getLogger(__name__)

T = TypeVar("T")
Files = LocalFiles | RemoteFiles

_THREADS = 16
_ASIDE = "aside"
_KINDS = ("images", "thumbnails")
_NAMED = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.webp)?")
# The two hex digits that files are spread over folders by.
SHARDS = tuple(f"{number:02x}" for number in range(256))
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that is there: its name below the root, and its size in bytes."""

    name: str
    size: int


class ObjectStore:
    """Use from one event loop; the blocking calls run in threads it owns."""

    def __init__(self, uri: str, *, presign_seconds: int = 3600) -> None:
        """Open the store; when it is local, make its folder and try to write there.

        A remote store is not asked for anything yet: its keys, endpoint and region come from its
        own environment variables (for S3 AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like).

        Args:
            uri: A folder, or an fsspec URI such as s3://bucket/prefix.
            presign_seconds: How long a presigned `image_uri` can be read; 0 for none.

        Raises:
            Unavailable: The place cannot be opened, or nothing can be written to it.
        """
        try:
            self._files = _open(uri, presign_seconds)
        except ImportError as error:
            raise Unavailable(
                "OBJECT_STORE_UNAVAILABLE",
                f"cannot open {uri}: {error}; for s3:// pip install '.[s3]' in Sentinel's folder",
            ) from error
        except Exception as error:  # each file system raises its own kinds
            raise _unavailable(error, f"{uri} cannot be opened") from error
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    async def image_uris(self, digests: Sequence[str]) -> list[str]:
        """Return URIs of the images with these SHA-256s, presigned where the store can.

        Raises:
            Unavailable: The store has no keys to sign with.
        """
        names = [_name("images", digest) for digest in digests]
        if isinstance(self._files, LocalFiles):
            return self._files.uris(names)
        return await self._run(self._files.uris, names) if names else []

    async def put_images(
        self, images: Sequence[tuple[str, bytes, bytes]], deadline: Deadline
    ) -> None:
        """Store (digest, image, thumbnail) triples; when it returns, all of them are durable.

        An empty thumbnail is none.

        Raises:
            Unavailable: The store refused a write; some of the others may be stored.
            DeadlineExceeded: It did not answer in time.
        """
        files = [(_name("thumbnails", digest), thumb) for digest, _, thumb in images if thumb]
        files += [(_name("images", digest), data) for digest, data, _ in images]
        parts = [files[start :: self._files.writers] for start in range(self._files.writers)]
        try:
            async with asyncio.timeout(deadline.for_next_hop("object_store")):
                # All of them end, even if one fails: nothing is being written behind an error.
                ended = await asyncio.gather(
                    *(self._run(self._files.write, part) for part in parts if part),
                    return_exceptions=True,
                )
        except TimeoutError as error:
            raise DeadlineExceeded(
                "OUT_OF_TIME", "the object store did not answer in time", stage="object_store"
            ) from error
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure

    async def get_thumbnails(self, digests: Sequence[str]) -> list[bytes]:
        """Return the WebP thumbnails in order; empty for one that is not there."""
        found = await self._run(
            self._files.read_many, [_name("thumbnails", digest) for digest in digests]
        )
        missing = [place for place, data in enumerate(found) if not data]
        if missing:
            names = [f"{_ASIDE}/{_name('thumbnails', digests[place])}" for place in missing]
            aside = await self._run(self._files.read_many, names)
            for place, data in zip(missing, aside, strict=True):
                found[place] = data
        return found

    async def find_image(self, digest: str) -> StoredImage | None:
        """Return an image's place and size; None if its bytes are not there.

        Raises:
            Unavailable: The store cannot be read.
        """
        return await self._run(self._find_image, digest)

    async def read_image(self, image: StoredImage, start: int, end: int) -> bytes | None:
        """Return the bytes from `start` to before `end`; None if the image vanished.

        Raises:
            Unavailable: The store cannot be read.
        """
        return await self._run(_unless_gone, self._files.read, image.name, start, end)

    async def list_shard(self, shard: str, *, aside: bool = False) -> list[StoredFile]:
        """Return the images and thumbnails of one of `SHARDS`, or what is set aside of them."""
        return await self._run(self._list_shard, shard, f"{_ASIDE}/" if aside else "")

    async def list_drafts(self) -> list[StoredFile]:
        """Return what is being written just now, and what crashed writers left."""
        return await self._run(lambda: list(self._files.drafts()))

    async def set_aside(self, name: str) -> bool:
        """Move a file out of the way and make it young; readers still find it.

        Returns False if it was not there any more.
        """
        return await self._run(self._move, name, f"{_ASIDE}/{name}")

    async def bring_back(self, name: str) -> bool:
        """Undo `set_aside`, given the name that the file has aside."""
        return await self._run(self._move, name, name.removeprefix(f"{_ASIDE}/"))

    async def remove(self, names: Sequence[str]) -> None:
        """Remove files for good."""
        await self._run(self._files.remove, names)

    def close(self) -> None:
        """Wait for the calls in progress."""
        self._executor.shutdown()

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, *arguments)
        except Exception as error:
            logger.exception("object store failed")
            raise _unavailable(error, "the object store failed") from error

    def _list_shard(self, shard: str, prefix: str) -> list[StoredFile]:
        return [
            file for kind in _KINDS for file in self._files.list_folder(f"{prefix}{kind}/{shard}")
        ]

    def _move(self, name: str, target: str) -> bool:
        try:
            self._files.move(name, target)
        except FileNotFoundError:
            return False
        return True

    def _find_image(self, digest: str) -> StoredImage | None:
        name = _name("images", digest)
        # Looked for aside, too: a row may have come just when its picture was taken for an orphan.
        for place in (name, f"{_ASIDE}/{name}"):
            size = _unless_gone(self._files.size, place)
            if size is not None:
                return StoredImage(place, size)
        if not self._files.is_there():
            raise FileNotFoundError("the whole store")
        return None


def digest_of(name: str) -> str | None:
    """Return the SHA-256 that a file is named by; None if somebody else put it there."""
    matched = _NAMED.fullmatch(name)
    return matched[1] if matched else None


def _name(kind: str, digest: str) -> str:
    suffix = ".webp" if kind == "thumbnails" else ""
    return f"{kind}/{digest[:2]}/{digest}{suffix}"


def _open(uri: str, presign_seconds: int) -> Files:
    # No listings kept, and no instance shared: what others write or set must be seen.
    file_system, root = fsspec.core.url_to_fs(
        uri, use_listings_cache=False, skip_instance_cache=True
    )
    if isinstance(file_system, LocalFileSystem):
        return LocalFiles(root)
    return RemoteFiles(file_system, root, presign_seconds)


def _unless_gone(function: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return function(*arguments)
    except FileNotFoundError:
        return None


def _unavailable(error: Exception, what: str) -> Unavailable:
    match error:
        case PermissionError():
            # Some stores say so of a bucket that is not there, too.
            why = "access is denied; check its keys, permissions and bucket"
        case FileNotFoundError():
            why = "its folder or bucket is not there; make it, or correct the URI"
        case OSError(errno=number) if number in _FULL:
            why = "it is full; make room"
        case _:
            why = f"{type(error).__name__}; check its address, permissions and space"
    return Unavailable("OBJECT_STORE_UNAVAILABLE", f"{what}: {why}, then retry")
