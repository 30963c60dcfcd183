"""The ways in which a fetch can fail, worded alike for every kind of place.

Reads images from local folders and from whatever fsspec can open. Blocking: run in threads.

Reads images over http and https. The only file that makes requests to servers of others.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Any

import aiohttp
import fsspec
from aiohttp.abc import AbstractResolver

from search_server.image_uris.allowlist import Place, Places, Target, http_target, read_url
from search_server.image_uris.ssrf_guard import AddressGuard
from sentinel_core.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SentinelError,
    Unavailable,
)


def forbidden(target: Target, why: str) -> PermissionDenied:
    """Return the error for what the place, or a rule, does not hand out."""
    return PermissionDenied("URI_FORBIDDEN", f"{target.printable} {why}; send the bytes instead")


def not_found(target: Target, why: str) -> NotFound:
    """Return the error for what is not there."""
    return NotFound("URI_NOT_FOUND", f"there is no file at {target.printable} ({why})")


def unavailable(target: Target, why: str) -> Unavailable:
    """Return the error for a place that does not answer as it should."""
    return Unavailable(
        "URI_UNAVAILABLE", f"{target.printable} could not be read ({why}); try again"
    )


def too_large(target: Target, max_bytes: int) -> InvalidArgument:
    """Return the error for a file of more than `max_bytes`."""
    return InvalidArgument(
        "IMAGE_TOO_LARGE",
        f"the file at {target.printable} has more than {max_bytes} bytes; use a smaller version",
        limit=max_bytes,
    )


def empty(target: Target) -> InvalidArgument:
    """Return the error for a file without bytes."""
    return InvalidArgument("IMAGE_EMPTY", f"the file at {target.printable} is empty")


class FolderReader:
    """Reads files below one local folder.

    The folder itself may be reached through symbolic links; below it none is followed, so nothing
    outside it can be read, whoever may write into it.
    """

    def __init__(self, place: Place) -> None:
        self._depth = len(place.path)
        self._root = "/" + "/".join(place.path)

    def read(self, target: Target, max_bytes: int) -> bytes:
        """Return the bytes of the file at `target`.

        Raises:
            SentinelError: URI_FORBIDDEN, URI_NOT_FOUND, URI_UNAVAILABLE, IMAGE_TOO_LARGE or
                IMAGE_EMPTY.
        """
        names = [name for name in target.path[self._depth :] if name]
        try:
            with ExitStack() as opened:
                folder = _opened(opened, self._root, None, os.O_DIRECTORY)
                for name in names[:-1]:
                    _refuse_link(name, folder, target)
                    folder = _opened(opened, name, folder, os.O_DIRECTORY | os.O_NOFOLLOW)
                return _read_regular(opened, names, folder, target, max_bytes)
        except PermissionError as error:
            raise forbidden(target, "may not be read by the gateway") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_found(target, error.strerror or "no such file") from error
        except OSError as error:
            raise unavailable(target, error.strerror or type(error).__name__) from error


def _read_regular(
    opened: ExitStack, names: list[str], folder: int, target: Target, max_bytes: int
) -> bytes:
    if not names:
        raise not_found(target, "it is the folder itself")
    _refuse_link(names[-1], folder, target)
    # Not blocking, or opening a named pipe would wait for its writer.
    descriptor = _opened(opened, names[-1], folder, os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise not_found(target, "it is no regular file")
    if status.st_size > max_bytes:
        raise too_large(target, max_bytes)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(target, max_bytes)
    if not data:
        raise empty(target)
    return data


def _opened(opened: ExitStack, name: str, folder: int | None, flags: int) -> int:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    opened.callback(os.close, descriptor)
    return descriptor


def _refuse_link(name: str, folder: int, target: Target) -> None:
    """Say clearly what `O_NOFOLLOW` would refuse anyway, in words that differ by system."""
    if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise forbidden(target, "is reached through a symbolic link")


class StoreReader:
    """Reads objects below one place of a file system that fsspec knows.

    The file system is opened with the operator's URI and its path alone comes from callers, so no
    caller can choose options, endpoints or another file system.
    """

    def __init__(self, place: Place) -> None:
        """Remember the place; the first read opens it.

        Raises:
            Unavailable: What its scheme needs is not installed.
        """
        try:
            fsspec.get_filesystem_class(place.scheme)
        except (ImportError, ValueError) as error:
            raise Unavailable(
                "URI_UNAVAILABLE", f"cannot fetch from {place.uri}: {error}"
            ) from error
        self._uri = place.uri
        self._depth = len(place.path)

    def read(self, target: Target, max_bytes: int) -> bytes:
        """Return the bytes of the object at `target`.

        Raises:
            SentinelError: URI_FORBIDDEN, URI_NOT_FOUND, URI_UNAVAILABLE, IMAGE_TOO_LARGE or
                IMAGE_EMPTY.
        """
        try:
            return self._read(target, max_bytes)
        except SentinelError:
            raise
        except FileNotFoundError as error:
            raise not_found(target, "the store has no such object") from error
        except PermissionError as error:
            raise forbidden(target, "may not be read by the gateway") from error
        except Exception as error:  # each file system raises its own kinds
            raise unavailable(target, type(error).__name__) from error

    def _read(self, target: Target, max_bytes: int) -> bytes:
        file_system, root = fsspec.core.url_to_fs(self._uri)  # one instance for equal URIs
        path = "/".join([root.rstrip("/"), *target.path[self._depth :]])
        found: dict[str, Any] = file_system.info(path)
        if found["type"] != "file":
            raise not_found(target, "it is no object")
        size = int(found["size"])
        if size > max_bytes:
            raise too_large(target, max_bytes)
        if size == 0:
            raise empty(target)
        # Not beyond its size of a moment ago: it may have been replaced by a larger one.
        return bytes(file_system.cat_file(path, start=0, end=size))


_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_REFUSED = (401, 403, 407, 451)
_LATER = (408, 425, 429)


class HttpReader:
    """Use from one event loop, and make it there. Waits without end: callers set a timeout."""

    def __init__(
        self,
        places: Places,
        *,
        allow_private: bool,
        max_redirects: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            places: Where it may go, checked again at each redirect.
            allow_private: Whether it may connect to addresses that are not public.
            max_redirects: Most redirects of one request.
            resolver: Resolves host names; the system's when None.
        """
        self._places = places
        self._max_redirects = max_redirects
        self._guard = AddressGuard(
            resolver or aiohttp.ThreadedResolver(), allow_private=allow_private
        )
        self._session = aiohttp.ClientSession(
            # No cache of names: each new connection is made to addresses that were just checked.
            connector=aiohttp.TCPConnector(resolver=self._guard, use_dns_cache=False, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            # Pictures are compressed as they are; anything else here would be a bomb.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "sentinel-gateway"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Neither a proxy nor credentials from the environment.
            trust_env=False,
        )

    async def read(self, target: Target, max_bytes: int) -> bytes:
        """Return the body at `target`, which the caller found in a place of the list.

        Raises:
            SentinelError: URI_FORBIDDEN, URI_NOT_FOUND, URI_UNAVAILABLE, IMAGE_TOO_LARGE or
                IMAGE_EMPTY.
        """
        for _ in range(self._max_redirects + 1):
            assert target.url is not None
            self._guard.check_literal(target.url.raw_host or "")
            try:
                async with self._session.get(target.url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await _body(response, target, max_bytes)
                    following = response.headers.get("Location", "")
            except (aiohttp.ClientError, OSError) as error:
                raise unavailable(target, type(error).__name__) from error
            target = self._redirected(target, following)
        raise forbidden(target, f"follows more than {self._max_redirects} redirects")

    def _redirected(self, target: Target, location: str) -> Target:
        assert target.url is not None
        try:
            following = http_target(target.url.join(read_url(location)))
        except ValueError as error:
            raise unavailable(target, "a redirect to no URL") from error
        self._places.find(following)
        return following

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def _body(response: aiohttp.ClientResponse, target: Target, max_bytes: int) -> bytes:
    status = response.status
    if status in _REFUSED:
        raise forbidden(target, f"answers the gateway with {status}")
    if status in _LATER or status >= 500:
        raise unavailable(target, f"HTTP {status}")
    if status != 200:
        raise not_found(target, f"HTTP {status}")
    if (response.content_length or 0) > max_bytes:
        raise too_large(target, max_bytes)
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise too_large(target, max_bytes)
    if not data:
        raise empty(target)
    return bytes(data)
