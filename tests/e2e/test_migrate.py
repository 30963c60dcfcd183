"""`sentinel migrate` while the library is searched and written, by one gateway on one machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinel_client import ClientConfig, FieldSchema, FieldType, Item, RetryPolicy, SentinelClient
from tests import milvus_server, photos
from tests.e2e.laptop import sentinel, sentinel_up

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def to_milvus(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another Milvus: a file, or a database of its own on a real server."""
    if request.param == "lite":
        return str(tmp_path / "other.db")
    return milvus_server.new_database(request.getfixturevalue("milvus_server_uri"))


class Busy(threading.Thread):
    """Calls again and again, without a retry, until it is stopped; keeps the first error."""

    def __init__(self, call: Callable[[int], object]) -> None:
        super().__init__()
        self._call = call
        self._end = threading.Event()
        self.turns = 0
        self.first = threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        while not self._end.is_set():
            try:
                self._call(self.turns)
            except BaseException as error:
                self.error = error
                self.first.set()
                return
            self.turns += 1
            self.first.set()

    def finish(self) -> None:
        self._end.set()
        self.join()
        assert self.error is None, repr(self.error)


def everything(client: SentinelClient) -> dict[str, tuple[Any, ...]]:
    found = {}
    for item in client.list_items(collection="photos", include_vectors=True):
        assert item.vector is not None
        found[item.id] = (dict(item.fields), item.text, item.digest, item.vector.tobytes())
    return found


def test_the_library_moves_while_it_is_searched_and_written(tmp_path: Path, to_milvus: str) -> None:
    data = tmp_path / "data"
    once = ClientConfig(retry=RetryPolicy(max_attempts=1))
    with sentinel_up(data) as (_, address), SentinelClient(address, config=once) as client:
        made = client.create_collection("photos", [FieldSchema("year", FieldType.INT64)])
        client.upsert([Item(image=one) for one in photos.all_photos()[:5]], collection="photos")
        vectors = np.random.default_rng(1).normal(size=(1_500, made.dimensions))
        bare = [
            Item(id=f"v{n}", vector=one.astype(np.float32), fields={"year": n})
            for n, one in enumerate(vectors)
        ]
        client.upsert(bare, collection="photos")
        client.set_alias("live", "photos")
        before = everything(client)
        cat = client.search("a cat", collection="live", limit=1)[0].id

        def write(turn: int) -> None:
            [result] = client.upsert(
                [Item(id=f"new{turn}", text=f"new {turn}", fields={"year": turn})],
                collection="photos",
            )
            assert result.error is None, result.error

        def search(_: int) -> None:
            assert client.search("a cat", collection="live", limit=1)[0].id == cat

        busy = [Busy(write), Busy(search), Busy(search)]
        for one in busy:
            one.first.wait()
        moved = sentinel(address, "migrate", "--data", data, "--to-milvus", to_milvus, "--json")
        assert moved.returncode == 0, moved.stderr
        for one in busy:
            one.finish()
        writes = busy[0].turns
        assert writes
        told = json.loads(moved.stdout)
        assert told["milvus_uri"] == to_milvus
        assert len(before) <= told["rows"]["photos"] <= len(before) + writes
        after = everything(client)
        assert {one: after[one] for one in before} == before
        assert set(after) == set(before) | {f"new{turn}" for turn in range(writes)}
        status = json.loads(sentinel(address, "status", "--data", data, "--json").stdout)
        assert status["milvus_uri"] == to_milvus
        again = sentinel(address, "migrate", "--data", data, "--to-milvus", to_milvus)
        assert "already" in again.stderr
    other = sentinel(address, "up", "--data", data, "--milvus-uri", "http://127.0.0.1:1")
    assert "leave out --milvus-uri" in other.stderr
    (data / "milvus.db").rename(data / "no-longer-used")
    with sentinel_up(data) as (_, address), SentinelClient(address) as client:
        assert everything(client) == after
        assert client.search("a cat", collection="live", limit=1)[0].id == cat
    assert not (data / "milvus.db").exists()


def test_without_a_server_or_without_up_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    stopped = sentinel("127.0.0.1:1", "migrate", "--data", data, "--to-milvus", "http://h:1")
    assert stopped.returncode == 2
    assert "no `sentinel up` runs on" in stopped.stderr
    with sentinel_up(data) as (_, address), SentinelClient(address) as client:
        client.create_collection("photos")
        client.upsert([Item(id="a", text="a")], collection="photos")
        failed = sentinel(address, "migrate", "--data", data, "--to-milvus", "http://127.0.0.1:1")
        assert failed.returncode == 1
        assert "nothing has changed: " in failed.stderr
        client.upsert([Item(id="b", text="b")], collection="photos")
        assert not (data / "milvus.json").exists()
