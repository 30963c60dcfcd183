"""Milvus Lite takes one write at a time from us: two at once lose rows when it crashes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.engine.collection import Collection

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import schema
from sentinel_store.values import ModelRef

INFO = CollectionInfo("c", ModelRef("m", "r", "f"), 4, {})


def deadline(seconds: float = 30.0) -> Deadline:
    return Deadline.after(None, default_s=seconds)


def row(number: int) -> Row:
    return Row(f"i{number}", "d" * 64, "", "", {}, np.ones(4, np.float32))


class Watched:
    """Lite's writing functions, slowed down; which begin, and how many run at once at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.most = 0
        self.seconds = 0.02
        self._now = 0
        self._lock = threading.Lock()
        for name in ("upsert", "delete", "flush"):
            monkeypatch.setattr(Collection, name, self._around(getattr(Collection, name)))

    def _around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.begun.release()
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                time.sleep(self.seconds)
                return inner(*arguments, **options)
            finally:
                with self._lock:
                    self._now -= 1

        return watched


async def test_writes_and_flushes_never_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, watched = SearchStore(str(tmp_path / "milvus.db"), "", 8), Watched(monkeypatch)
    await store.create_collection(INFO, deadline())
    await asyncio.gather(
        *(store.upsert(INFO, [row(number)], deadline()) for number in range(10)),
        *(store.delete(INFO, schema.with_ids([f"x{n}"]), deadline()) for n in range(3)),
        *(store.flush("c") for _ in range(3)),
    )
    assert watched.most == 1
    assert await store.count(INFO, "", deadline()) == 10
    await store.close()


async def test_a_write_that_nobody_waits_for_any_more_still_ends_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SearchStore(str(tmp_path / "milvus.db"), "", 8)
    await store.create_collection(INFO, deadline())
    watched = Watched(monkeypatch)
    watched.seconds = 0.3
    with pytest.raises(DeadlineExceeded):
        await store.upsert(INFO, [row(1)], deadline(0.1))
    left = asyncio.create_task(store.upsert(INFO, [row(2)], deadline()))
    for _ in range(2):
        assert await asyncio.to_thread(watched.begun.acquire, timeout=10)
    left.cancel()
    with suppress(asyncio.CancelledError):
        await left
    await store.upsert(INFO, [row(3)], deadline())
    assert watched.most == 1
    assert await store.count(INFO, "", deadline()) == 3
    await store.close()
