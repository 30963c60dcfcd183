"""Read the files of entries from any file system that fsspec knows; retry where that may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer.entries import modified_at
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError, Unavailable

_THREADS = 32
_PAUSES_S = (0.5, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file's bytes, and when it was changed, in seconds since 1970, if that is known."""

    data: bytes
    modified_at: int | None = None


class FileReader:
    """Reads files of up to `max_bytes` in its own threads. Use from one event loop."""

    def __init__(self, max_bytes: int, pause: Callable[[float], None] = time.sleep) -> None:
        self._max_bytes = max_bytes
        self._pause = pause
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")

    async def read(self, uri: str) -> FileRead:
        """Return a file.

        Raises:
            NotFound: URI_NOT_FOUND.
            Unavailable: URI_UNAVAILABLE: not permitted, or several attempts failed.
            InvalidArgument: IMAGE_TOO_LARGE.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, uri)

    def close(self) -> None:
        """Wait for the reads in progress."""
        self._threads.shutdown()

    def _read(self, uri: str) -> FileRead:
        for pause in (*_PAUSES_S, None):
            try:
                return self._attempt(uri)
            except SentinelError:
                raise
            except (FileNotFoundError, IsADirectoryError) as error:
                raise NotFound("URI_NOT_FOUND", "there is no such file") from error
            except (PermissionError, ImportError, ValueError) as error:
                raise _unreadable(error) from error  # a retry would fail in the same way
            except Exception as error:  # each file system raises its own kinds
                if pause is None:
                    raise _unreadable(error) from error
                self._pause(pause)
        raise AssertionError  # the last attempt returns or raises

    def _attempt(self, uri: str) -> FileRead:
        file_system, path = fsspec.core.url_to_fs(uri)
        if isinstance(file_system, LocalFileSystem):
            details = file_system.info(path)
            if details["type"] != "file":  # opening a pipe would block forever
                raise PermissionError("not a regular file")
            self._check(details["size"])
            return FileRead(bytes(file_system.cat_file(path)), modified_at(details))
        return FileRead(self._fetch(file_system, path))

    def _fetch(self, file_system: Any, path: str) -> bytes:
        """Return an object with one request for at most one byte more than the limit."""
        try:
            data = bytes(file_system.cat_file(path, start=0, end=self._max_bytes + 1))
        except FileNotFoundError:
            raise
        except Exception:
            # A range of an empty object is an error; any other error is raised again.
            if file_system.info(path).get("size") != 0:
                raise
            return b""
        self._check(len(data))
        return data

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise InvalidArgument(
                "IMAGE_TOO_LARGE",
                f"the image has more than {self._max_bytes} bytes; scale it down, or raise "
                "--max-image-bytes here and at the gateways",
                limit=self._max_bytes,
            )


def _unreadable(error: Exception) -> Unavailable:
    text = " ".join(str(error).split())[:200]
    return Unavailable("URI_UNAVAILABLE", f"cannot be read: {type(error).__name__}: {text}")
