"""Rows as Parquet: the layout of a collection, and nothing lost on the way."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymilvus import DataType, MilvusClient

from bulk_indexer import row_files
from bulk_indexer.run_folder import Run
from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo, VectorStorage
from sentinel_store.items import Row
from sentinel_store.values import Fields, GeoPoint
from tests.bulk_indexer.conftest import deadline, open_store

# How each Milvus type is written; a new one in the schema has to be decided here.
_AS_PARQUET = {
    DataType.VARCHAR: "string",
    DataType.JSON: "string",
    DataType.FLOAT_VECTOR: "list<element: float>",
    DataType.INT64: "int64",
    DataType.INT8: "int8",
    DataType.DOUBLE: "double",
}


def make_rows(info: CollectionInfo, *all_fields: Fields) -> list[Row]:
    vectors = np.random.default_rng(3).standard_normal((len(all_fields), info.dimensions))
    return [
        Row(
            f"id-{n}",
            f"{n:064x}",
            "" if n else "0" * 64,
            "ein Töxt \N{DOG}" if n else "",
            fields,
            vector,
        )
        for n, (fields, vector) in enumerate(zip(all_fields, vectors.astype("f4"), strict=True))
    ]


FIELDS: list[Fields] = [
    {},
    {"path": "/a/ü.jpg", "year": -5, "ratio": 2.0, "public": True, "tags": ["x", "ÿ"]},
    {"public": False, "ratio": 1e300, "year": 2**62},
    {"taken_at": datetime(1901, 2, 3, 4, 5, 6, 7, UTC), "place": GeoPoint(-1 / 3, 179.9)},
]


@pytest.mark.parametrize("count", [0, 4])
def test_rows_come_back_as_they_were(run: Run, count: int) -> None:
    written = make_rows(run.info, *FIELDS[:count])
    read = row_files.decode(row_files.encode(written, run.info), run.info)
    assert len(read) == count
    for there, here in zip(read, written, strict=True):
        assert there.vector is not None
        assert here.vector is not None
        assert there.vector.tobytes() == here.vector.tobytes()
        for name in ("id", "digest", "image", "text", "fields"):
            assert getattr(there, name) == getattr(here, name)


@pytest.mark.parametrize(
    ("storage", "column", "error"),
    [
        (VectorStorage(Element.FLOAT16), "list<element: uint8>", 1e-3),
        (VectorStorage(Element.BFLOAT16), "list<element: uint8>", 1e-2),
        (VectorStorage(Element.INT8), "list<element: int8>", 1e-2),
        (VectorStorage(Element.INT8, rescore=True), "list<element: float>", 1e-6),
    ],
    ids=str,
)
def test_vectors_are_written_as_they_are_stored(
    run: Run, storage: VectorStorage, column: str, error: float
) -> None:
    """As pymilvus's own writer of files for an import does it: 16-bit elements are two bytes."""
    info = replace(run, element=str(storage.element), rescore=storage.rescore).info
    assert info.storage == storage
    written = make_rows(info, *FIELDS)
    for row in written:
        assert row.vector is not None
        row.vector /= np.linalg.norm(row.vector)
    data = row_files.encode(written, info)
    assert str(pq.read_schema(io.BytesIO(data)).field("vector").type) == column
    read = row_files.decode(data, info)
    for there, here in zip(read, written, strict=True):
        assert there.vector is not None
        assert there.vector == pytest.approx(here.vector, abs=error)
        assert np.linalg.norm(there.vector) == pytest.approx(1.0, abs=1e-6)
    assert row_files.encode(read, info) == data


def test_a_large_file_is_written_in_groups(run: Run, tmp_path: Path) -> None:
    rows = make_rows(run.info, *([{}] * 3)) * 3000
    with (tmp_path / "f").open("wb") as file:
        assert row_files.write(file, iter(rows), run.info) == 9000
    assert pq.ParquetFile(tmp_path / "f").num_row_groups == 2


@pytest.mark.parametrize("full_text", [(), ("path", "file_name")])
async def test_the_columns_are_those_of_the_collection_in_milvus(
    run: Run, tmp_path: Path, full_text: tuple[str, ...]
) -> None:
    uri = str(tmp_path / "milvus.db")
    info = replace(run.info, full_text=full_text)
    async with open_store(uri) as store:
        await store.create_collection(info, deadline())
    client = MilvusClient(uri)
    described = client.describe_collection("photos")["fields"]
    client.close()
    in_milvus = {
        field["name"]: _AS_PARQUET[field["type"]]
        for field in described
        if not field.get("is_function_output")
    }
    (tmp_path / "f").write_bytes(row_files.encode(make_rows(info, *FIELDS), info))
    schema = pq.ParquetFile(tmp_path / "f").schema_arrow
    assert {column.name: str(column.type) for column in schema} == in_milvus
