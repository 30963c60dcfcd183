"""A collection changes its model: while it is searched and written, and through crashes.

Two real workers of different models, whose vectors differ in length: a query of one space in the
other would fail. The models are fakes, since what matters is which of them is asked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests import photos, processes
from tests.search_server.conftest import (
    Gateway,
    connect,
    error_info,
    image,
    photo_item,
    reason_of,
    string,
    text,
)
from tests.search_server.items.ingesting import picture
from tests.waiting import until

FAKE = "tests.fakes.worker"
OLD = {"FAKE_NAME": "old", "FAKE_DIMENSIONS": "16"}
# So slow that much can happen during a reindexing.
SLOW_NEW = {"FAKE_NAME": "new", "FAKE_DIMENSIONS": "24", "FAKE_SECONDS_PER_BATCH": "0.15"}
Result = item_service_pb2.ItemResult


def caption(item_id: str, words: str, **fields: str) -> item_service_pb2.Item:
    return item_service_pb2.Item(
        id=item_id,
        content=content_pb2.Content(text=words),
        fields={name: string(value) for name, value in fields.items()},
    )


def bare(item_id: str, dimensions: int = 16) -> item_service_pb2.Item:
    data = np.ones(dimensions, "<f4").tobytes()
    return item_service_pb2.Item(
        id=item_id, vector=content_pb2.Vector(data=data, dimensions=dimensions)
    )


def create_old(gateway: Gateway, name: str) -> None:
    fields = [pb.FieldSchema(name="path", type=pb.FieldSchema.TYPE_STRING, indexed=True)]
    collection = pb.Collection(name=name, fields=fields)
    collection.model_version.model = "old"
    gateway.collections.CreateCollection(
        pb.CreateCollectionRequest(collection=collection), timeout=20
    )


def reindex(
    gateway: Gateway,
    source: str,
    target: str,
    alias: str = "",
    model: str = "",
    *,
    dimensions: int = 0,
) -> Iterator[pb.ReindexCollectionResponse]:
    request = pb.ReindexCollectionRequest(
        source=source, target=target, alias=alias, dimensions=dimensions
    )
    request.model_version.model = model
    call: Iterator[pb.ReindexCollectionResponse] = gateway.collections.ReindexCollection(
        request, timeout=90
    )
    return call


def last(messages: Iterator[pb.ReindexCollectionResponse]) -> pb.ReindexCollectionResponse:
    found = list(messages)
    assert [message.done for message in found] == [False] * (len(found) - 1) + [True]
    return found[-1]


def set_alias(gateway: Gateway, alias: str, collection: str) -> None:
    request = pb.SetAliasRequest(alias=alias, collection=collection)
    gateway.collections.SetAlias(request, timeout=20)


def described(gateway: Gateway, name: str) -> pb.Collection:
    request = pb.GetCollectionRequest(name=name)
    return gateway.collections.GetCollection(request, timeout=20).collection


def delete(gateway: Gateway, collection: str, *ids: str) -> None:
    request = item_service_pb2.DeleteItemsRequest(collection=collection)
    request.ids.ids.extend(ids)
    gateway.items.DeleteItems(request, timeout=20)


def drop(gateway: Gateway, name: str) -> None:
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name=name), timeout=20)


def contents(gateway: Gateway, collection: str) -> dict[str, tuple[str, str, int]]:
    """Every item: its text, its field `path`, and the length of its vector."""
    found, token = {}, ""
    while True:
        request = item_service_pb2.ListItemsRequest(
            collection=collection, page_token=token, page_size=1_000, include_vectors=True
        )
        page = gateway.items.ListItems(request, timeout=20)
        for item in page.items:
            path = item.fields["path"].string_value if "path" in item.fields else ""
            found[item.id] = (item.content.text, path, item.vector.dimensions)
        token = page.next_page_token
        if not token:
            return found


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_info(caught.value)


def searched(gateway: Gateway, collection: str, words: str) -> tuple[str, str, list[str]]:
    """One search: the collection that answered, its model, and the ids found."""
    params = search_service_pb2.SearchParams(collection=collection, query=text(words))
    request = search_service_pb2.SearchRequest(params=params, limit=100)
    events = list(gateway.search.Search(request, timeout=20))
    header = events[0].header
    ids = [hit.id for event in events for hit in event.chunk.hits]
    return header.collection, header.model_version.model, ids


@dataclass(slots=True)
class Place:
    """Two workers, a Milvus, and the gateways that tests start on them."""

    folder: Path
    workers: tuple[str, str]
    milvus_uri: str
    hold: Path  # while it exists, the new model embeds nothing
    started: int = field(default=0)

    def gateway(self, cache_s: float = 0.2) -> AbstractContextManager[processes.Server]:
        """Start one; a reindex waits several times for as long as it caches collections."""
        flags = processes.gateway_flags(self.folder, self.milvus_uri, *self.workers)
        flags += ["--reference-places", self.folder.as_uri()]
        self.started += 1
        constants = {"search_server.collections.catalog.CACHE_S": cache_s}
        folder = self.folder / f"g{self.started}"
        return processes.running(folder, "search_server", *flags, constants=constants)


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, hold: Path) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("models")
    new = {**SLOW_NEW, "FAKE_HOLD": str(hold)}
    with (
        processes.running(folder / "old", FAKE, environment=OLD) as one,
        processes.running(folder / "new", FAKE, environment=new) as two,
    ):
        yield one.address, two.address


def uri_for(folder: Path, milvus_uri: str) -> str:
    """A Lite file of this test alone: gateways come and go, and only one may open it."""
    return str(folder / "milvus.db") if milvus_uri.endswith(".db") else milvus_uri


@pytest.fixture(scope="module")
def shared(
    workers: tuple[str, str],
    hold: Path,
    tmp_path_factory: pytest.TempPathFactory,
    milvus_uri: str,
) -> Iterator[Gateway]:
    """A gateway for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("reindex")
    with Place(folder, workers, uri_for(folder, milvus_uri), hold).gateway() as server:
        yield connect(server.address)


@pytest.fixture
def place(workers: tuple[str, str], hold: Path, tmp_path: Path, milvus_uri: str) -> Iterator[Place]:
    """For tests that kill their gateway, have two of them, or take its pictures away."""
    yield Place(tmp_path, workers, uri_for(tmp_path, milvus_uri), hold)
    hold.unlink(missing_ok=True)


def test_a_collection_changes_its_model(shared: Gateway) -> None:
    """Texts, pictures and fields are taken over; a bare vector cannot be, and that is told."""
    create_old(shared, "plain")
    shared.upsert("plain", photo_item("chelsea"), bare("just a vector"))
    shared.upsert("plain", *(caption(f"t{n}", f"red {n}", path=f"p{n}") for n in range(40)))
    set_alias(shared, "plain_now", "plain")
    messages = list(reindex(shared, "plain_now", "plain_new", "plain_now"))
    done = messages[-1]
    assert (done.done_count, done.total_count, done.failed_count) == (41, 42, 1)
    assert [failure.id for failure in done.failures] == ["just a vector"]
    assert "vector" in done.failures[0].message
    assert done.alias_swapped
    before, after = contents(shared, "plain"), contents(shared, "plain_new")
    assert {row[2] for row in before.values()} == {16}
    assert {row[2] for row in after.values()} == {24}
    del before["just a vector"]
    assert {key: row[:2] for key, row in before.items()} == {
        key: row[:2] for key, row in after.items()
    }
    found = described(shared, "plain_now")
    assert (found.name, found.model_version.model, found.dimensions) == ("plain_new", "new", 24)
    assert found.fields == described(shared, "plain").fields
    assert list(found.aliases) == ["plain_now"]
    assert searched(shared, "plain_now", "red 7")[2][0] == "t7"
    # What is stored there counts as what it is: sent again, nothing is embedded.
    again = shared.upsert("plain_now", photo_item("chelsea"), caption("t7", "red 7", path="p7"))
    assert {result.outcome for result in again} == {Result.OUTCOME_UNCHANGED}


def test_once_done_the_two_live_apart_and_the_call_again_changes_nothing(shared: Gateway) -> None:
    create_old(shared, "apart")
    shared.upsert("apart", caption("a", "red"), caption("b", "blue"))
    set_alias(shared, "apart_now", "apart")
    last(reindex(shared, "apart", "apart_new", "apart_now"))
    delete(shared, "apart", "a")
    shared.upsert("apart_now", caption("b", "lime"), caption("c", "cyan"))
    done = last(reindex(shared, "apart", "apart_new", "apart_now"))
    assert done.alias_swapped
    assert {key: row[0] for key, row in contents(shared, "apart").items()} == {"b": "blue"}
    assert {key: row[0] for key, row in contents(shared, "apart_now").items()} == {
        "a": "red",
        "b": "lime",
        "c": "cyan",
    }
    # Now the way back: the new one is the source, the old model the only other.
    drop(shared, "apart")
    last(reindex(shared, "apart_now", "apart", "apart_now"))
    assert contents(shared, "apart_now")["b"] == ("lime", "", 16)


def test_without_an_alias_none_is_pointed(shared: Gateway) -> None:
    create_old(shared, "alone")
    shared.upsert("alone", caption("a", "red"))
    done = last(reindex(shared, "alone", "alone_new"))
    assert (done.done_count, done.alias_swapped) == (1, False)
    assert list(described(shared, "alone_new").aliases) == []
    shared.upsert("alone", caption("later", "blue"))
    assert set(contents(shared, "alone_new")) == {"a"}
    conflict = ("FAILED_PRECONDITION", "REINDEX_CONFLICT")
    # It has not followed since, so pointing an alias at it is somebody's decision.
    assert refusal(lambda: last(reindex(shared, "alone", "alone_new", "alone_now"))) == conflict
    # With a length and without a model, the source's own model is meant.
    assert refusal(lambda: last(reindex(shared, "alone", "alone_new", dimensions=24))) == conflict


def test_what_cannot_work_is_refused_before_any_work(shared: Gateway) -> None:
    create_old(shared, "src")
    create_old(shared, "other")
    set_alias(shared, "other_now", "other")
    calls: dict[str, tuple[Callable[[], object], tuple[str, str]]] = {
        "no such source": (
            lambda: last(reindex(shared, "nope", "src_new")),
            ("NOT_FOUND", "COLLECTION_NOT_FOUND"),
        ),
        "a target name with a blank": (
            lambda: last(reindex(shared, "src", "no good")),
            ("INVALID_ARGUMENT", "NAME_INVALID"),
        ),
        "an alias with a blank": (
            lambda: last(reindex(shared, "src", "src_new", "no good")),
            ("INVALID_ARGUMENT", "NAME_INVALID"),
        ),
        "a target that is the source": (
            lambda: last(reindex(shared, "src", "src")),
            ("FAILED_PRECONDITION", "REINDEX_CONFLICT"),
        ),
        "a target that is something else": (
            lambda: last(reindex(shared, "src", "other")),
            ("FAILED_PRECONDITION", "REINDEX_CONFLICT"),
        ),
        "a target that is an alias": (
            lambda: last(reindex(shared, "src", "other_now")),
            ("FAILED_PRECONDITION", "COLLECTION_ALIASED"),
        ),
        "an alias that is a collection": (
            lambda: last(reindex(shared, "src", "src_new", "other")),
            ("ALREADY_EXISTS", "COLLECTION_EXISTS"),
        ),
        "an alias that is the target": (
            lambda: last(reindex(shared, "src", "src_new", "src_new")),
            ("ALREADY_EXISTS", "COLLECTION_EXISTS"),
        ),
        "a model that nobody serves": (
            lambda: last(reindex(shared, "src", "src_new", model="jina-clip-v9")),
            ("FAILED_PRECONDITION", "MODEL_MISMATCH"),
        ),
        "the model that it has": (
            lambda: last(reindex(shared, "src", "src_new", model="old")),
            ("FAILED_PRECONDITION", "MODEL_MISMATCH"),
        ),
    }
    assert {name: refusal(call) for name, (call, _) in calls.items()} == {
        name: expected for name, (_, expected) in calls.items()
    }
    request = pb.GetCollectionRequest(name="src_new")
    assert refusal(lambda: shared.collections.GetCollection(request, timeout=20))[0] == "NOT_FOUND"


class Traffic:
    """Callers that search, write and delete by an alias until the end of the block."""

    def __init__(self, gateway: Gateway, alias: str) -> None:
        self._gateway = gateway
        self._alias = alias
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(5)
        self.answers: list[tuple[str, str, list[str]]] = []
        self.expected: dict[str, str] = {}  # acknowledged: text by id

    def __enter__(self) -> Traffic:
        work = [self._search, self._search, self._write, self._update, self._delete]
        self._working = [self._pool.submit(one) for one in work]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._working:
            one.result()

    @property
    def all_going(self) -> bool:
        """Whether none of them has failed."""
        return not any(one.done() for one in self._working)

    def _search(self) -> None:
        while not self._stop.is_set():
            self.answers.append(searched(self._gateway, self._alias, "red 3"))

    def _store(self, item_id: str, words: str) -> None:
        result = self._gateway.upsert(self._alias, caption(item_id, words))[0]
        assert result.outcome != Result.OUTCOME_FAILED, reason_of(result.error)
        self.expected[item_id] = words

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            self._store(f"new{number}", f"blue {number}")
            number += 1
            time.sleep(0.02)

    def _update(self) -> None:
        number = 0
        while not self._stop.is_set():
            self._store(f"hot{number % 5}", f"lime {number}")
            number += 1
            time.sleep(0.02)

    def _delete(self) -> None:
        number = 0
        while not self._stop.is_set():
            item_id = f"gone{number}"
            self._store(item_id, "orange")
            delete(self._gateway, self._alias, item_id)
            del self.expected[item_id]
            number += 1
            time.sleep(0.05)


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_searches_and_writes_go_on_all_the_while(place: Place) -> None:
    """No search fails or mixes spaces, and every acknowledged write is in the new collection."""
    with place.gateway() as server:
        gateway = connect(server.address)
        name, alias = "live", "live_now"
        create_old(gateway, name)
        gateway.upsert(name, *(caption(f"t{n}", f"red {n}") for n in range(150)))
        set_alias(gateway, alias, name)
        with Traffic(gateway, alias) as traffic:
            done = last(reindex(gateway, alias, "live_new", alias))
            meanwhile = len(traffic.expected)
            # A slow machine takes longer; the test's own limit ends it.
            while traffic.all_going and len(traffic.expected) <= 50:
                time.sleep(0.05)
            time.sleep(0.5)
        assert meanwhile > 0
        assert len(traffic.expected) > 50
        assert done.alias_swapped
        spaces = {(collection, model) for collection, model, _ in traffic.answers}
        assert spaces == {("live", "old"), ("live_new", "new")}
        # Each answer is a whole one: the nearest is there in both spaces.
        assert {ids[0] for _, _, ids in traffic.answers} == {"t3"}
        found = {key: row[0] for key, row in contents(gateway, "live_new").items()}
        expected = {f"t{n}": f"red {n}" for n in range(150)} | traffic.expected
        assert found == expected


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_a_second_gateway_that_has_not_heard_loses_nothing(place: Place, milvus_uri: str) -> None:
    """Its writes arrive, too: by the old meaning of the alias, and through the swap."""
    if milvus_uri.endswith(".db"):
        pytest.skip("Milvus Lite has one gateway")
    with place.gateway() as here, place.gateway() as there:
        gateway = connect(here.address)
        create_old(gateway, "two")
        gateway.upsert("two", *(caption(f"t{n}", f"red {n}") for n in range(100)))
        set_alias(gateway, "two_now", "two")
        with Traffic(connect(there.address), "two_now") as traffic:
            last(reindex(gateway, "two_now", "two_new", "two_now"))
            # The other gateway hears of it, and writes on.
            until(
                lambda: (
                    not traffic.all_going
                    or ("two_new", "new") in {answer[:2] for answer in list(traffic.answers)}
                )
            )
            time.sleep(0.5)
        found = {key: row[0] for key, row in contents(gateway, "two_new").items()}
        assert found == {f"t{n}": f"red {n}" for n in range(100)} | traffic.expected
        assert ("two_new", "new") in {answer[:2] for answer in traffic.answers}


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_after_a_crash_the_same_call_goes_on(place: Place) -> None:
    """SIGKILL at three moments; writes and deletions in between are caught up with."""
    expected: dict[str, str] = {}
    for kill_after, start in ((0.7, 0), (2.5, 200), (4.5, 400)):
        with place.gateway() as server:
            gateway = connect(server.address)
            if not expected:
                create_old(gateway, "crash")
                set_alias(gateway, "crash_now", "crash")
            for first in range(start, start + 200, 100):
                items = {f"t{n}": f"red {n}" for n in range(first, first + 100)}
                gateway.upsert("crash_now", *(caption(*item) for item in items.items()))
                expected |= items
            gateway.upsert("crash_now", caption("t1", f"blue {start}"))
            expected["t1"] = f"blue {start}"
            delete(gateway, "crash_now", f"t{start + 50}")
            del expected[f"t{start + 50}"]
            threading.Timer(kill_after, server.kill).start()
            with pytest.raises(grpc.RpcError) as caught:
                list(reindex(gateway, "crash_now", "crash_new", "crash_now"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            server.process.wait()
    with place.gateway() as server:
        gateway = connect(server.address)
        done = last(reindex(gateway, "crash", "crash_new", "crash_now"))
        assert done.done_count == done.total_count == len(expected)
        found = {key: row[0] for key, row in contents(gateway, "crash_new").items()}
        assert found == expected
        assert searched(gateway, "crash_now", "red 3")[:2] == ("crash_new", "new")


def test_a_caller_who_leaves_ends_the_work_and_writes_stay_free(place: Place) -> None:
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "left")
        gateway.upsert("left", *(caption(f"t{n}", f"red {n}") for n in range(200)))
        place.hold.touch()  # it cannot end before its caller leaves
        call = reindex(gateway, "left", "left_new")
        first = next(message for message in call if message.total_count)
        assert not first.done
        # While one call is at it another one is refused, and so is another target.
        for target in ("left_new", "left_other"):
            assert refusal(lambda target=target: last(reindex(gateway, "left", target))) == (  # type: ignore[misc]
                "FAILED_PRECONDITION",
                "REINDEX_CONFLICT",
            )
        # Nobody but the reindexing writes to what it fills.
        assert refusal(lambda: gateway.upsert("left_new", caption("x", "red"))) == (
            "FAILED_PRECONDITION",
            "REINDEX_CONFLICT",
        )
        assert refusal(lambda: delete(gateway, "left_new", "t1")) == (
            "FAILED_PRECONDITION",
            "REINDEX_CONFLICT",
        )
        call.cancel()  # type: ignore[attr-defined]
        until(lambda: not processes.in_flight(server))
        place.hold.unlink()
        so_far = gateway.count("left_new")
        assert so_far < 200
        time.sleep(0.5)  # some batches long
        assert gateway.count("left_new") == so_far
        assert refusal(lambda: last(reindex(gateway, "left", "left_other"))) == (
            "FAILED_PRECONDITION",
            "REINDEX_CONFLICT",
        )
        drop(gateway, "left_new")  # gives it up
        gateway.upsert("left", caption("later", "blue"))
        assert last(reindex(gateway, "left", "left_other")).done_count == 201


def test_a_crash_while_writes_are_mirrored_leaves_them_so(place: Place) -> None:
    """Until the same call ends it, or the target is deleted."""
    with place.gateway(cache_s=20) as server:  # so it does not swap before it is killed
        gateway = connect(server.address)
        create_old(gateway, "bound")
        gateway.upsert("bound", caption("a", "red"))
        call = reindex(gateway, "bound", "bound_new", "bound_now")
        next(message for message in call if message.done_count == 1)
        time.sleep(2)  # copied, hence marked; what other gateways may not know yet is waited for
        server.kill()
        server.process.wait()
        with place.gateway() as again:
            gateway = connect(again.address)
            assert gateway.upsert("bound", caption("b", "blue"))[0].outcome == Result.OUTCOME_STORED
            assert set(contents(gateway, "bound_new")) == {"a", "b"}
            refused, stored = gateway.upsert("bound", bare("v"), caption("c", "lime"))
            assert reason_of(refused.error) == "REINDEX_CONFLICT"
            assert stored.outcome == Result.OUTCOME_STORED
            delete(gateway, "bound", "a")
            assert set(contents(gateway, "bound_new")) == {"b", "c"}
            assert set(contents(gateway, "bound")) == {"b", "c"}
            drop(gateway, "bound_new")
            gateway.upsert("bound", bare("v"))
            assert set(contents(gateway, "bound")) == {"b", "c", "v"}


def test_pictures_whose_bytes_are_gone_are_told(place: Place) -> None:
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "faded")
        gateway.upsert("faded", photo_item("chelsea"), photo_item("rocket"))
        for stored in (place.folder / "objects" / "images").rglob("*"):
            if stored.is_file() and stored.read_bytes() == photos.photo("rocket").read_bytes():
                stored.unlink()
        done = last(reindex(gateway, "faded", "faded_new", "faded_now"))
        assert (done.done_count, done.total_count, done.failed_count) == (1, 2, 1)
        assert "gone" in done.failures[0].message
        assert [hit.fields["path"].string_value for hit in gateway.hits("faded_now", text("red"))]
        query = search_service_pb2.Query(content=image(photos.photo("chelsea").read_bytes()))
        assert [hit.fields["path"].string_value for hit in gateway.hits("faded_now", query)] == [
            "chelsea.png"
        ]


def referring(place: Place, count: int) -> list[item_service_pb2.Item]:
    """Write so many photos; return their items by reference."""
    items = []
    for number in range(count):
        path = place.folder / f"{number}.jpg"
        path.write_bytes(picture(number))
        item = item_service_pb2.Item(id=path.name, by_reference=True)
        item.content.image.uri = path.as_uri()
        item.digest = hashlib.sha256(picture(number)).hexdigest()
        items.append(item)
    return items


def test_originals_are_read_from_their_places_and_those_that_are_gone_are_told(
    place: Place,
) -> None:
    items = referring(place, 4)
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "referred")
        results = gateway.upsert("referred", *items)
        assert {one.outcome for one in results} == {Result.OUTCOME_STORED}
        (place.folder / "1.jpg").unlink()
        (place.folder / "2.jpg").write_bytes(picture(9))
        done = last(reindex(gateway, "referred", "referred_new", "referred_now"))
        assert (done.done_count, done.total_count, done.failed_count) == (2, 4, 2)
        assert {one.id for one in done.failures} == {"1.jpg", "2.jpg"}
        assert all("original of the image is gone" in one.message for one in done.failures)
        kept = gateway.get("referred_now", "0.jpg", "3.jpg").items
        assert [(one.image_uri, one.by_reference) for one in kept] == [
            (items[0].content.image.uri, True),
            (items[3].content.image.uri, True),
        ]


def test_an_alias_does_not_lose_items_whose_disk_is_away(place: Place) -> None:
    items = referring(place, 20)
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "away")
        gateway.upsert("away", *items)
        set_alias(gateway, "away_now", "away")
        hidden = [path.rename(path.with_suffix(".away")) for path in place.folder.glob("*.jpg")]
        code, reason = refusal(lambda: last(reindex(gateway, "away", "away_new", "away_now")))
        assert (code, reason) == ("NOT_FOUND", "ORIGINAL_GONE")
        assert described(gateway, "away_now").name == "away"
        for path in hidden:
            path.rename(path.with_suffix(".jpg"))
        done = last(reindex(gateway, "away", "away_new", "away_now"))
        assert (done.done_count, done.failed_count, done.alias_swapped) == (20, 0, True)
