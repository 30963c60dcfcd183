"""Random writes to Milvus Lite with a disk that fails at random, kills and power cuts, by seed.

`SENTINEL_TEST_LITE_SEEDS=100-200` for other seeds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from milvus_lite.engine import flush
from milvus_lite.storage import wal

from search_server.milvus.search_store import SearchStore
from sentinel_core.errors import SentinelError
from sentinel_store.items import Row
from sentinel_store.milvus import connection, schema
from tests.power_cut import PowerCut
from tests.search_server.milvus.test_lite_faults import INFO, deadline

FIRST, LAST = map(int, os.environ.get("SENTINEL_TEST_LITE_SEEDS", "0-6").split("-"))
STEPS = 60
IDS = 40


class Disk:
    """Fails the next so many-th call that changes a file, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls_left = -1
        for module, name in (
            (os, "replace"),
            (os, "remove"),
            (os, "fsync"),
            (os, "makedirs"),
            (pq, "write_table"),
            (wal.WAL, "write_insert"),
            (flush, "_cleanup_old_wals"),
        ):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))

    def _around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            self.calls_left -= 1
            if self.calls_left == 0:
                raise OSError(errno.EIO, "the disk failed")
            return inner(*arguments, **options)

        return failing


class Model:
    """What may be stored: by id the versions that are possible; None: no row."""

    def __init__(self) -> None:
        self.possible: dict[str, set[str | None]] = {f"i{n}": {None} for n in range(IDS)}

    def write(self, ids: list[str], version: str | None, *, acknowledged: bool) -> None:
        for item_id in ids:
            if acknowledged:
                self.possible[item_id] = {version}
            else:
                self.possible[item_id].add(version)

    async def check(self, store: SearchStore) -> None:
        """Compare with the store; whatever it has now is what it must have later."""
        found = await store.page(INFO, "", "", 1_000, deadline())
        ids = [row.id for row in found]
        assert len(ids) == len(set(ids)), "a row is there twice"
        assert await store.count(INFO, "", deadline()) == len(ids)
        versions: dict[str, str | None] = {row.id: row.text for row in found}
        for item_id, possible in self.possible.items():
            assert versions.get(item_id) in possible, (item_id, versions.get(item_id), possible)
            self.possible[item_id] = {versions.get(item_id)}


async def write(store: SearchStore, chance: random.Random, model: Model, version: str) -> None:
    ids = chance.sample(sorted(model.possible), chance.randint(1, 8))
    what = chance.choice(("upsert", "upsert", "delete", "flush"))
    try:
        if what == "upsert":
            vector = np.ones(4, np.float32)
            rows = [Row(item_id, "d" * 64, "", version, {}, vector) for item_id in ids]
            await store.upsert(INFO, rows, deadline())
        elif what == "delete":
            await store.delete(INFO, schema.with_ids(ids), deadline())
        else:
            await store.flush("c")
    except SentinelError:
        acknowledged = False
    else:
        acknowledged = True
    if what != "flush":
        model.write(ids, version if what == "upsert" else None, acknowledged=acknowledged)


async def opened_again(folder: Path) -> SearchStore:
    store = SearchStore(str(folder), "", 4)
    await store.list_collections(deadline())
    return store


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, LAST))
async def test_nothing_acknowledged_is_lost_doubled_or_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(connection, "_LITE_RETRY_S", 0.0)
    chance, model, number = random.Random(seed), Model(), 0
    (tmp_path / "0").mkdir()
    power = PowerCut(tmp_path / "0", monkeypatch)
    disk = Disk(monkeypatch)
    store = SearchStore(str(tmp_path / "0" / "milvus.db"), "", 4)
    await store.create_collection(INFO, deadline())
    for step in range(STEPS):
        if chance.random() < 0.3:
            disk.calls_left = chance.randint(1, 12)
        await write(store, chance, model, f"version {step}")
        disk.calls_left = -1
        if chance.random() < 0.5:
            continue
        await asyncio.sleep(0)
        await model.check(store)
        if chance.random() < 0.3:
            number += 1
            folder = tmp_path / str(number)
            if chance.random() < 0.5:
                power.rebuild(folder)
            else:
                shutil.copytree(tmp_path / str(number - 1), folder)
            await store.close()
            power.close()
            power = PowerCut(folder, monkeypatch)
            power.trust()
            store = await opened_again(folder / "milvus.db")
            await model.check(store)
    await store.close()
    power.close()
