"""What a Milvus server knows of a collection is the same after its restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_store.collections import CollectionInfo, Origin, OriginState, ReindexMark
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.values import ModelRef
from tests import milvus_server
from tests.waiting import eventually

pytestmark = [pytest.mark.milvus, pytest.mark.slow, pytest.mark.timeout(180)]

INFO = CollectionInfo(name="album", model=ModelRef("m", "1", "f"), dimensions=4, fields={})
MARK = ReindexMark("target", "runner", dual_write=True)


def soon() -> Deadline:
    return Deadline.within(20.0)


async def test_the_state_of_a_reindex_survives_a_restart(tmp_path: Path) -> None:
    base = tmp_path / "milvus"
    process, port = milvus_server.start(base)
    store = MilvusStore(f"http://127.0.0.1:{port}", "", 2)
    try:
        await store.create_collection(INFO, soon())
        for state in (OriginState.COPYING, OriginState.VERIFIED):
            await store.set_origin(INFO.name, Origin("source", state), soon())
        await store.set_reindex(INFO.name, MARK, soon())

        process.kill()
        process.wait()
        process = milvus_server.restart(base)
        await eventually(lambda: milvus_server.is_healthy(base), within_s=60)

        found: list[CollectionInfo | None] = []
        for _ in range(10):
            try:
                found.append(await store.describe_collection(INFO.name, soon()))
                break
            except SentinelError:  # its parts are not connected yet
                continue
        assert found
        assert found[0] is not None
        assert found[0].origin == Origin("source", OriginState.VERIFIED)
        assert found[0].reindex == MARK
    finally:
        await store.close()
        process.kill()
        process.wait()
