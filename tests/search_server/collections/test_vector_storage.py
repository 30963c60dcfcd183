"""Collections of shorter vectors, and of vectors that take less memory, through a real gateway.

Which Milvus can hold what: Milvus Lite float32 only; server 2.3.5 int8 with rescoring; Milvus Lite
2.5, on a port, 16-bit elements (tests/half_milvus.py). No Milvus with int8 columns installs here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import combinations

import numpy as np
import pytest

from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_client import (
    Diversity,
    ElementType,
    FailedPrecondition,
    FieldSchema,
    FieldType,
    GroupBy,
    Hybrid,
    IndexType,
    InvalidArgument,
    Item,
    ModelVersion,
    Q,
    SentinelClient,
    SentinelError,
    VectorIndex,
    VectorStorage,
)
from tests import half_milvus, processes
from tests.search_server.conftest import connect, text

FLOAT16, BFLOAT16 = (VectorStorage(one) for one in (ElementType.FLOAT16, ElementType.BFLOAT16))
INT8 = VectorStorage(ElementType.INT8)
RESCORED = VectorStorage(ElementType.INT8, rescore=True)
MODEL = {"FAKE_DIMENSIONS": "64", "FAKE_SUPPORTED": "16,32"}
COLOURS = ("black", "white", "red", "lime", "blue", "yellow", "cyan", "magenta", "gray", "orange")
NEEDS_HALF = pytest.mark.skipif(
    not half_milvus.binary().exists(), reason="python -m tests.half_milvus fetches what it needs"
)
KINDS = [
    pytest.param("server", RESCORED, marks=pytest.mark.milvus, id="int8 rescored"),
    pytest.param("half", FLOAT16, marks=[NEEDS_HALF, pytest.mark.slow], id="float16"),
    pytest.param("half", BFLOAT16, marks=[NEEDS_HALF, pytest.mark.slow], id="bfloat16"),
]


def new_name() -> str:
    return f"c_{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def matryoshka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker whose model has vectors of 64, 32 and 16 elements."""
    folder = tmp_path_factory.mktemp("matryoshka")
    with processes.running(folder, "tests.fakes.worker", environment=MODEL) as server:
        yield server.address


@pytest.fixture(scope="module")
def addresses() -> dict[str, str]:
    """The gateways by the kind of their Milvus."""
    return {}


@pytest.fixture(scope="module")
def on(
    matryoshka: str,
    addresses: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], SentinelClient]]:
    """Return a client of a gateway on one kind of Milvus."""
    clients: dict[str, SentinelClient] = {}
    with ExitStack() as stack:

        def client_on(kind: str) -> SentinelClient:
            if kind not in clients:
                folder = tmp_path_factory.mktemp(kind)
                if kind == "half":
                    uri = stack.enter_context(half_milvus.running(folder))
                else:
                    uri = str(folder / "milvus.db")
                    if kind == "server":
                        uri = request.getfixturevalue("milvus_server_uri")
                flags = processes.gateway_flags(folder, uri, matryoshka)
                server = stack.enter_context(
                    processes.running(folder / "g", "search_server", *flags)
                )
                addresses[kind] = server.address
                clients[kind] = stack.enter_context(SentinelClient(server.address))
            return clients[kind]

        yield client_on


@pytest.fixture
def lite(on: Callable[[str], SentinelClient]) -> SentinelClient:
    return on("lite")


def error_of(call: Callable[[], object]) -> SentinelError:
    with pytest.raises(SentinelError) as caught:
        call()
    return caught.value


def whole(client: SentinelClient, text: str) -> np.ndarray:
    return client.embed(text)


def cut(vector: np.ndarray, length: int) -> np.ndarray:
    kept: np.ndarray = vector[:length] / np.linalg.norm(vector[:length])
    return kept


# Shorter vectors


def test_a_collection_of_shorter_vectors_holds_and_finds_them(lite: SentinelClient) -> None:
    name = new_name()
    made = lite.create_collection(name, dimensions=16)
    assert (made.dimensions, lite.get_collection(name).dimensions) == (16, 16)
    lite.upsert([Item(id=one, text=one) for one in COLOURS], collection=name)
    [item] = lite.get_items(["red"], collection=name, include_vectors=True).items
    assert item.vector == pytest.approx(cut(whole(lite, "red"), 16), abs=1e-6)
    hits = lite.search("red blue", collection=name, include_vectors=True)
    query = cut(whole(lite, "red blue"), 16)
    assert {hits[0].id, hits[1].id} == {"red", "blue"}
    for hit in hits:
        assert hit.vector.shape == (16,)
        assert hit.score == pytest.approx(float(hit.vector @ query), abs=1e-5)
    assert lite.search(item_id="red", collection=name)[0].id != "red"
    assert lite.search(Q("red") + Q("blue"), collection=name)[0].score > 0.8
    assert lite.search(vector=query, collection=name)[0].id == hits[0].id


def test_one_text_has_a_vector_for_each_length(
    lite: SentinelClient, addresses: dict[str, str]
) -> None:
    """Also from the cache, and in one batch, where all contents of a model are embedded at once."""
    names = {length: new_name() for length in (16, 32, 64)}
    for length, name in names.items():
        lite.create_collection(name, dimensions=length)
        lite.upsert([Item(id=one, text=one) for one in COLOURS[:3]], collection=name)
    searches = [
        pb.SearchPageRequest(params=pb.SearchParams(collection=name, query=text("red")))
        for name in names.values()
    ]
    for _ in range(2):
        batch = pb.BatchSearchRequest(searches=searches)
        results = connect(addresses["lite"]).search.BatchSearch(batch, timeout=20).results
        best = [result.page.hits[0] for result in results]
        assert [hit.id for hit in best] == ["red"] * 3
        assert [hit.score for hit in best] == pytest.approx([1.0] * 3, abs=1e-5)


def test_lengths_of_one_collection_do_not_mix(lite: SentinelClient) -> None:
    name = new_name()
    lite.create_collection(name, dimensions=32)
    [stored] = lite.upsert([Item(id="a", vector=np.ones(64, np.float32))], collection=name)
    assert stored.error is not None
    assert (stored.error.reason, stored.error.metadata["expected"]) == ("VECTOR_DIMENSIONS", "32")
    error = error_of(lambda: lite.search(vector=np.ones(16, np.float32), collection=name))
    assert (error.reason, error.metadata["expected"]) == ("VECTOR_DIMENSIONS", "32")


def test_a_length_that_the_model_lacks_is_refused_with_those_it_has(lite: SentinelClient) -> None:
    error = error_of(lambda: lite.create_collection(new_name(), dimensions=48))
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.field) == ("DIMENSIONS_UNSUPPORTED", "collection.dimensions")
    assert error.metadata["supported"] == "16, 32, 64"
    assert "16, 32, 64" in error.message


def test_a_reindex_makes_the_vectors_shorter_and_names_what_it_cannot(
    lite: SentinelClient,
) -> None:
    source, target = new_name(), new_name()
    lite.create_collection(source)
    lite.upsert([Item(id=one, text=one) for one in COLOURS], collection=source)
    error = error_of(lambda: list(lite.reindex(source, target, dimensions=48)))
    assert (error.reason, error.field) == ("DIMENSIONS_UNSUPPORTED", "dimensions")
    alias = new_name()
    *_, last = lite.reindex(source, target, alias=alias, dimensions=16)
    assert (last.done_count, last.failed_count, last.alias_swapped) == (len(COLOURS), 0, True)
    made = lite.get_collection(target)
    assert (made.dimensions, made.model) == (16, lite.get_collection(source).model)
    assert lite.search("red", collection=alias, include_vectors=True)[0].vector.shape == (16,)
    error = error_of(lambda: list(lite.reindex(source, target, dimensions=32)))
    assert error.reason == "REINDEX_CONFLICT"
    error = error_of(lambda: list(lite.reindex(source, target)))  # to another model
    assert error.reason == "REINDEX_CONFLICT"
    # By its name the model may also be the source's own.
    *_, last = lite.reindex(target, new_name(), dimensions=64, model=ModelVersion(made.model.model))
    assert last.done_count == len(COLOURS)


# Storages that this Milvus lacks, or nobody has


@pytest.mark.parametrize("storage", [FLOAT16, BFLOAT16, INT8, RESCORED], ids=str)
def test_milvus_lite_refuses_every_storage_but_float32(
    lite: SentinelClient, storage: VectorStorage
) -> None:
    name = new_name()
    error = error_of(lambda: lite.create_collection(name, storage=storage))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "STORAGE_UNSUPPORTED"
    assert storage.element_type.value in error.message
    lite.create_collection(name, storage=VectorStorage(ElementType.FLOAT32))
    assert lite.get_collection(name).storage == VectorStorage()
    error = error_of(lambda: list(lite.reindex(name, new_name(), storage=storage)))
    assert error.reason == "STORAGE_UNSUPPORTED"


@pytest.mark.parametrize("storage", [FLOAT16, BFLOAT16, INT8], ids=str)
@pytest.mark.milvus
def test_a_server_is_believed_what_it_finds_not_what_it_accepts(
    on: Callable[[str], SentinelClient], storage: VectorStorage
) -> None:
    """Server 2.3.5 creates, indexes and fills FLOAT16_VECTOR columns, and finds the wrong rows."""
    error = error_of(lambda: on("server").create_collection(new_name(), storage=storage))
    assert error.reason == "STORAGE_UNSUPPORTED"
    assert f"{storage.element_type.value} from 2." in error.message


@pytest.mark.milvus
def test_rescoring_needs_the_index_with_one_byte_per_element(
    on: Callable[[str], SentinelClient],
) -> None:
    client = on("server")
    made = client.create_collection(new_name(), storage=RESCORED, expected_item_count=5)
    assert (made.storage, made.index.type) == (RESCORED, IndexType.IVF_SQ8)
    index = VectorIndex(IndexType.HNSW)
    error = error_of(lambda: client.create_collection(new_name(), storage=RESCORED, index=index))
    assert error.reason == "INDEX_UNSUPPORTED"


# What works with each


@pytest.fixture(scope="module")
def filled(on: Callable[[str], SentinelClient]) -> Callable[[str, VectorStorage], str]:
    """Return a collection of texts of one to three colours, made once for each storage."""
    made: dict[VectorStorage, str] = {}

    def collection(kind: str, storage: VectorStorage) -> str:
        if storage not in made:
            name = new_name()
            client = on(kind)
            fields = [FieldSchema("first", FieldType.STRING), FieldSchema("n", FieldType.INT64)]
            # Milvus Lite 2.5 has no other index.
            index = VectorIndex(IndexType.FLAT) if kind == "half" else None
            client.create_collection(name, fields, storage=storage, index=index, dimensions=32)
            client.upsert(items(), collection=name)
            made[storage] = name
        return made[storage]

    return collection


def items() -> list[Item]:
    """Every set of one to three colours."""
    texts = [" ".join(some) for count in (1, 2, 3) for some in combinations(COLOURS, count)]
    return [
        Item(id=text, text=text, fields={"first": text.split()[0], "n": number})
        for number, text in enumerate(texts)
    ]


def nearest(client: SentinelClient, text: str, exclude: str = "") -> list[tuple[str, float]]:
    """Exact float32 search over all items, best first."""
    texts = [item.id for item in items() if item.id != exclude]
    vectors = np.stack([cut(one, 32) for one in client.embed(texts)])
    scores = vectors @ cut(client.embed(text), 32)
    return sorted(zip(texts, map(float, scores), strict=True), key=lambda one: -one[1])


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_hits_and_scores_are_those_of_exact_search(
    on: Callable[[str], SentinelClient],
    filled: Callable[[str, VectorStorage], str],
    kind: str,
    storage: VectorStorage,
) -> None:
    client, name = on(kind), filled(kind, storage)
    # 8 bits of precision in a bfloat16; the others are as good as exact.
    error = 0.01 if storage is BFLOAT16 else 0.001
    expected = nearest(client, "red blue")
    for options in ({}, {"include_vectors": True}):
        hits = client.search("red blue", collection=name, limit=20, **options)
        assert [hit.score for hit in hits] == pytest.approx(
            [score for _, score in expected[:20]], abs=error
        )
        assert {hit.id for hit in hits[:5]} == {text for text, _ in expected[:5]}
    [hit] = client.search("red blue", collection=name, limit=1, include_vectors=True)
    assert (hit.vector.dtype, float(np.linalg.norm(hit.vector))) == (
        np.float32,
        pytest.approx(1.0, abs=1e-6),
    )
    of_item = client.search(item_id="red blue", collection=name, limit=10)
    expected = nearest(client, "red blue", exclude="red blue")
    assert [hit.score for hit in of_item] == pytest.approx(
        [score for _, score in expected[:10]], abs=error
    )
    least = expected[7][1] - error
    found = client.search(item_id="red blue", collection=name, min_score=least)
    assert 8 <= len(found) <= 10


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_pages_follow_each_other_without_gap_or_repetition(
    on: Callable[[str], SentinelClient],
    filled: Callable[[str, VectorStorage], str],
    kind: str,
    storage: VectorStorage,
) -> None:
    client, name = on(kind), filled(kind, storage)
    every = [item.id for item in items()]
    seen: list[str] = []
    scores: list[float] = []
    token = ""
    while True:
        page = client.search_page("blue", collection=name, page_size=50, page_token=token)
        seen += [hit.id for hit in page.hits]
        scores += [hit.score for hit in page.hits]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(every)
    assert scores == sorted(scores, reverse=True)
    at_once = client.search("blue", collection=name, limit=len(every))
    assert [hit.score for hit in at_once] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_duplicates_variety_and_groups_compare_the_stored_vectors(
    on: Callable[[str], SentinelClient],
    filled: Callable[[str, VectorStorage], str],
    kind: str,
    storage: VectorStorage,
) -> None:
    client, name = on(kind), filled(kind, storage)
    twin = "the twin of red"
    client.upsert([Item(id=twin, text="red", fields={"first": "twin", "n": -1})], collection=name)
    try:
        both = client.search("red", collection=name, limit=2)
        assert {hit.id for hit in both} == {"red", twin}
        one = client.search(
            "red", collection=name, limit=20, diversity=Diversity(duplicate_threshold=1.0)
        )
        assert len({"red", twin} & {hit.id for hit in one}) == 1
        assert len(one) == 20
    finally:
        client.delete_items([twin], collection=name)
    varied = client.search("red", collection=name, limit=5, diversity=Diversity(mmr_lambda=0.3))
    plain = client.search("red", collection=name, limit=5)
    assert varied[0].id == plain[0].id == "red"
    assert [hit.id for hit in varied] != [hit.id for hit in plain]
    groups = client.search("red", collection=name, limit=10, group_by=GroupBy("first"))
    assert len({hit.fields["first"] for hit in groups}) == 10


@pytest.mark.parametrize(("kind", "storage"), KINDS[1:])  # server 2.3.5 has no full text
def test_words_are_fused_with_the_vectors(
    on: Callable[[str], SentinelClient], kind: str, storage: VectorStorage
) -> None:
    client, name = on(kind), new_name()
    fields = [FieldSchema("title", FieldType.STRING, full_text=True)]
    index = VectorIndex(IndexType.FLAT)
    client.create_collection(name, fields, storage=storage, index=index)
    titled = {"red": "a boat", "red lime": "a sea", "blue": "a boat at sea"}
    client.upsert(
        [Item(id=one, text=one, fields={"title": title}) for one, title in titled.items()],
        collection=name,
    )
    hits = client.search("red", collection=name, hybrid=Hybrid(text="boat"))
    assert hits[0].id == "red"
    assert {hit.id for hit in hits} == set(titled)


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_a_rewritten_item_keeps_its_vector(
    on: Callable[[str], SentinelClient],
    filled: Callable[[str, VectorStorage], str],
    kind: str,
    storage: VectorStorage,
) -> None:
    """New fields alone: the gateway reads the vector and writes it again."""
    client, name = on(kind), filled(kind, storage)

    def vector() -> bytes:
        found = client.get_items(["cyan"], collection=name, include_vectors=True)
        stored = found.items[0].vector
        assert stored is not None
        return bytes(stored.tobytes())

    before = vector()
    for number in (1_000, 1_001):
        item = Item(id="cyan", text="cyan", fields={"first": "cyan", "n": number})
        client.upsert([item], collection=name)
    assert vector() == before


@pytest.mark.milvus
def test_a_reindex_changes_length_and_storage(on: Callable[[str], SentinelClient]) -> None:
    client, source, target = on("server"), new_name(), new_name()
    client.create_collection(source)
    client.upsert([Item(id=one, text=one) for one in COLOURS], collection=source)
    *_, last = client.reindex(source, target, storage=RESCORED, dimensions=16)
    assert last.done_count == len(COLOURS)
    made = client.get_collection(target)
    assert (made.storage, made.dimensions, made.index.type) == (RESCORED, 16, IndexType.IVF_SQ8)
    assert client.search("lime", collection=target)[0].id == "lime"
