"""What pymilvus raises becomes an error that says what to do; a full Milvus above all."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2

from search_server.store import milvus_errors
from search_server.store.milvus import MilvusStore
from search_server.types import CollectionInfo, ModelRef, Row
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import Internal, Unavailable

QUOTA = "quota exceeded[reason=disk quota exceeded, please allocate more resources]"


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


@asynccontextmanager
async def open_store(uri: str) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(uri, "", threads=4)
    try:
        yield store
    finally:
        await store.close()


def status(code: int, reason: str, legacy: int = 1) -> MilvusException:
    """The exception as pymilvus makes it of an answer."""
    return MilvusException.from_status(
        common_pb2.Status(code=code, reason=reason, error_code=legacy)  # type: ignore[arg-type]
    )


FULL = {
    "a disk quota": status(9, QUOTA, common_pb2.ForceDeny),  # seen with 2.3.5
    "a memory quota": status(9, QUOTA.replace("disk", "memory"), common_pb2.ForceDeny),
    "a memory limit": status(3, "memory limit exceeded[predict=2][limit=1]"),
    "a disk limit": status(7, "disk limit exceeded[predict=2][limit=1]"),
    "a server's disk": status(65535, "write /var/lib/milvus/x: no space left on device"),
    "Lite's disk": status(1, "[Errno 28] No space left on device: 'a.db/wal/1.log'"),
    "Lite's quota": status(1, "[Errno 122] Disk quota exceeded"),
    "a limit on files": status(1, "[Errno 27] File too large"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_milvus_is_said(name: str) -> None:
    error = milvus_errors.converted(FULL[name], deadline())
    assert isinstance(error, Unavailable)
    assert error.reason == "STORE_UNAVAILABLE"
    assert error.message.startswith("Milvus is full")


def test_other_refusals_are_not_taken_for_a_full_milvus() -> None:
    slow = milvus_errors.converted(status(9, "time tick long delay"), deadline())
    assert isinstance(slow, Unavailable)
    assert "full" not in slow.message
    assert isinstance(milvus_errors.converted(status(1, "some fault"), deadline()), Internal)


async def test_a_full_disk_under_lite_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    info = CollectionInfo("c", ModelRef("m", "r", "f"), 4, {})
    filler = small_disk / "filler"
    stored = []

    async def upsert(store: MilvusStore, number: int) -> None:
        ids = [f"i{number}-{part}" for part in range(50)]
        rows = [Row(one, "d" * 64, "", "x" * 4_000, {}, np.ones(4, np.float32)) for one in ids]
        await store.upsert(info, rows, deadline())
        stored.extend(ids)

    async with open_store(str(small_disk / "milvus.db")) as store:
        await store.create_collection(info, deadline())
        await upsert(store, 0)
        filler.write_bytes(os.urandom(shutil.disk_usage(small_disk).free - 500_000))
        with pytest.raises(Unavailable, match="Milvus is full"):
            for number in range(1, 100):
                await upsert(store, number)
        filler.unlink()
        await upsert(store, 100)
        assert len(await store.get(info, stored, deadline())) == len(stored)
    async with open_store(str(small_disk / "milvus.db")) as store:
        assert len(await store.get(info, stored, deadline())) == len(stored)
