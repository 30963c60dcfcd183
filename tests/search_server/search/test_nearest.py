"""Deep rankings against NumPy, on each Milvus: order, completeness, what is fetched when."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.nearest import NearestHits
from search_server.search.paging import START, Position
from search_server.types.queries import Query, SearchSpec, Term
from search_server.types.searches import Hit, Search, SearchTimings, Selection
from sentinel_core.calls import Deadline
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import indexes
from sentinel_store.values import FieldType, FloatArray, ModelRef

ROWS, TWINS, DIMENSIONS = 11_500, 1_000, 16
T = TypeVar("T")


def deadline() -> Deadline:
    return Deadline.after(None, default_s=60.0)


def unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


def search_of(
    spec: SearchSpec, info: CollectionInfo, vector: FloatArray, expression: str = ""
) -> Search:
    selection = Selection(info, expression, info.consistency, deadline())
    return Search(spec, selection, vector, SearchTimings(), perf_counter())


class Table:
    """A collection of random vectors in one Milvus, 1,000 of them equal, and what NumPy says."""

    def __init__(self, uri: str, rows: int) -> None:
        self.uri = uri
        self.loop = asyncio.new_event_loop()
        self.metrics = ServerMetrics("gateway", CollectorRegistry())
        self.rng = np.random.default_rng(11)
        self.info = CollectionInfo(
            f"t_{uuid.uuid4().hex}",
            ModelRef("m", "r", "f"),
            DIMENSIONS,
            {"number": FieldType.INT64},
            index=indexes.choose_index(None, 0, is_lite=uri.endswith(".db")),
        )
        self.store = self.run(self._make(uri))
        self.row_memory = RowMemory(MemoryBudget(1 << 30, self.metrics))
        self.retrieval = NearestHits(self.store, self.row_memory, self.metrics)
        self.run(self.store.create_collection(self.info, deadline()))
        vectors = unit(self.rng.normal(size=(rows, DIMENSIONS)).astype(np.float32))
        if rows > TWINS:
            vectors[300 : 300 + TWINS] = vectors[300]
        self.query = unit(vectors[300] + 0.5 * vectors[0])
        self.vectors: dict[str, FloatArray] = {}
        self.insert({f"row{n}": vector for n, vector in enumerate(vectors)})
        self.hits(self.search(), 1)  # from now on it knows how large these rows are

    async def _make(self, uri: str) -> SearchStore:
        return SearchStore(uri, "", 4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def insert(self, vectors: dict[str, FloatArray]) -> None:
        new_rows = [
            Row(row_id, "d", "", "", {"number": int(row_id[3:])}, vector)
            for row_id, vector in vectors.items()
        ]
        for start in range(0, len(new_rows), 1_000):
            part = new_rows[start : start + 1_000]
            self.run(self.store.upsert(self.info, part, deadline()))
            if self.uri.endswith(".db"):  # what a gateway does in the background
                self.run(self.store.flush(self.info.name))
        self.vectors |= vectors

    def delete(self, *ids: str) -> None:
        chosen = ", ".join(f'"{row_id}"' for row_id in ids)
        self.run(self.store.delete(self.info, f"id in [{chosen}]", deadline()))
        for row_id in ids:
            del self.vectors[row_id]

    def search(self, expression: str = "", **spec: Any) -> Search:
        made = SearchSpec(self.info.name, Query((Term(vector=self.query),)), **spec)
        return search_of(made, self.info, self.query, expression)

    def hits(self, search: Search, count: int, after: Position = START) -> list[Hit]:
        async def collect() -> list[Hit]:
            blocks = self.retrieval.blocks(search, count, after)
            return [hit async for block in blocks for hit in block]

        return self.run(collect())

    def cosines(self) -> dict[str, float]:
        """What NumPy says."""
        scores = np.stack(list(self.vectors.values())).astype(np.float64) @ self.query
        return dict(zip(self.vectors, scores.tolist(), strict=True))

    def calls(self) -> dict[str, int]:
        """Calls of Milvus so far, by what for."""
        counts = {}
        for stage in ("milvus_search", "milvus_rows"):
            labels = {"stage": stage}
            name = "sentinel_gateway_stage_duration_seconds_count"
            counts[stage] = int(self.metrics.registry.get_sample_value(name, labels) or 0)
        return counts

    def close(self) -> None:
        self.run(self.store.drop_collection(self.info.name, deadline()))
        self.run(self.store.close())
        self.loop.close()


def table_in(uri: str, folder: Any, rows: int) -> Table:
    # On Lite its own file: a gateway of other tests may have the session's open.
    return Table(str(folder / "milvus.db") if uri.endswith(".db") else uri, rows)


@pytest.fixture(scope="module")
def table(milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Tests only read it."""
    made = table_in(milvus_uri, tmp_path_factory.mktemp("retrieval"), ROWS)
    yield made
    made.close()


@pytest.fixture
def small(milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Tests may change it."""
    made = table_in(milvus_uri, tmp_path_factory.mktemp("retrieval"), 3_000)
    yield made
    made.close()


def check_order(hits: list[Hit], cosines: dict[str, float]) -> None:
    """Ranks, scores and ids are those of the NumPy ranking, but for the order of equal scores."""
    best = np.sort(np.array(list(cosines.values())))[::-1][: len(hits)]
    ids = [hit.row.id for hit in hits]
    assert len(set(ids)) == len(ids)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert np.abs(np.array([cosines[row_id] for row_id in ids]) - best).max() < 2e-6
    assert np.abs(np.array([hit.score for hit in hits]) - best).max() < 2e-6
    assert all(a.score >= b.score for a, b in itertools.pairwise(hits))


def test_ten_thousand_hits_come_in_exact_rank_order(table: Table) -> None:
    hits = table.hits(table.search(include_vectors=True), 10_000)
    assert len(hits) == 10_000
    check_order(hits, table.cosines())
    for hit in hits[::97]:
        assert hit.row.vector is not None
        np.testing.assert_allclose(hit.row.vector, table.vectors[hit.row.id], atol=1e-6)
        assert hit.row.fields == {"number": int(hit.row.id[3:])}


def test_a_block_is_fetched_when_it_is_asked_for(table: Table) -> None:
    before = table.calls()

    async def first_two_blocks() -> list[dict[str, int]]:
        seen = []
        async with aclosing(table.retrieval.blocks(table.search(), 10_000)) as blocks:
            async for block in blocks:
                assert len(block) == ROWS_PER_CALL
                seen.append(table.calls())
                if len(seen) == 2:
                    break
        return seen

    seen = table.run(first_two_blocks())
    assert [calls["milvus_search"] - before["milvus_search"] for calls in seen] == [1, 1]
    assert [calls["milvus_rows"] - before["milvus_rows"] for calls in seen] == [1, 2]
    assert table.calls() == seen[-1]  # who goes away has nothing more fetched


def test_a_first_page_is_one_call_of_milvus(table: Table) -> None:
    before = table.calls()
    hits = table.hits(table.search(), ROWS_PER_CALL)
    check_order(hits, table.cosines())
    assert table.calls() == {**before, "milvus_search": before["milvus_search"] + 1}


@pytest.mark.parametrize("size", [333, 1_000])
def test_pages_are_the_ranking_cut_in_pieces(table: Table, size: int) -> None:
    search, position = table.search(), START
    hits: list[Hit] = []
    while len(hits) < 4_000:  # beyond all twins
        page = table.hits(search, size, position)
        hits += page
        position = position.advanced([(hit.row.id, hit.score) for hit in page])
        position = Position.unpack(position.pack())
    check_order(hits, table.cosines())


def test_min_score_ends_a_deep_ranking(table: Table) -> None:
    cosines = table.cosines()
    bound = sorted(cosines.values(), reverse=True)[1_500] - 1e-5
    wanted = {row_id for row_id, cosine in cosines.items() if cosine >= bound}
    hits = table.hits(table.search(min_score=bound), 10_000)
    assert {hit.row.id for hit in hits} == wanted
    assert table.hits(table.search(min_score=1.0), 1_000) == []


def test_a_filter_holds_on_every_page(table: Table) -> None:
    search = table.search("f_number >= 1000 and f_number < 5000")
    cosines = {row_id: c for row_id, c in table.cosines().items() if 1000 <= int(row_id[3:]) < 5000}
    hits = table.hits(search, 10_000)
    assert len(hits) == 4_000
    check_order(hits, cosines)


def test_a_search_for_more_than_there_is_ends(small: Table) -> None:
    hits = small.hits(small.search(), 10_000)
    assert len(hits) == 3_000
    check_order(hits, small.cosines())


def test_what_comes_and_goes_between_pages_disturbs_nothing_else(small: Table) -> None:
    """Also more than a later page leaves room for, and some at the very score of the border."""
    always, search, position = set(small.vectors), small.search(), START
    delivered: list[str] = []
    number = 100_000
    while page := small.hits(search, 600, position):
        delivered += [hit.row.id for hit in page]
        position = position.advanced([(hit.row.id, hit.score) for hit in page])
        if number > 100_300:
            continue  # or new ones at the border would follow for ever
        better = unit(small.query + 0.02 * small.rng.normal(size=(100, DIMENSIONS)))
        border = small.vectors[page[-1].row.id]
        new = [*better, border, border]
        small.insert({f"new{number + n}": vector for n, vector in enumerate(new)})
        number += len(new)
        gone = [page[0].row.id, page[-1].row.id, *list(always - set(delivered))[:2]]
        small.delete(*{row_id for row_id in gone if row_id in small.vectors})
        always -= set(gone)
    assert len(delivered) == len(set(delivered))
    assert always <= set(delivered)


def test_items_deleted_while_a_stream_runs_make_room_for_others(small: Table) -> None:
    async def collect() -> list[Hit]:
        hits: list[Hit] = []
        async with aclosing(small.retrieval.blocks(small.search(), 1_500)) as blocks:
            async for block in blocks:
                if not hits:
                    worst = sorted(small.cosines().items(), key=lambda one: -one[1])[700:800]
                    chosen = ", ".join(f'"{row_id}"' for row_id, _ in worst)
                    await small.store.delete(small.info, f"id in [{chosen}]", deadline())
                    gone.update(row_id for row_id, _ in worst)
                hits += block
        return hits

    gone: set[str] = set()
    hits = small.run(collect())
    assert len(hits) == 1_500
    assert not gone & {hit.row.id for hit in hits}
    check_order(hits, {i: c for i, c in small.cosines().items() if i not in gone})
