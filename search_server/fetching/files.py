"""Reads images from local folders and from whatever fsspec can open. Blocking: run in threads."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Any

import fsspec

from search_server.fetching.answers import empty, forbidden, not_found, too_large, unavailable
from search_server.fetching.places import Place, Target
from sentinel_core.errors import SentinelError, Unavailable


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
