"""No call of Milvus lasts longer than its deadline, whatever pymilvus does."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded
from sentinel_store.milvus.connection import MilvusConnection


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[MilvusConnection]:
    connection = MilvusConnection(str(tmp_path / "milvus.db"), "", 2)
    await connection.run(lambda client, timeout: client.list_collections(), Deadline.within(60))
    yield connection
    await connection.close()


async def test_a_call_that_ignores_its_timeout_is_left_at_its_deadline(
    connection: MilvusConnection,
) -> None:
    returns = threading.Event()

    def ignores_its_timeout(client: MilvusClient, timeout: float) -> None:
        returns.wait(60)  # as pymilvus while it connects again

    start = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded):
            await connection.run(ignores_its_timeout, Deadline.within(0.2))
        assert time.monotonic() - start < 30
    finally:
        returns.set()
