"""Have a Milvus server import Parquet files; the bulk indexer uses it instead of upserts.

An import only adds rows and never replaces any. The caller must ensure that no row of the file
exists already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymilvus import BulkInsertState, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.tls import TlsFiles
from sentinel_store.milvus.connection import MilvusConnection

_FAILED = (BulkInsertState.ImportFailed, BulkInsertState.ImportFailedAndCleaned)
_MOST_LISTED = 1024


@dataclass(frozen=True, slots=True)
class ImportState:
    """The state of an import.

    Attributes:
        done: Its rows are imported and indexed.
        failure: Why it failed; empty if it did not.
    """

    done: bool
    failure: str


class MilvusImports:
    """Use from one event loop. Milvus Lite cannot import; only a server can."""

    def __init__(self, uri: str, token: str, tls: TlsFiles | None = None) -> None:
        """Keep the address; the first call connects."""
        self._milvus = MilvusConnection(uri, token, threads=2, tls=tls)

    async def start(self, collection: str, file: str, deadline: Deadline) -> int:
        """Start the import of a Parquet file, a path in Milvus's own bucket; return its number."""

        def start(client: MilvusClient, timeout: float) -> int:
            return int(_handler(client).do_bulk_insert(collection, "", [file], timeout=timeout))

        return await self._milvus.run(start, deadline)

    async def state(self, number: int, deadline: Deadline) -> ImportState:
        """Return the state of an import."""

        def ask(client: MilvusClient, timeout: float) -> ImportState:
            return _state(_handler(client).get_bulk_insert_state(number, timeout=timeout))

        return await self._milvus.run(ask, deadline)

    async def running(self, collection: str, deadline: Deadline) -> list[int]:
        """Return the numbers of the running imports into a collection."""

        def ask(client: MilvusClient, timeout: float) -> list[int]:
            tasks = _handler(client).list_bulk_insert_tasks(
                _MOST_LISTED, collection, timeout=timeout
            )
            states = {int(task.task_id): _state(task) for task in tasks}
            return [number for number, one in states.items() if not one.done and not one.failure]

        return await self._milvus.run(ask, deadline)

    async def show(self, collection: str, deadline: Deadline) -> None:
        """Let searches find the imported rows now; without it they would find them later."""
        await self._milvus.write("refresh_load", collection, deadline)

    async def close(self) -> None:
        """Close the connection."""
        await self._milvus.close()


def _handler(client: MilvusClient) -> Any:
    # The calls that every server from 2.3 on supports. MilvusClient has none, pymilvus 3.1 removed
    # those of `utility`, and the REST calls of `bulk_writer` need a server 2.4.
    return client._get_connection()


def _state(answer: BulkInsertState) -> ImportState:
    failure = ""
    if answer.state in _FAILED:
        failure = answer.failed_reason or "no reason given"
    return ImportState(answer.state == BulkInsertState.ImportCompleted, failure)
