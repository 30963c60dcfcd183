"""Store image bytes and thumbnails by their digest, in a local folder or through fsspec.

    images/ab/abcdef…           the encoded file as it was sent, named by its SHA-256
    thumbnails/ab/abcdef….webp  its thumbnail
    aside/…                     files that no row names, until `collect-orphans` deletes them
    damaged/…                   files with other bytes than they should have, found by `check`
    drafts/…                    local disks only: files that are being written

The name follows from the bytes. So a repeated write changes nothing, and two writers of the same
image cannot damage each other's file.
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
from sentinel_core.errors import DeadlineExceeded, SentinelError, Unavailable
from sentinel_store.images.local_files import LocalFiles, StoredFile
from sentinel_store.images.remote_files import RemoteFiles

logger = logging.getLogger(__name__)

T = TypeVar("T")
Files = LocalFiles | RemoteFiles

_THREADS = 16
_TRY_EVERY_S = 5.0
_TRY_TIMEOUT_S = 20.0
_ASIDE = "aside"
_KINDS = ("images", "thumbnails")
_NAMED = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.webp)?")
# Files are spread over 256 folders by their first two hex digits.
SHARDS = tuple(f"{number:02x}" for number in range(256))
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {errno.EROFS, *_FULL}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An existing image: its name below the root, and its size in bytes."""

    name: str
    size: int


class ImageStore:
    """Use from one event loop; the blocking calls run in threads that it owns.

    Every method raises Unavailable if the store cannot be read or written.

    Attributes:
        problem: Why images cannot be stored just now; None if they can, as far as is known.
    """

    def __init__(self, uri: str, *, presign_seconds: int = 3600) -> None:
        """Open the store; create a local store's folder and try to write to it.

        A remote store is not contacted yet. Its keys, endpoint and region come from its own
        environment variables (for S3 AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on). Raises
        Unavailable if the store cannot be opened or written to. But one that is full or read-only
        just now is a `problem` only, since its images can be read.

        Args:
            uri: A folder, or an fsspec URI such as s3://bucket/prefix.
            presign_seconds: How long a presigned `image_uri` is valid; 0 returns plain URIs.
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
        self.problem = self._first_problem(uri)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    def _first_problem(self, uri: str) -> SentinelError | None:
        # Now rather than in the first upsert, for example on a volume of another user.
        try:
            if isinstance(self._files, LocalFiles):
                self._files.probe()
        except OSError as error:
            problem = _unavailable(error, f"{uri} cannot be opened")
            if error.errno not in _PASSING:
                raise problem from error
            logger.error("images cannot be stored", extra={"why": problem.message})
            return problem
        return None

    async def run(self) -> None:
        """Try every few seconds whether images can be stored, for ever; see `problem`.

        A remote store is only tried at the beginning and after a failed write.
        """
        is_local = isinstance(self._files, LocalFiles)
        is_first = True
        while True:
            if is_local or is_first or self.problem is not None:
                self.problem = await self._try_to_write()
            is_first = False
            await asyncio.sleep(_TRY_EVERY_S)

    async def _try_to_write(self) -> SentinelError | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_TRY_TIMEOUT_S):
                await loop.run_in_executor(self._executor, self._files.probe)
        except TimeoutError:
            return Unavailable(
                "OBJECT_STORE_UNAVAILABLE", "the object store does not answer in time; check it"
            )
        except Exception as error:  # each file system raises its own kinds
            return _unavailable(error, "the object store failed")
        return None

    async def image_uris(self, digests: Sequence[str]) -> list[str]:
        """Return URIs of the images with these SHA-256s, presigned where the store can."""
        names = [_name("images", digest) for digest in digests]
        if isinstance(self._files, LocalFiles):
            return self._files.uris(names)
        return await self._run(self._files.uris, names) if names else []

    async def put_images(
        self, images: Sequence[tuple[str, bytes, bytes]], deadline: Deadline
    ) -> None:
        """Store (digest, image, thumbnail) triples; they are durable when it returns.

        Empty bytes are not stored. After an error some of the files may be stored.
        """
        files = [(_name("thumbnails", digest), thumb) for digest, _, thumb in images if thumb]
        files += [(_name("images", digest), data) for digest, data, _ in images if data]
        parts = [files[start :: self._files.writers] for start in range(self._files.writers)]
        try:
            async with asyncio.timeout(deadline.for_next_hop("object_store")):
                # Wait for all, even if one fails: after an error no write may still be running.
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
                self.problem = failure if isinstance(failure, SentinelError) else self.problem
                raise failure

    async def get_thumbnails(self, digests: Sequence[str]) -> list[bytes]:
        """Return the WebP thumbnails, in order; empty for missing ones."""
        found = await self._run(
            self._files.read_many, [_name("thumbnails", digest) for digest in digests]
        )
        missing = [position for position, data in enumerate(found) if not data]
        if missing:
            names = [f"{_ASIDE}/{_name('thumbnails', digests[position])}" for position in missing]
            aside = await self._run(self._files.read_many, names)
            for position, data in zip(missing, aside, strict=True):
                found[position] = data
        return found

    async def find_image(self, digest: str) -> StoredImage | None:
        """Return an image's name and size; None if its bytes are missing."""
        return await self._run(self._find, "images", digest)

    async def find_thumbnail(self, digest: str) -> StoredImage | None:
        """Return the name and the size of an image's thumbnail; None if there is none."""
        return await self._run(self._find, "thumbnails", digest)

    async def read_image(self, image: StoredImage, start: int, end: int) -> bytes | None:
        """Return the bytes from `start` up to `end`, exclusive; None if the image was deleted."""
        return await self._run(_unless_missing, self._files.read, image.name, start, end)

    async def list_shard(self, shard: str, *, aside: bool = False) -> list[StoredFile]:
        """Return the images and thumbnails of one of `SHARDS`; with `aside`, those set aside."""
        return await self._run(self._list_shard, shard, f"{_ASIDE}/" if aside else "")

    async def list_unfinished(self) -> list[StoredFile]:
        """Return files that are being written, and files that crashed writers left."""
        return await self._run(lambda: list(self._files.unfinished()))

    async def set_aside(self, name: str) -> bool:
        """Move a file aside and set its time to now; readers still find it.

        Returns False if it does not exist any more.
        """
        return await self._run(self._move, name, f"{_ASIDE}/{name}")

    async def bring_back(self, name: str) -> bool:
        """Undo `set_aside`, given the current name of the file."""
        return await self._run(self._move, name, name.removeprefix(f"{_ASIDE}/"))

    async def set_damaged(self, name: str) -> None:
        """Move a damaged file to `damaged/`, where readers do not find it."""
        await self._run(self._move, name, f"damaged/{name}")

    async def remove(self, names: Sequence[str]) -> None:
        """Delete files."""
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

    def _find(self, kind: str, digest: str) -> StoredImage | None:
        name = _name(kind, digest)
        # Also look aside: a row may have been written just after its image was set aside.
        for path in (name, f"{_ASIDE}/{name}"):
            size = _unless_missing(self._files.size, path)
            if size is not None:
                return StoredImage(path, size)
        if not self._files.exists():
            raise FileNotFoundError("the whole store")
        return None


def digest_of(name: str) -> str | None:
    """Return the SHA-256 in a file's name; None for files that are not ours."""
    matched = _NAMED.fullmatch(name)
    return matched[1] if matched else None


def _name(kind: str, digest: str) -> str:
    suffix = ".webp" if kind == "thumbnails" else ""
    return f"{kind}/{digest[:2]}/{digest}{suffix}"


def _open(uri: str, presign_seconds: int) -> Files:
    # Neither cache listings nor share the instance: we must see what others write or configure.
    file_system, root = fsspec.core.url_to_fs(
        uri, use_listings_cache=False, skip_instance_cache=True
    )
    if isinstance(file_system, LocalFileSystem):
        return LocalFiles(root)
    return RemoteFiles(file_system, root, presign_seconds)


def _unless_missing(function: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return function(*arguments)
    except FileNotFoundError:
        return None


def _unavailable(error: Exception, what: str) -> Unavailable:
    match error:
        case PermissionError():
            # Some stores also answer this for a missing bucket.
            why = "access is denied; check its keys, permissions and bucket"
        case FileNotFoundError():
            why = "its folder or bucket does not exist; create it, or correct the URI"
        case OSError(errno=number) if number in _FULL:
            why = "it is full; make room"
        case OSError(errno=errno.EROFS):
            why = "it is read-only; make it writable"
        case _:
            why = f"{type(error).__name__}; check its address, permissions and space"
    return Unavailable("OBJECT_STORE_UNAVAILABLE", f"{what}: {why}, then retry")
