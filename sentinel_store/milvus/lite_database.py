"""Open and close the folder of Milvus Lite, which runs in this process, and try whether it is well.

We open it ourselves rather than by pymilvus, which hides why it cannot open a folder, flushes
when it closes, and never closes before the process ends.

After a failed write or flush, what Lite 3.2.2 has in memory is not what it has acknowledged. The
rows of a failed flush are only in the old log, which the next flush deletes. A failed append leaves
half a record in the log, behind which later records are never read. So whoever sees a write fail
must `abandon` the folder, which flushes nothing, and `open` it again, which reads the logs.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.exceptions import DataDirLockedError
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from sentinel_core.calls import Deadline
from sentinel_core.errors import Unavailable
from sentinel_store.images.local_files import sync_folder
from sentinel_store.milvus import (
    errors,
    lite_files,
    lite_patterns,
    lite_reads,
    lite_search,
    lite_sync,
)
from sentinel_store.milvus.lite_channel import LiteChannel
from sentinel_store.milvus.lite_log import sync_log
from sentinel_store.milvus.lite_sync import Lite, SyncedLite

logger = logging.getLogger(__name__)

# pymilvus wants an address and remembers schemas by it, so each open database has its own. It dials
# none, and nobody could listen there.
_addresses = (f"unix:/dev/null/{number}" for number in itertools.count())
_CONNECT_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 600.0
_MOST_NAMED = 3  # damaged files in one message
# Room that must be there before a full disk is tried again.
_PROBE_BYTES = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LiteDatabase:
    """One folder. Use from one thread at a time.

    Attributes:
        folder: The path that users give, which ends in `.db`.
    """

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        """Keep the path. `fsync`: force each write to disk before it is acknowledged."""
        self.folder = folder
        self._fsync = fsync
        self._client: MilvusClient | None = None
        self._lite: Any = None
        self._lock_file: tuple[int, int] | None = None

    def open(self) -> MilvusClient:
        """Open the folder and load its collections.

        Raises:
            Unavailable: Another process has it open, it cannot be used, or it is damaged.
        """
        try:
            self._check_not_gone()
            if self.folder.is_file():
                raise Unavailable(
                    "STORE_DAMAGED",
                    f"{self.folder} is a file, but Milvus Lite 3 keeps a folder; move it away, or "
                    "name another path",
                )
            lite_patterns.install()
            lite_reads.install()
            lite_search.install()
            if self._fsync:
                lite_sync.install()
            self._lite = (SyncedLite if self._fsync else Lite)(str(self.folder))
            if self._fsync:
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
            self._lock_file = self._identity()
            self._put_in_order()
            return self._start()
        except DataDirLockedError as error:
            raise _in_use(self.folder) from error
        except OSError as error:
            self.abandon()
            raise _unavailable(self.folder, error) from error
        except BaseException:
            self.abandon()  # else this process has it locked, also for itself
            raise

    def _put_in_order(self) -> None:
        lite_files.put_in_order(self.folder)
        found, damages = lite_files.inspect(self.folder)
        lite_files.keep_torn_logs(self.folder, found)
        if damages:
            some = "; ".join(str(damage) for damage in damages[:_MOST_NAMED])
            raise Unavailable(
                "STORE_DAMAGED",
                f"{len(damages)} files of {self.folder} are damaged: {some}; restore them, or run "
                "`sentinel-gateway check --repair`",
            )
        for files in found:
            lite_files.remove_flushed_logs(files)
            for log in (log for logs in files.logs.values() for log in logs):
                if self._fsync:
                    sync_log(log.path)  # whoever reads its rows may rely on them

    def _start(self) -> MilvusClient:
        """Load all collections; return a client of Lite's service."""
        try:
            self._client = MilvusClient(
                next(_addresses),
                timeout=_CONNECT_TIMEOUT_S,
                dedicated=True,
                channel=LiteChannel(MilvusServicer(self._lite)),
            )
            # Now rather than in the first search: Lite loads nothing by itself.
            for name in self._client.list_collections(timeout=_CONNECT_TIMEOUT_S):
                self._load(self._client, name)
        except MilvusException as error:
            if errors.is_no_answer(error):
                raise errors.converted(error, Deadline.within(_CONNECT_TIMEOUT_S)) from error
            raise Unavailable(
                "STORE_DAMAGED",
                f"Milvus Lite cannot read {self.folder}: {error.message}; run `sentinel-gateway "
                "check`",
            ) from error
        return self._client

    def _load(self, client: MilvusClient, name: str) -> None:
        try:
            client.load_collection(name, timeout=_LOAD_TIMEOUT_S)
        except MilvusException as error:
            # Index files follow from the rows. A crash leaves half of one.
            extra = {"collection": name, "why": error.message}
            logger.warning("an index cannot be read; building it again", extra=extra)
            for path in (self.folder / "collections" / name).glob("partitions/*/indexes/*"):
                path.unlink()
            client.load_collection(name, timeout=_LOAD_TIMEOUT_S)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no process open the folder during the block. Raise Unavailable if one has it open."""
        try:
            self._lite = Lite(str(self.folder))
        except DataDirLockedError as error:
            raise _in_use(self.folder) from error
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        try:
            lite_files.put_in_order(self.folder)
            yield
        finally:
            self.abandon()

    @contextmanager
    def dropping(self, name: str) -> Iterator[None]:
        """Have the next `open` finish the drop in the block, should a crash interrupt it."""
        try:
            lite_files.begin_drop(self.folder, name)
            try:
                yield
            except MilvusException as error:
                if not errors.leaves_doubt(error):  # nothing was dropped
                    lite_files.end_drop(self.folder, name)
                raise
            lite_files.end_drop(self.folder, name)
        except OSError as error:
            raise _unavailable(self.folder, error) from error

    def close(self) -> None:
        """Flush all collections and close the folder. Rows of a failed flush stay in their log."""
        self._close(flush=True)

    def abandon(self) -> None:
        """Close the folder without a flush, which would delete logs that are still needed."""
        self._close(flush=False)

    def _close(self, *, flush: bool) -> None:
        client, lite = self._client, self._lite
        self._client = self._lite = None
        if client is not None:
            client.close()
        if lite is None:
            return
        for (_, name), collection in list(lite._collections.items()):
            if flush:
                try:
                    collection.close()
                except Exception as error:
                    why = {"collection": name, "why": str(error)}
                    logger.warning("the last flush failed; the log keeps its rows", extra=why)
            _end(collection)
        lite._collections.clear()
        lite.close()

    def check_in_place(self) -> None:
        """Raise Unavailable if somebody removed or replaced the open folder, or it cannot be read.

        Then Lite writes into files that nobody can find any more.
        """
        if self._lock_file != self._identity():
            raise Unavailable(
                "STORE_UNAVAILABLE",
                f"{self.folder} was removed or replaced while it was open; what was stored since "
                "is not in it",
            )

    def check_room(self) -> None:
        """Raise Unavailable if the folder has no room, or may not be written to."""
        probe = self.folder / "sentinel-probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    def _check_not_gone(self) -> None:
        """Refuse to begin an empty database where this process had one: a volume may be missing."""
        if self._lock_file is not None and self._identity() is None:
            raise Unavailable(
                "STORE_UNAVAILABLE",
                f"{self.folder} is gone; mount or restore it, or restart to begin an empty one",
            )

    def _identity(self) -> tuple[int, int] | None:
        try:
            facts = (self.folder / "LOCK").stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        return facts.st_dev, facts.st_ino


def _end(collection: Any) -> None:
    """Wait for a collection's background work and close its log's files, as they are."""
    collection._bg_closed = True
    collection._bg_executor.shutdown(wait=True, cancel_futures=True)
    log = collection._wal
    for sink in (log._data_sink, log._delta_sink):
        if sink is not None:
            # The end of a record that did not fit may still not fit. Now rather than when the file
            # is garbage: by then others may read it.
            with suppress(OSError):
                sink.close()


def _in_use(folder: Path) -> Unavailable:
    return Unavailable(
        "STORE_UNAVAILABLE", f"another process has {folder} open; stop it, then retry"
    )


def _unavailable(folder: Path, error: OSError) -> Unavailable:
    match error:
        case OSError(errno=number) if number in _FULL:
            why = f"Milvus is full: there is no room at {folder}; make room"
        case OSError(errno=errno.EROFS) | PermissionError():
            why = f"Milvus cannot write to {folder}: {error.strerror}; mend that"
        case _:
            why = f"Milvus cannot use {folder}: {error}; mend that"
    return Unavailable("STORE_UNAVAILABLE", f"{why}, then retry")
