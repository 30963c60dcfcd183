"""Finished shards into Milvus: each row once, whatever was there and however often it is tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bulk_indexer import row_files
from bulk_indexer.delivery import Delivered, UpsertDelivery
from bulk_indexer.run_folder import BulkError, Run, RunFolder, shard_file
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import Fields, FloatArray
from tests.bulk_indexer.conftest import deadline, open_store


@pytest.fixture
def info(run: Run, request: pytest.FixtureRequest) -> CollectionInfo:
    """A collection of its own for each test."""
    return replace(run.info, name=f"c_{abs(hash(request.node.nodeid))}")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Milvus Lite in a file of the test's own, and a real server."""
    if request.param == "server":
        found: str = request.getfixturevalue("milvus_server_uri")
        return found
    return str(tmp_path / "milvus.db")


def made(info: CollectionInfo, numbers: Sequence[int], **fields: object) -> list[Row]:
    rows = []
    for number in numbers:
        vector = np.random.default_rng(number).standard_normal(info.dimensions).astype("f4")
        vector /= np.linalg.norm(vector)
        values: Fields = {"file_name": f"{number}.jpg", "year": number, **fields}  # type: ignore[dict-item]
        rows.append(Row(f"{number:064x}", f"{number:064x}", f"{number:064x}", "", values, vector))
    return rows


def vector_of(row: Row) -> FloatArray:
    assert row.vector is not None
    return row.vector


def finish(folder: RunFolder, info: CollectionInfo, shard: int, rows: Sequence[Row]) -> None:
    folder.write(shard_file("rows", shard), row_files.encode(rows, info))


async def test_rows_are_upserted_once_and_marked(
    uri: str, info: CollectionInfo, folder: RunFolder
) -> None:
    rows = made(info, range(600))
    finish(folder, info, 0, rows)
    async with open_store(uri) as store:
        await store.create_collection(info, deadline())
        delivery = UpsertDelivery(store, folder, info)
        await delivery.add(0)
        await delivery.finish()
        assert delivery.delivered == Delivered(stored=600, unchanged=0)
        assert folder.numbers("delivered") == {0}
        await delivery.add(0)
        assert delivery.delivered == Delivered(stored=600, unchanged=600)
        assert await store.count(info, "", deadline()) == 600
        [found] = await store.get(info, [rows[7].id], deadline(), include_vectors=True)
    assert (found.digest, found.image, found.fields) == (
        rows[7].digest,
        rows[7].image,
        rows[7].fields,
    )
    assert np.array_equal(vector_of(found), vector_of(rows[7]))


async def test_only_what_changed_is_written_again(
    uri: str, info: CollectionInfo, folder: RunFolder
) -> None:
    old, new = made(info, range(4)), made(info, range(2, 6), file_name="moved.jpg")
    finish(folder, info, 0, [*new[:2], *old[:2], *new[2:]])
    async with open_store(uri) as store:
        await store.create_collection(info, deadline())
        await store.upsert(info, old, deadline())
        delivery = UpsertDelivery(store, folder, info)
        await delivery.add(0)
        assert delivery.delivered == Delivered(stored=4, unchanged=2)
        found = await store.get(info, [row.id for row in made(info, range(6))], deadline())
    names = {row.id: row.fields["file_name"] for row in found}
    assert names == {row.id: row.fields["file_name"] for row in [*old[:2], *new]}


async def test_a_milvus_that_refuses_ends_the_delivery_unmarked(
    uri: str, info: CollectionInfo, folder: RunFolder
) -> None:
    finish(folder, info, 0, made(info, range(3)))
    async with open_store(uri) as store:  # without the collection
        with pytest.raises(BulkError, match="COLLECTION_NOT_FOUND"):
            await UpsertDelivery(store, folder, info).add(0)
    assert folder.numbers("delivered") == set()
