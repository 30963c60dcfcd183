"""Files that a Milvus server imports by itself. Used by the bulk indexer; the gateway writes rows.

An import only ever adds rows, it replaces none: whoever imports sees to it that no row of the
file is there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymilvus import BulkInsertState, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_store.milvus.connection import MilvusConnection

_FAILED = (BulkInsertState.ImportFailed, BulkInsertState.ImportFailedAndCleaned)
_MOST_LISTED = 1024


@dataclass(frozen=True, slots=True)
class ImportState:
    """How far an import is.

    Attributes:
        done: Its rows are there and indexed.
        failure: Why it never will be; empty otherwise.
    """

    done: bool
    failure: str


class MilvusImports:
    """Use from one event loop. Only a server can import; Milvus Lite refuses."""

    def __init__(self, uri: str, token: str) -> None:
        """Remember where Milvus is; the first call connects."""
        self._milvus = MilvusConnection(uri, token, threads=2)

    async def start(self, collection: str, file: str, deadline: Deadline) -> int:
        """Begin to import a Parquet file; return the import's number.

        Args:
            collection: Its layout is the file's.
            file: Path in Milvus's own bucket.
            deadline: Of the call, not of the import.
        """

        def start(client: MilvusClient, timeout: float) -> int:
            return int(_handler(client).do_bulk_insert(collection, "", [file], timeout=timeout))

        return await self._milvus.run(start, deadline)

    async def state(self, number: int, deadline: Deadline) -> ImportState:
        """Return how far an import is."""

        def ask(client: MilvusClient, timeout: float) -> ImportState:
            return _state(_handler(client).get_bulk_insert_state(number, timeout=timeout))

        return await self._milvus.run(ask, deadline)

    async def running(self, collection: str, deadline: Deadline) -> list[int]:
        """Return the imports into a collection that are neither done nor failed."""

        def ask(client: MilvusClient, timeout: float) -> list[int]:
            tasks = _handler(client).list_bulk_insert_tasks(
                _MOST_LISTED, collection, timeout=timeout
            )
            states = {int(task.task_id): _state(task) for task in tasks}
            return [number for number, it in states.items() if not it.done and not it.failure]

        return await self._milvus.run(ask, deadline)

    async def show(self, collection: str, deadline: Deadline) -> None:
        """Let searches find what was imported; they would by themselves, but later."""
        await self._milvus.write(
            collection,
            lambda client, timeout: client.refresh_load(collection, timeout=timeout),
            deadline,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._milvus.close()


def _handler(client: MilvusClient) -> Any:
    # The calls that every server has from 2.3 on. MilvusClient offers none, `utility`'s are gone
    # from pymilvus 3.1, and the REST calls of `bulk_writer` need a server of 2.4.
    return client._get_connection()


def _state(told: BulkInsertState) -> ImportState:
    failure = ""
    if told.state in _FAILED:
        failure = told.failed_reason or "no reason given"
    return ImportState(told.state == BulkInsertState.ImportCompleted, failure)
