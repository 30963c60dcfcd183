"""Indexes over vectors: chosen by size, as asked, as checked, and how much of the truth they find.

Recall is against exact search in numpy, on clustered vectors, since uniform ones have no
neighbourhoods to find.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

from search_server.milvus.search_store import SearchStore
from search_server.types.searches import Selection
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel_core.calls import Deadline
from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo, IndexKind, VectorIndex, VectorStorage
from sentinel_store.items import Row
from sentinel_store.milvus import indexes
from sentinel_store.values import Consistency, FloatArray, ModelRef
from tests import milvus_server
from tests.search_server.conftest import Gateway, error_info

T = TypeVar("T")
ROWS, DIMENSIONS, QUERIES = 5_000, 128, 40
Type = pb.VectorIndex


def make(gateway: Gateway, **collection: Any) -> pb.Collection:
    wanted = pb.Collection(name=f"c_{uuid.uuid4().hex}", **collection)
    request = pb.CreateCollectionRequest(collection=wanted)
    made = gateway.collections.CreateCollection(request, timeout=20).collection
    found = gateway.collections.GetCollection(pb.GetCollectionRequest(name=made.name), timeout=20)
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name=made.name), timeout=20)
    assert found.collection == made
    return made


@pytest.mark.parametrize(
    ("expected_item_count", "on_server"),
    [
        (0, IndexKind.AUTOINDEX),
        (1_000_000, IndexKind.AUTOINDEX),
        (1_000_001, IndexKind.HNSW),
        (10_000_001, IndexKind.IVF_SQ8),
        (100_000_001, IndexKind.DISKANN),
        (2**62, IndexKind.DISKANN),
    ],
)
def test_the_size_chooses_the_index(expected_item_count: int, on_server: IndexKind) -> None:
    assert indexes.choose_index(None, expected_item_count, is_lite=False).kind is on_server
    assert indexes.choose_index(None, expected_item_count, is_lite=True).kind is IndexKind.FLAT


def test_a_collection_tells_the_index_chosen_for_its_size(
    gateway: Gateway, milvus_uri: str
) -> None:
    made = make(gateway, expected_item_count=5_000_000)
    assert made.expected_item_count == 5_000_000
    if milvus_uri.endswith(".db"):
        assert made.index == Type(type=Type.TYPE_FLAT)
    else:
        wanted = {"M": 16, "efConstruction": 200}
        assert made.index == Type(type=Type.TYPE_HNSW, params=wanted)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (Type(type=Type.TYPE_FLAT), {}),
        (Type(type=Type.TYPE_AUTOINDEX), {}),
        (Type(type=Type.TYPE_HNSW, params={"M": 8}), {"M": 8, "efConstruction": 200}),
        (Type(type=Type.TYPE_IVF_FLAT, params={"nlist": 64}), {"nlist": 64}),
        (Type(type=Type.TYPE_IVF_SQ8), {"nlist": 1_024}),
    ],
)
def test_an_index_is_made_as_asked(
    gateway: Gateway, asked: pb.VectorIndex, made: dict[str, int]
) -> None:
    assert make(gateway, index=asked).index == Type(type=asked.type, params=made)


def test_an_index_that_milvus_does_not_have_is_refused(gateway: Gateway, milvus_uri: str) -> None:
    index = Type(type=Type.TYPE_DISKANN)
    if not milvus_uri.endswith(".db"):
        assert make(gateway, index=index).index == index
        return
    with pytest.raises(grpc.RpcError) as caught:
        make(gateway, index=index)
    assert error_info(caught.value) == ("FAILED_PRECONDITION", "INDEX_UNSUPPORTED")


def test_what_a_server_refuses_leaves_nothing_behind(milvus_uri: str) -> None:
    """A kind that we know and this server does not, as an older one would."""
    if milvus_uri.endswith(".db"):
        pytest.skip("Milvus Lite refuses no name of an index")
    with Bench(milvus_uri) as bench:
        unknown = VectorIndex(IndexKind.HNSW, {"M": 2_049, "efConstruction": 200})
        info = described(unknown)
        with pytest.raises(Exception, match="has no HNSW index"):
            bench.run(bench.store.create_collection(info, deadline()))
        assert info.name not in bench.run(bench.store.list_collections(deadline()))


def test_declared_fields_are_indexed_where_asked(gateway: Gateway) -> None:
    Schema = pb.FieldSchema
    fields = [
        Schema(name="name", type=Schema.TYPE_STRING, indexed=True),
        Schema(name="year", type=Schema.TYPE_INT64, indexed=True),
        Schema(name="ratio", type=Schema.TYPE_DOUBLE, indexed=True),
        Schema(name="public", type=Schema.TYPE_BOOL, indexed=True),
        Schema(name="note", type=Schema.TYPE_STRING),
        Schema(name="tags", type=Schema.TYPE_STRING_LIST),
    ]
    assert list(make(gateway, fields=fields).fields) == fields


class Bench:
    """A store of its own, closed at the end of the block."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._loop = asyncio.new_event_loop()
        self.store = self.run(self._make())

    async def _make(self) -> SearchStore:
        return SearchStore(self.uri, "", 4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.store.close())
        self._loop.close()


def deadline() -> Deadline:
    return Deadline.after(None, default_s=120.0)


def described(index: VectorIndex) -> CollectionInfo:
    model = ModelRef("m", "r", "f")
    return CollectionInfo(f"t_{uuid.uuid4().hex}", model, DIMENSIONS, {}, index=index)


def clustered(rng: np.random.Generator, centres: FloatArray, count: int) -> FloatArray:
    made = centres[rng.integers(len(centres), size=count)]
    made = made + 0.5 * rng.standard_normal(made.shape)
    unit: FloatArray = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def bench(milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if milvus_uri.endswith(".db"):  # a gateway of other tests may have that one open
        milvus_uri = str(tmp_path_factory.mktemp("indexes") / "milvus.db")
    with Bench(milvus_uri) as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "rescore", "least"),
    [
        (IndexKind.FLAT, False, 1.0),
        (IndexKind.AUTOINDEX, False, 0.98),
        (IndexKind.HNSW, False, 0.98),
        (IndexKind.IVF_FLAT, False, 0.98),
        (IndexKind.IVF_SQ8, False, 0.96),  # its vectors are rounded; store/indexes.py
        (IndexKind.IVF_SQ8, True, 0.99),
    ],
)
@pytest.mark.slow
def test_recall_at_20(bench: Bench, kind: IndexKind, rescore: bool, least: float) -> None:
    if rescore and bench.store.is_lite:
        pytest.skip("Milvus Lite has no such storage")
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((50, DIMENSIONS)).astype(np.float32)
    vectors, queries = clustered(rng, centres, ROWS), clustered(rng, centres, QUERIES)
    index = indexes.choose_index(VectorIndex(kind), 0, is_lite=bench.store.is_lite)
    storage = VectorStorage(Element.INT8 if rescore else Element.FLOAT32, rescore)
    info = replace(described(index), storage=storage)
    bench.run(bench.store.create_collection(info, deadline()))
    for start in range(0, ROWS, 1_000):
        rows = [
            Row(str(place), "d", "", "", {}, vectors[place])
            for place in range(start, start + 1_000)
        ]
        bench.run(bench.store.upsert(info, rows, deadline()))
    if bench.store.is_lite:
        bench.run(bench.store.flush(info.name))
    else:
        milvus_server.wait_for_indexes(bench.uri, info.name)
    found = [search(bench, info, query, 20) for query in queries]
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :20]
    recall = np.mean(
        [len(set(ids) & set(map(str, true))) / 20 for ids, true in zip(found, nearest, strict=True)]
    )
    assert recall >= least
    # Deep results are whole, too, whichever parameters they need for it.
    deep = search(bench, info, queries[0], 1_000)
    assert len(set(deep)) == 1_000
    bench.run(bench.store.drop_collection(info.name, deadline()))


def search(bench: Bench, info: CollectionInfo, query: FloatArray, limit: int) -> list[str]:
    [found] = bench.run(
        bench.store.vectors.search(
            Selection(info, "", Consistency.SESSION, deadline()),
            [query],
            limit=limit,
            include_vectors=False,
        )
    )
    return [row.id for row, _ in found]
