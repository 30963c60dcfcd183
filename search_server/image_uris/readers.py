"""Read one image by URI: from a local folder, from a file system of fsspec, or over http.

All three raise the errors that the functions at the top make: URI_FORBIDDEN, URI_NOT_FOUND,
URI_UNAVAILABLE, IMAGE_TOO_LARGE or IMAGE_EMPTY. `FolderReader` and `StoreReader` block: run them in
threads. Only `HttpReader` sends requests to servers outside of this installation.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Any

import aiohttp
import fsspec
from aiohttp.abc import AbstractResolver

from search_server.image_uris.allowlist import (
    AllowedPrefix,
    Allowlist,
    HttpUri,
    ParsedUri,
    parse_http,
    to_url,
)
from search_server.image_uris.ssrf_guard import AddressGuard
from sentinel_core.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SentinelError,
    Unavailable,
)


def forbidden(uri: ParsedUri, why: str) -> PermissionDenied:
    """Return the error for a file that the gateway may not read."""
    return PermissionDenied("URI_FORBIDDEN", f"{uri.printable} {why}; send the bytes instead")


def not_found(uri: ParsedUri, why: str) -> NotFound:
    """Return the error for a file that does not exist."""
    return NotFound("URI_NOT_FOUND", f"there is no file at {uri.printable} ({why})")


def unavailable(uri: ParsedUri, why: str) -> Unavailable:
    """Return the error for a source that does not answer correctly now."""
    return Unavailable("URI_UNAVAILABLE", f"{uri.printable} could not be read ({why}); try again")


def too_large(uri: ParsedUri, max_bytes: int) -> InvalidArgument:
    """Return the error for a file of more than `max_bytes`."""
    return InvalidArgument(
        "IMAGE_TOO_LARGE",
        f"the file at {uri.printable} has more than {max_bytes} bytes; use a smaller version, "
        "or raise the --max-image-bytes of gateways and workers",
        limit=max_bytes,
    )


def empty(uri: ParsedUri) -> InvalidArgument:
    """Return the error for a file without bytes."""
    return InvalidArgument("IMAGE_EMPTY", f"the file at {uri.printable} is empty")


class FolderReader:
    """Reads files below one local folder.

    The path to the folder may contain symbolic links. Below the folder none is followed, so
    nothing outside can be read, whoever can write into it.
    """

    def __init__(self, prefix: AllowedPrefix) -> None:
        self._depth = len(prefix.path)
        self._root = "/" + "/".join(prefix.path)

    def read(self, uri: ParsedUri, max_bytes: int) -> bytes:
        """Return the bytes of the file at `uri`."""
        names = [name for name in uri.path[self._depth :] if name]
        try:
            with ExitStack() as opened:
                folder = _opened(opened, self._root, None, os.O_DIRECTORY)
                for name in names[:-1]:
                    _refuse_link(name, folder, uri)
                    folder = _opened(opened, name, folder, os.O_DIRECTORY | os.O_NOFOLLOW)
                return _read_regular(opened, names, folder, uri, max_bytes)
        except PermissionError as error:
            raise forbidden(uri, "may not be read by the gateway") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_found(uri, error.strerror or "no such file") from error
        except OSError as error:
            raise unavailable(uri, error.strerror or type(error).__name__) from error


def _read_regular(
    opened: ExitStack, names: list[str], folder: int, uri: ParsedUri, max_bytes: int
) -> bytes:
    if not names:
        raise not_found(uri, "it is the folder itself")
    # Before it is opened: that alone makes some devices do something.
    if not stat.S_ISREG(_refuse_link(names[-1], folder, uri)):
        raise not_found(uri, "it is no regular file")
    # Not blocking, or opening a named pipe would wait for its writer.
    descriptor = _opened(opened, names[-1], folder, os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # somebody has replaced it just now
        raise not_found(uri, "it is no regular file")
    if status.st_size > max_bytes:
        raise too_large(uri, max_bytes)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(uri, max_bytes)
    if not data:
        raise empty(uri)
    return data


def _opened(opened: ExitStack, name: str, folder: int | None, flags: int) -> int:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    opened.callback(os.close, descriptor)
    return descriptor


def _refuse_link(name: str, folder: int, uri: ParsedUri) -> int:
    """Return the mode of what is there, unless it is a link: then raise a clear error.

    `O_NOFOLLOW` refuses links too, with a different text per system.
    """
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise forbidden(uri, "is reached through a symbolic link")
    return mode


class StoreReader:
    """Reads objects below one prefix of a file system that fsspec supports.

    The operator's URI opens the file system; callers provide a path only. So no caller can choose
    options, endpoints or another file system.
    """

    def __init__(self, prefix: AllowedPrefix) -> None:
        """Raise Unavailable without the package for its scheme; the first read opens it."""
        try:
            fsspec.get_filesystem_class(prefix.scheme)
        except (ImportError, ValueError) as error:
            raise Unavailable(
                "URI_UNAVAILABLE", f"cannot fetch from {prefix.uri}: {error}"
            ) from error
        self._uri = prefix.uri
        self._depth = len(prefix.path)

    def read(self, uri: ParsedUri, max_bytes: int) -> bytes:
        """Return the bytes of the object at `uri`."""
        try:
            return self._read(uri, max_bytes)
        except SentinelError:
            raise
        except FileNotFoundError as error:
            raise not_found(uri, "the store has no such object") from error
        except PermissionError as error:
            raise forbidden(uri, "may not be read by the gateway") from error
        except Exception as error:  # each file system raises its own kinds
            raise unavailable(uri, type(error).__name__) from error

    def _read(self, uri: ParsedUri, max_bytes: int) -> bytes:
        file_system, root = fsspec.core.url_to_fs(self._uri)  # one instance for equal URIs
        path = "/".join([root.rstrip("/"), *uri.path[self._depth :]])
        found: dict[str, Any] = file_system.info(path)
        if found["type"] != "file":
            raise not_found(uri, "it is no object")
        size = int(found["size"])
        if size > max_bytes:
            raise too_large(uri, max_bytes)
        if size == 0:
            raise empty(uri)
        # At most the size of a moment ago: somebody may have replaced it by a larger object.
        return bytes(file_system.cat_file(path, start=0, end=size))


_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_REFUSED = (401, 403, 407, 451)
_LATER = (408, 425, 429)


class HttpReader:
    """Create and use it inside one event loop. It has no timeout: callers set one."""

    def __init__(
        self,
        allowlist: Allowlist,
        *,
        allow_private: bool,
        max_redirects: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Open no connection yet. The allowlist is checked again at each redirect."""
        self._allowlist = allowlist
        self._max_redirects = max_redirects
        self._guard = AddressGuard(
            resolver or aiohttp.ThreadedResolver(), allow_private=allow_private
        )
        self._session = aiohttp.ClientSession(
            # No DNS cache: each new connection goes to addresses that were checked just before.
            connector=aiohttp.TCPConnector(resolver=self._guard, use_dns_cache=False, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            # Image files are compressed already; compressed content here would be a bomb.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "sentinel-gateway"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Neither a proxy nor credentials from the environment.
            trust_env=False,
        )

    async def read(self, uri: HttpUri, max_bytes: int) -> bytes:
        """Return the body at `uri`, which the allowlist covers."""
        for _ in range(self._max_redirects + 1):
            self._guard.check_literal(uri.url.raw_host or "")
            try:
                async with self._session.get(uri.url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await _body(response, uri, max_bytes)
                    following = response.headers.get("Location", "")
            except (aiohttp.ClientError, OSError) as error:
                raise unavailable(uri, type(error).__name__) from error
            uri = self._redirected(uri, following)
        raise forbidden(uri, f"follows more than {self._max_redirects} redirects")

    def _redirected(self, uri: HttpUri, location: str) -> HttpUri:
        try:
            following = parse_http(uri.url.join(to_url(location)))
        except ValueError as error:
            raise unavailable(uri, "it redirects to an invalid URL") from error
        self._allowlist.find(following)
        return following

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def _body(response: aiohttp.ClientResponse, uri: ParsedUri, max_bytes: int) -> bytes:
    status = response.status
    if status in _REFUSED:
        raise forbidden(uri, f"answers the gateway with {status}")
    if status in _LATER or status >= 500:
        raise unavailable(uri, f"HTTP {status}")
    if status != 200:
        raise not_found(uri, f"HTTP {status}")
    if (response.content_length or 0) > max_bytes:
        raise too_large(uri, max_bytes)
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise too_large(uri, max_bytes)
    if not data:
        raise empty(uri)
    return bytes(data)
