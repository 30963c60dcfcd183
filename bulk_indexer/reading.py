"""The bytes of an entry's file, from wherever fsspec reaches; tried again where that may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer.inputs import modified_at
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError, Unavailable

_THREADS = 32
_PAUSES_S = (0.5, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file's bytes, and when it was changed, in seconds since 1970, if that was learned."""

    data: bytes
    modified_at: int | None = None


class FileReader:
    """Use from one event loop; reads run in threads it owns.

    Args:
        max_bytes: Larger files are refused; no more of them is read.
        pause: Waits between attempts.
    """

    def __init__(self, max_bytes: int, pause: Callable[[float], None] = time.sleep) -> None:
        self._max_bytes = max_bytes
        self._pause = pause
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")

    async def read(self, uri: str) -> FileRead:
        """Return a file.

        Raises:
            NotFound: URI_NOT_FOUND.
            Unavailable: URI_UNAVAILABLE, after several attempts; or it may not be read.
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
                raise NotFound("URI_NOT_FOUND", "no file is there (any more)") from error
            except (PermissionError, ImportError, ValueError) as error:
                raise _unreadable(error) from error  # it will be no other next time
            except Exception as error:  # each file system has its own kinds
                if pause is None:
                    raise _unreadable(error) from error
                self._pause(pause)
        raise AssertionError  # the last round returns or raises

    def _attempt(self, uri: str) -> FileRead:
        file_system, path = fsspec.core.url_to_fs(uri)
        if isinstance(file_system, LocalFileSystem):
            details = file_system.info(path)
            if details["type"] != "file":  # opening a pipe would wait for ever
                raise PermissionError("not a regular file")
            self._check(details["size"])
            return FileRead(bytes(file_system.cat_file(path)), modified_at(details))
        return FileRead(self._fetch(file_system, path))

    def _fetch(self, file_system: Any, path: str) -> bytes:
        """Return an object with one request, of a too large one no more than shows that it is."""
        try:
            data = bytes(file_system.cat_file(path, start=0, end=self._max_bytes + 1))
        except FileNotFoundError:
            raise
        except Exception:
            # An empty object has no range to be read; what else went wrong comes up again here.
            details = file_system.info(path)
            if details.get("size") != 0:
                raise
            return b""
        self._check(len(data))
        return data

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise InvalidArgument(
                "IMAGE_TOO_LARGE",
                f"the image has more than {self._max_bytes} bytes; scale it down",
                limit=self._max_bytes,
            )


def _unreadable(error: Exception) -> Unavailable:
    text = " ".join(str(error).split())[:200]
    return Unavailable("URI_UNAVAILABLE", f"cannot be read: {type(error).__name__}: {text}")
