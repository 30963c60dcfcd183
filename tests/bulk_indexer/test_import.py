"""Files that a real Milvus server imports, from its disk and from its bucket in a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from bulk_indexer.delivery import Delivered, ImportDelivery
from bulk_indexer.run_folder import BulkError, Run, RunFolder
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus.bulk_import import MilvusImports
from sentinel_store.milvus.store import MilvusStore
from tests import milvus_server, s3_server
from tests.bulk_indexer.conftest import deadline, open_store
from tests.bulk_indexer.test_delivery import finish, made, vector_of

pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.s3, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Place:
    """A Milvus server, and a folder where it finds files to import."""

    uri: str
    imports: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, s3: s3_server.S3Server) -> Iterator[Place]:
    """A server that keeps its data, and looks for files, in a bucket."""
    bucket = s3.bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        base = tmp_path_factory.mktemp("milvus")
        with milvus_server.running(base, s3, bucket) as uri:
            yield Place(uri, f"s3://{bucket}/imports")
        fsspec.filesystem("s3").clear_instance_cache()


@asynccontextmanager
async def importing(
    place: Place, folder: RunFolder, info: CollectionInfo, rows_per_import: int = 1000
) -> AsyncIterator[tuple[ImportDelivery, MilvusStore]]:
    imports = MilvusImports(place.uri, "")
    async with open_store(place.uri) as store:
        try:
            yield (
                ImportDelivery(
                    store,
                    imports,
                    folder,
                    info,
                    target=place.imports,
                    rows_per_import=rows_per_import,
                ),
                store,
            )
        finally:
            await imports.close()


async def test_a_server_imports_each_row_once_and_finds_it(
    place: Place, run: Run, tmp_path: Path
) -> None:
    info = replace(run.info, name="imported")
    folder = RunFolder(str(tmp_path))
    rows = made(info, range(2500), public=True, ratio=0.5, tags=["a"])
    finish(folder, info, 0, rows[:800])
    finish(folder, info, 1, rows[700:1600])  # a hundred of them were in the first
    finish(folder, info, 2, rows[1600:])
    async with importing(place, folder, info) as (delivery, store):
        await store.create_collection(info, deadline())
        # As if a gateway had stored some before: unchanged ones, and one of another name.
        await store.upsert(info, [*rows[:5], *made(info, [5], file_name="old.jpg")], deadline())
        for shard in range(3):
            await delivery.add(shard)
        assert folder.numbers("delivered") == {0, 1}  # the rest waits for more
        await delivery.finish()
        assert folder.numbers("delivered") == {0, 1, 2}
        assert delivery.delivered == Delivered(stored=2495, unchanged=5)
        assert await store.count(info, "", deadline()) == 2500
        assert await store.count(info, "f_year < 10 and f_public == 1", deadline()) == 5 + 5
        for number in (5, 750, 2499):
            [found] = await store.get(info, [rows[number].id], deadline(), include_vectors=True)
            assert (found.digest, found.image) == (rows[number].digest, rows[number].image)
            assert found.fields == rows[number].fields
            assert np.array_equal(vector_of(found), vector_of(rows[number]))
        assert not fsspec.filesystem("s3").glob(f"{place.imports}/*.parquet")

    # A run that died before it could mark anything: its rows are found, and not imported again.
    async with importing(place, folder, info) as (delivery, store):
        for shard in range(3):
            await delivery.add(shard)
        await delivery.finish()
        assert delivery.delivered == Delivered(stored=0, unchanged=2600)
        assert await store.count(info, "", deadline()) == 2500


async def test_a_run_waits_for_the_imports_of_the_one_before(
    place: Place, run: Run, tmp_path: Path
) -> None:
    info = replace(run.info, name="interrupted")
    folder = RunFolder(str(tmp_path))
    finish(folder, info, 0, made(info, range(1500)))
    async with importing(place, folder, info) as (delivery, store):
        await store.create_collection(info, deadline())
        # Begun, and then the process is gone.
        delivery._new = {row.id: row for row in made(info, range(1500))}
        path = f"{delivery._root}/begun.parquet"
        # And a gateway had stored some of the same before.
        await store.upsert(info, made(info, range(20)), deadline())
        delivery._write(path, list(delivery._new.values()))
        await delivery._imports.start(info.name, delivery._in_bucket(path), deadline())
    async with importing(place, folder, info) as (delivery, store):
        await delivery.add(0)
        await delivery.finish()
        assert delivery.delivered == Delivered(stored=0, unchanged=1500)
        assert await store.count(info, "", deadline()) == 1500


async def test_what_is_written_beside_an_import_wins_and_is_there_once(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last look at the ids, between that and the import's start, and after it."""
    info = replace(run.info, name="beside")
    folder = RunFolder(str(tmp_path))
    rows = made(info, range(1200))
    finish(folder, info, 0, rows)

    async def write(store: MilvusStore, start: int) -> None:
        """As a gateway: changed fields, other content, and what the run has, too."""
        other = [
            replace(theirs, id=row.id)
            for row, theirs in zip(
                rows[start + 3 : start + 6],
                made(info, range(start + 5003, start + 5006), file_name="online"),
                strict=True,
            )
        ]
        changed = made(info, range(start, start + 3), file_name="online")
        await store.upsert(info, [*changed, *other, *rows[start + 6 : start + 9]], deadline())

    async with importing(place, folder, info, rows_per_import=5000) as (delivery, store):
        await store.create_collection(info, deadline())
        start = delivery._imports.start

        async def started(*arguments: Any) -> int:
            await write(store, 10)
            number = await start(*arguments)
            await write(store, 20)
            return number

        monkeypatch.setattr(delivery._imports, "start", started)
        await delivery.add(0)
        await write(store, 0)
        await delivery.finish()
        assert delivery.delivered == Delivered(stored=1191, unchanged=9)
        assert await store.count(info, "", deadline()) == 1200
        assert await store.count(info, 'f_file_name == "online"', deadline()) == 3 * 6
        for first in (0, 10, 20):
            for number in range(first, first + 9):
                [row] = await store.get(info, [rows[number].id], deadline(), include_vectors=True)
                origin = number + 5000 if first + 3 <= number < first + 6 else number
                [expected] = made(info, [origin])
                assert row.digest == expected.digest
                assert (row.fields["file_name"] == "online") == (number < first + 6)
                assert np.allclose(vector_of(row), vector_of(expected), atol=1e-6)


async def test_a_file_that_does_not_fit_ends_the_run_with_milvus_own_words(
    place: Place, run: Run, tmp_path: Path
) -> None:
    info = replace(run.info, name="narrow", fields={})
    folder = RunFolder(str(tmp_path))
    wide = replace(info, dimensions=info.dimensions + 1)
    finish(folder, wide, 0, made(wide, range(3)))
    async with importing(place, folder, wide) as (delivery, store):
        await store.create_collection(info, deadline())
        await delivery.add(0)
        with pytest.raises(BulkError, match="Milvus cannot import"):
            await delivery.finish()
    assert folder.numbers("delivered") == set()
