"""Read the originals of images that are stored by reference: files that stay where they are.

Callers name a file and its SHA-256. Whatever is wrong with the file gives the same answer as if it
were not there, and its bytes leave this module only if they have that SHA-256. So a caller learns
nothing about files that it does not know, wherever `reference_places` leads.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from os import fsdecode, fsencode
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

from search_server.image_uris.allowlist import Allowlist, ParsedUri
from search_server.image_uris.readers import FolderReader
from sentinel_core.calls import Deadline, together
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError, Unavailable
from sentinel_core.memory import MemoryBudget

T = TypeVar("T")

# Paths of 4,096 bytes, percent-encoded.
_MAX_URI_CHARS = 3 * 4_096
_AT_ONCE = 16
# For one request: enough to keep a worker busy, and 384 MiB of the largest images.
_MOST_HELD = 8
# Reads that never end, for example of a network drive that is gone, keep their threads.
_MOST_STUCK = 64
# What a disk answers that fails, not one that lacks the file.
_DISK_ERRORS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE}


class Originals:
    """Create and use it inside one event loop. There is nothing to close.

    Attributes:
        max_bytes: Of the largest original.
    """

    def __init__(self, places: Sequence[str], *, max_bytes: int, timeout_s: float) -> None:
        """Allow the files below `places`; touch none yet.

        Args:
            places: `file` URIs of folders; `file:///` allows all files.
            max_bytes: Of the largest original.
            timeout_s: Longest time to read one.

        Raises:
            InvalidArgument: A place is no folder's URI.
        """
        self._allowlist = Allowlist(places, setting="reference_places", schemes=("file",))
        self._readers = {prefix: FolderReader(prefix) for prefix in self._allowlist.prefixes}
        self.max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._stuck = 0

    async def read(self, uri: str, digest: str) -> bytes:
        """Return the bytes of the file at `uri`, if they have this SHA-256.

        Raises:
            InvalidArgument: It is no `file` URI (PARAMETER_OUT_OF_RANGE).
            PermissionDenied: No place covers it (URI_FORBIDDEN).
            NotFound: The file is not there, cannot be read, or has other bytes (ORIGINAL_GONE).
            Unavailable: Its disk fails, or does not answer in time (URI_UNAVAILABLE).
        """
        parsed = parse_file_uri(uri)
        reader = self._readers[self._allowlist.find(parsed)]
        async with self._slots:
            if self._stuck >= _MOST_STUCK:
                raise _unavailable(parsed, "too many other files do not answer")
            try:
                async with asyncio.timeout(self._timeout_s):
                    data = await self._in_thread(lambda: reader.read(parsed, self.max_bytes))
                    if await asyncio.to_thread(_sha256, data) == digest:
                        return data
            except TimeoutError:
                raise _unavailable(parsed, "it took too long") from None
            except SentinelError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
                    raise _unavailable(parsed, cause.strerror or type(cause).__name__) from error
                raise _gone(parsed) from error
        raise _gone(parsed)

    def at_once(self, memory: MemoryBudget) -> int:
        """Return how many originals may be in memory for one request: enough for a worker."""
        return max(1, min(_MOST_HELD, memory.largest // 2 // self.max_bytes))

    @asynccontextmanager
    async def held(
        self, wanted: Sequence[tuple[str, str]], memory: MemoryBudget, deadline: Deadline
    ) -> AsyncIterator[list[bytes | SentinelError]]:
        """Read several files, given as for `read`; hold memory for their bytes in the block.

        They are at most as many as `at_once` says. A file that cannot be read gives its error.
        Raises ResourceExhausted without memory.
        """
        # More than half could never be had: the caller's message holds some, too.
        most = min(len(wanted) * self.max_bytes, memory.largest // 2)
        async with memory.share(most, deadline) as share:
            found = await together([self._read_or_error(*one) for one in wanted])
            share.resize(sum(len(one) for one in found if isinstance(one, bytes)))
            yield found

    async def _read_or_error(self, uri: str, digest: str) -> bytes | SentinelError:
        try:
            return await self.read(uri, digest)
        except SentinelError as error:
            return error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a call that may never end in a thread that no shutdown waits for."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            self._stuck -= answer.cancelled()
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, failure = None, None
            try:
                result = call()
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, result, failure)

        threading.Thread(target=run, name="original", daemon=True).start()
        try:
            return await answer
        except asyncio.CancelledError:
            self._stuck += answer.cancelled()
            raise


def parse_file_uri(uri: str) -> ParsedUri:
    """Return the parts of a `file` URI, as `Path.as_uri` writes it; raise InvalidArgument."""
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    segments = [fsdecode(unquote_to_bytes(segment)) for segment in path.split("/")]
    if (
        len(uri) > _MAX_URI_CHARS
        or scheme.lower() != "file"
        or authority not in ("", "localhost")
        or not slash
        or set("?#\\") & set(path)
        or any(_is_no_name(segment) for segment in segments)
    ):
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            "by_reference takes the URI of a file on the gateway's machine with its whole path, "
            "such as file:///folder/picture.jpg",
        )
    return ParsedUri("file", "", tuple(segments))


def _is_no_name(segment: str) -> bool:
    return segment in ("", ".", "..") or "/" in segment or "\0" in segment


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _gone(parsed: ParsedUri) -> NotFound:
    return NotFound(
        "ORIGINAL_GONE",
        f"the original of the image is gone: {_path(parsed)} is not there, cannot be read, or has "
        "other content than the item; index its folder again, or delete the item",
        uri="file:///" + "/".join(quote(fsencode(segment), safe="") for segment in parsed.path),
    )


def _unavailable(parsed: ParsedUri, why: str) -> Unavailable:
    return Unavailable(
        "URI_UNAVAILABLE", f"{_path(parsed)} could not be read ({why}); check its disk, then retry"
    )


def _path(parsed: ParsedUri) -> str:
    """Return the path for messages."""
    return "/" + "/".join(parsed.path).encode(errors="backslashreplace").decode()[:200]
