"""The folder of one run, local or in an object store: all that a restart needs to know.

    run.json            what this run is (plan.py)
    plan/000012.parquet the entries of shard 12; plan.json once all shards are cut
    rows/000012.parquet its rows, in the collection's layout
    failures/000012.jsonl what could not be indexed, and why
    done/000012.json    written last: shard 12 is finished and never embedded again
    delivered/000012.json its rows are in Milvus
    failures.jsonl      all failures, at the end of the run

Every file but the last is written whole or not at all, so what is there is right.
"""

from __future__ import annotations

import os
import uuid
from contextlib import AbstractContextManager, suppress
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer.errors import BulkError


class RunFolder:
    """Thread-safe, and cheap to make in any process from the same URI."""

    def __init__(self, uri: str) -> None:
        """Open the folder.

        Raises:
            BulkError: There is no such place.
        """
        self.uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise BulkError(f"cannot open the run folder {uri}: {error}") from error
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: It is not there.
        """
        return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, over what was there."""
        path = self._path(name)
        if not self._is_local:
            self._fs.pipe_file(path, data)  # one PUT, atomic by the store's own promise
            return
        draft = f"{path}.{uuid.uuid4().hex}.tmp"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(draft, "wb") as file:
                file.write(data)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                os.unlink(draft)  # a full disk should not fill further
            raise

    def open_for_writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file too large for `write`; a crash may leave it cut short."""
        self._fs.makedirs(self._root, exist_ok=True)
        opened: AbstractContextManager[IO[bytes]] = self._fs.open(self._path(name), "wb")
        return opened

    def numbers(self, folder: str) -> set[int]:
        """Return the shards that have a file in `folder`."""
        self._fs.invalidate_cache()  # another process may have written
        try:
            paths = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return set()
        names = (str(path).rsplit("/", 1)[-1].split(".", 1) for path in paths)
        return {int(name[0]) for name in names if name[0].isdigit() and "tmp" not in name[1]}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def shard_file(folder: str, shard: int) -> str:
    """Return the name of a shard's file in one of the run's folders."""
    suffix = {"plan": "parquet", "rows": "parquet", "failures": "jsonl"}.get(folder, "json")
    return f"{folder}/{shard:06d}.{suffix}"
