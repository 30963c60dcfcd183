"""Searches and reads of Milvus Lite by our functions find what they find by Lite's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.db import MilvusLite
from milvus_lite.engine import collection as engine
from milvus_lite.engine.collection import Collection
from milvus_lite.index.brute_force import BruteForceIndex
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.storage.delta_index import DeltaIndex
from milvus_lite.storage.memtable import MemTable

from sentinel_store.milvus import lite_reads, lite_search
from sentinel_store.milvus.lite_database import _end
from sentinel_store.milvus.lite_search import FlatIndex

Hit = dict[str, Any]

DIMENSIONS = 8
TOLERANCE = 2e-6  # of float32 cosines
FIELDS = ("vector", "other")  # with a FLAT index, and with none
OUTPUTS = (None, ["id"], ["tag", "number"], ["number", "id", "vector"], ["*"], ["missing", "tag"])
FILTERS = (None, "number > 10", 'tag == "a"', 'tag in ["b", "c"] and number < 50', "number < 0")


@pytest.fixture(scope="module", autouse=True)
def _functions() -> None:
    lite_reads.install()
    lite_search.install()


@contextmanager
def lites_own() -> Iterator[None]:
    """Read with Lite's own functions during the block."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (engine, "execute_search_with_index"),
            (Collection, "get"),
            (Collection, "query"),
            (Collection, "_num_entities"),
            (MemTable, "to_search_snapshot"),
            (DeltaIndex, "frozen_copy"),
        ):
            patch.setattr(owner, name, getattr(owner, name).__wrapped__)
        patch.setattr(FlatIndex, "search", BruteForceIndex.search)
        yield


class Lite:
    """A database with one collection, and what changes it."""

    def __init__(self, folder: Path, *, index: str = "FLAT") -> None:
        self._folder = str(folder)
        self._database = MilvusLite(self._folder)
        self.rows = self._database.create_collection(
            "c",
            CollectionSchema(
                [
                    FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=100),
                    FieldSchema("vector", DataType.FLOAT_VECTOR, dim=DIMENSIONS),
                    FieldSchema("other", DataType.FLOAT_VECTOR, dim=DIMENSIONS),
                    FieldSchema("tag", DataType.VARCHAR, max_length=10, nullable=True),
                    FieldSchema("number", DataType.INT64),
                ]
            ),
        )
        self.rows.create_index("vector", {"index_type": index, "metric_type": "COSINE"})
        self.rows.load()

    def put(self, ids: list[str], vectors: Any, numbers: list[int]) -> None:
        """Insert or replace rows."""
        tags = ("a", "b", "c", None)
        self.rows.upsert(
            [
                {
                    "id": item_id,
                    "vector": vector.tolist(),
                    "other": vector[::-1].tolist(),
                    "tag": tags[number % 4],
                    "number": number,
                }
                for item_id, vector, number in zip(ids, vectors, numbers, strict=True)
            ]
        )

    def flush(self) -> None:
        """Move memory to a segment, and wait until indexes are built and segments are merged."""
        self.rows.flush()
        self.rows._wait_for_bg()

    def reopen(self) -> None:
        """Close the database and open it again."""
        self.close()
        self._open()

    def crash(self) -> None:
        """Open the database again as after a crash: what was in memory is only in the log."""
        _end(self.rows)
        self._database._collections.clear()
        self._database.close()
        self._open()

    def _open(self) -> None:
        self._database = MilvusLite(self._folder)
        self.rows = self._database.get_collection("c")
        self.rows.load()

    def masks(self) -> list[Any]:
        """Return which rows are live, as the segments keep it."""
        return [segment.live[1] for segment in self.rows._segments_snapshot()]

    def close(self) -> None:
        """Flush and close."""
        self.rows._wait_for_bg()
        self._database.close()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Lite]:
    lite = Lite(tmp_path / "lite.db")
    yield lite
    lite.close()


def vectors(random: np.random.Generator, count: int) -> Any:
    """Return vectors of which some are null, and some equal to others or twice as long."""
    found = random.normal(size=(count, DIMENSIONS)).astype(np.float32)
    kinds = random.integers(0, 8, count)
    found[kinds == 0] = 0.0
    found[kinds == 1] = np.eye(DIMENSIONS)[0]
    found[kinds == 2] = 2 * np.eye(DIMENSIONS)[0]
    return found


def check_search(lite: Lite, queries: list[list[float]], **options: Any) -> None:
    """Compare a search with Lite's own; equally near rows may come in any order."""
    found = lite.rows.search(queries, **options)
    least = 1_000 - options.get("offset", 0)
    with lites_own():
        expected = lite.rows.search(queries, **options)
        everything = lite.rows.search(queries, **options | {"top_k": least, "offset": 0})
    assert [len(hits) for hits in found] == [len(hits) for hits in expected]
    for hits, same, all_hits in zip(found, expected, everything, strict=True):
        near = [hit["distance"] for hit in hits]
        assert all(type(distance) is float for distance in near)
        np.testing.assert_allclose(near, [hit["distance"] for hit in same], atol=TOLERANCE)
        by_id = {hit["id"]: hit for hit in all_hits}
        assert len({hit["id"] for hit in hits}) == len(hits)
        for hit in hits:
            assert hit.keys() == by_id[hit["id"]].keys()
            assert hit["entity"] == by_id[hit["id"]]["entity"]
            assert abs(hit["distance"] - by_id[hit["id"]]["distance"]) <= TOLERANCE


def check_reads(lite: Lite, random: np.random.Generator) -> None:
    ids = [f"i{number}" for number in random.integers(0, 120, random.choice([3, 40]))]
    expression = FILTERS[random.integers(len(FILTERS))]
    output = OUTPUTS[random.integers(len(OUTPUTS))]
    page = {
        "limit": [None, 1, 7, 500][random.integers(4)],
        "offset": int(random.choice([0, 3])),
        "order_by_pk": bool(random.integers(2)),
    }

    def read() -> tuple[Any, ...]:
        return (
            lite.rows.get(ids, output_fields=output),
            lite.rows.get(ids, expr=expression, output_fields=output),
            lite.rows.query(expression, output_fields=output or ["id"], **page),
            len(lite.rows.query(expression)),
            lite.rows.num_entities,
        )

    found = read()
    with lites_own():
        assert found == read()


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_are_read_as_by_lite(lite: Lite, seed: int) -> None:
    random = np.random.default_rng(seed)
    segment_counts = set()
    for _ in range(60):
        step = random.choice(
            ["put", "delete", "flush", "reopen", "crash"], p=[0.45, 0.2, 0.25, 0.03, 0.07]
        )
        match step:
            case "put":
                count = int(random.integers(1, 20))
                ids = [f"i{number}" for number in random.integers(0, 100, count)]
                ids = list(dict.fromkeys(ids))
                numbers = random.integers(0, 100, len(ids)).tolist()
                lite.put(ids, vectors(random, len(ids)), numbers)
            case "delete":
                lite.rows.delete([f"i{number}" for number in random.integers(0, 120, 6)])
            case "flush":
                lite.flush()
            case "reopen":
                lite.reopen()
            case _:
                lite.crash()
        segment_counts.add(len(lite.masks()))
        check_search(
            lite,
            vectors(random, int(random.choice([1, 1, 2, 5]))).tolist(),
            top_k=int(random.choice([1, 3, 10, 900])),
            anns_field=FIELDS[random.integers(2)],
            expr=FILTERS[random.integers(len(FILTERS))],
            output_fields=OUTPUTS[random.integers(len(OUTPUTS))],
            offset=int(random.choice([0, 0, 4])),
        )
        check_reads(lite, random)
    assert max(segment_counts) > 2  # and no more than three stay: Lite merged some


@pytest.mark.parametrize(("index", "metric"), [("FLAT", "L2"), ("FLAT", "IP"), ("HNSW", "COSINE")])
def test_other_indexes_and_distances_are_lites(tmp_path: Path, index: str, metric: str) -> None:
    if index == "HNSW":
        pytest.importorskip("faiss")
    random = np.random.default_rng(1)
    lite = Lite(tmp_path / "lite.db", index=index)
    for flushed in (True, True, False):
        ids = [f"i{number}" for number in random.integers(0, 60, 30)]
        lite.put(list(dict.fromkeys(ids)), vectors(random, len(set(ids))), [1] * len(set(ids)))
        if flushed:
            lite.flush()
    lite.rows.delete(["i1", "i2", "i3"])
    field = "vector" if index == "HNSW" else "other"
    queries = vectors(random, 3).tolist()
    check_search(lite, queries, top_k=10, anns_field=field, metric_type=metric)
    lite.close()


def test_partitions_are_searched_by_themselves(lite: Lite) -> None:
    random = np.random.default_rng(2)
    lite.rows.create_partition("p")
    row = {"id": "i1", "other": [1.0] * DIMENSIONS, "tag": "a", "number": 7}
    for partition in ("_default", "p"):
        for flushed in (True, False):
            row |= {"vector": random.normal(size=DIMENSIONS).tolist(), "id": f"i{flushed}"}
            lite.rows.insert([row], partition_name=partition)
            if flushed:
                lite.flush()
    for names in (["p"], ["_default"], ["p", "_default"], None):
        queries = vectors(random, 1).tolist()
        check_search(lite, queries, top_k=9, anns_field="vector", partition_names=names)
        found = lite.rows.query("number > 0", partition_names=names, output_fields=["id"])
        with lites_own():
            same = lite.rows.query("number > 0", partition_names=names, output_fields=["id"])
        assert found == same


def test_equally_near_rows_come_in_the_order_of_segments_and_rows(lite: Lite) -> None:
    ids = [f"i{number:03}" for number in range(300)]
    for at in (0, 100, 200):
        lite.put(ids[at : at + 100], np.ones((100, DIMENSIONS), np.float32), [0] * 100)
        if at < 200:
            lite.flush()
    for limit in (5, 150, 250, 1_000):
        [hits] = lite.rows.search([[1.0] * DIMENSIONS], limit, anns_field="vector")
        assert [hit["id"] for hit in hits] == ids[:limit]


def test_null_vectors_are_at_distance_one(lite: Lite) -> None:
    lite.put(["i0", "i1"], np.stack([np.zeros(8, np.float32), np.eye(8)[0]]), [0, 1])
    for _ in ("in memory", "in a segment"):
        for query in (np.zeros(8), np.eye(8)[1]):
            [hits] = lite.rows.search([query.tolist()], 5, anns_field="vector")
            assert [hit["distance"] for hit in hits] == [0.0, 0.0]  # cosines
        lite.flush()


def ids_found(lite: Lite) -> set[str]:
    [hits] = lite.rows.search([[1.0] * DIMENSIONS], 100, anns_field="vector")
    assert lite.rows.num_entities == len(hits)
    return {hit["id"] for hit in hits}


def test_what_is_kept_is_made_again_after_each_kind_of_change(lite: Lite) -> None:
    """And only then: changes in memory leave it as it is."""
    ones = np.ones((4, DIMENSIONS), np.float32)

    def same(before: list[Any]) -> bool:
        after = lite.masks()
        return [id(mask) for mask in before] == [id(mask) for mask in after]

    lite.put(["a", "b", "c", "d"], ones, [0, 1, 2, 3])
    lite.flush()
    assert ids_found(lite) == {"a", "b", "c", "d"}
    first = lite.masks()
    assert first[0].tolist() == [True] * 4
    [index] = [segment.index for segment in lite.rows._segments_snapshot()]
    lengths = index._kept_lengths

    lite.put(["a", "e"], ones[:2], [4, 5])  # in memory
    lite.rows.delete(["b"])
    assert ids_found(lite) == {"a", "c", "d", "e"}
    assert same(first)
    assert first[0].tolist() == [True] * 4
    assert index._kept_lengths is lengths

    lite.flush()  # a segment and a deletion
    assert ids_found(lite) == {"a", "c", "d", "e"}
    assert [mask.tolist() for mask in lite.masks()] == [[False, False, True, True], [True, True]]
    second = lite.masks()

    lite.rows.delete(["c"])
    assert ids_found(lite) == {"a", "d", "e"}
    assert same(second)
    lite.flush()  # a deletion only: the segments are the same
    assert ids_found(lite) == {"a", "d", "e"}
    assert not same(second)
    assert lite.masks()[0].tolist() == [False, False, False, True]

    lite.put(["c"], ones[:1], [6])  # again, after its deletion
    assert ids_found(lite) == {"a", "c", "d", "e"}
    lite.flush()
    assert ids_found(lite) == {"a", "c", "d", "e"}
    assert len(lite.masks()) == 3

    lite.put(["f"], ones[:1], [7])
    lite.flush()  # the fourth segment: Lite merges them
    assert ids_found(lite) == {"a", "c", "d", "e", "f"}
    assert [mask.tolist() for mask in lite.masks()] == [[True] * 5]

    lite.reopen()
    assert ids_found(lite) == {"a", "c", "d", "e", "f"}


def test_a_vector_that_is_not_a_number_hides_no_others(lite: Lite) -> None:
    """Lite takes one; it comes last."""
    rows = np.ones((3, DIMENSIONS), np.float32)
    rows[1] = np.nan
    lite.put(["a", "b", "c"], rows, [0, 1, 2])
    for _ in ("in memory", "in a segment"):
        [hits] = lite.rows.search([[1.0] * DIMENSIONS], 3, anns_field="vector")
        assert [hit["id"] for hit in hits] == ["a", "c", "b"]
        lite.flush()


def test_no_more_places_are_made_than_there_are_rows(
    lite: Lite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else 50 queries for 16,384 rows take 30 MB for each segment, however small."""
    made: list[Any] = []
    search = FlatIndex.search

    def spy(*arguments: Any) -> Any:
        found = search(*arguments)
        made.append(found[0].shape)
        return found

    monkeypatch.setattr(FlatIndex, "search", spy)
    lite.put(["a", "b"], np.ones((2, DIMENSIONS), np.float32), [0, 1])
    lite.flush()
    lite.put(["c"], np.ones((1, DIMENSIONS), np.float32), [2])
    found = lite.rows.search([[1.0] * DIMENSIONS] * 3, 16_384, anns_field="vector")
    assert made == [(3, 2), (3, 1)]
    assert [{hit["id"] for hit in hits} for hits in found] == [{"a", "b", "c"}] * 3


def test_deletions_are_copied_only_after_a_change(lite: Lite) -> None:
    def copy() -> DeltaIndex:
        return lite.rows._read_snapshot()[1]

    def delete(item_id: str) -> None:
        lite.rows.delete([item_id])
        lite.flush()

    delete("a")
    first = copy()
    assert copy() is first
    delete("b")
    second = copy()
    assert set(second.snapshot) == {"a", "b"}
    assert set(first.snapshot) == {"a"}
    lite.rows._delta_index.gc_below(1_000)  # as after a merge of segments
    assert copy().snapshot == {}
    assert set(second.snapshot) == {"a", "b"}
