"""A collection gets more fields while it is searched and written; nothing is embedded again.

Vectors of callers and items that are a vector only show that none is made anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel_client import (
    F,
    FieldSchema,
    FieldType,
    GeoPoint,
    InvalidArgument,
    Item,
    NotFound,
    Outcome,
    SentinelClient,
    Unavailable,
)
from sentinel_client._messages import field_schema_to_proto
from sentinel_client.cli import main
from sentinel_client.importers import PHOTO_FIELDS
from tests import photos, processes
from tests.search_server.collections.test_reindex import FAKE, OLD, uri_for
from tests.search_server.conftest import connect
from tests.waiting import until

OLD_FIELDS = [
    FieldSchema("path", FieldType.STRING, indexed=True),
    FieldSchema("tags", FieldType.STRING_LIST),
]
NEW_FIELDS = [
    FieldSchema("taken_at", FieldType.TIMESTAMP, indexed=True),
    FieldSchema("place", FieldType.GEO),
]
MOMENT = datetime(2021, 7, 4, 12, tzinfo=UTC)
VIENNA = GeoPoint(48.2085, 16.3731)


@pytest.fixture
def client(tmp_path: Path, milvus_uri: str) -> Iterator[SentinelClient]:
    uri = uri_for(tmp_path, milvus_uri)
    constants = {"search_server.collections.catalog.CACHE_S": 0.2}
    with processes.running(tmp_path / "worker", FAKE, environment=OLD) as worker:
        flags = processes.gateway_flags(tmp_path, uri, worker.address)
        folder = tmp_path / "gateway"
        with (
            processes.running(folder, "search_server", *flags, constants=constants) as server,
            SentinelClient(server.address) as connected,
        ):
            yield connected


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(16).astype(np.float32)


def exists(client: SentinelClient, name: str) -> bool:
    """Ask for this collection alone: on a server with many, a list of all takes long."""
    try:
        return bool(client.get_collection(name))
    except (NotFound, Unavailable):  # not yet, or half
        return False


def everything(client: SentinelClient, name: str) -> dict[str, Item]:
    return {one.id: one for one in client.list_items(collection=name, include_vectors=True)}


class Writer:
    """Writes until the end of the block; no write may fail.

    Texts, and vectors without a content, which another model could not take over.
    """

    def __init__(self, client: SentinelClient, collection: str) -> None:
        self._client, self._collection = client, collection
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.written: set[str] = set()

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            items = [
                Item(id=f"w{number}", vector=vector(number), fields={"path": "w"}),
                Item(id=f"v{number % 7}", text=f"blue {number}"),
            ]
            results = self._client.upsert(items, collection=self._collection)
            assert [one.error for one in results] == [None, None]
            self.written |= {one.id for one in items}

    def __enter__(self) -> Writer:
        self._writing = self._pool.submit(self._write)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._writing.result()
        self._pool.shutdown()


def test_fields_are_added_under_the_same_name_and_every_vector_stays(
    client: SentinelClient,
) -> None:
    name = f"trip_{np.random.default_rng().integers(2**40)}"
    target = f"{name}_2"
    client.create_collection(name, OLD_FIELDS)
    made = [Item(id=f"t{n}", text=f"red {n}", fields={"path": f"p{n}"}) for n in range(300)]
    made += [
        Item(id="bare", vector=vector(1), fields={"tags": ["a"]}),
        Item(id="given", text="its own", vector=vector(2)),
        Item(id="picture", image=photos.photo("chelsea")),
    ]
    client.upsert(made, collection=name)
    before = everything(client, name)

    with Writer(client, name) as writer:
        reports = list(client.reindex(name, target, alias=name, added_fields=NEW_FIELDS))
    last = reports[-1]
    assert (last.failed_count, last.alias_swapped) == (0, True)
    assert last.done_count >= len(before)

    after = everything(client, name)
    assert set(after) == set(before) | writer.written
    for item_id, item in before.items():
        found = after[item_id]
        assert (found.text, dict(found.fields), found.digest) == (
            item.text,
            dict(item.fields),
            item.digest,
        )
        assert found.vector is not None
        assert item.vector is not None
        np.testing.assert_allclose(found.vector, item.vector, rtol=0, atol=1e-7)
    described = client.get_collection(name)
    assert described.fields == (*OLD_FIELDS, *NEW_FIELDS)
    assert client.download_image("picture", collection=name).data

    # The new fields work; what was there is unchanged; and the call again does nothing.
    news = Item(id="new", text="now", fields={"taken_at": MOMENT, "place": VIENNA})
    outcomes = [one.outcome for one in client.upsert([news, made[0], made[-1]], collection=name)]
    assert outcomes == [Outcome.STORED, Outcome.UNCHANGED, Outcome.UNCHANGED]
    near = (F("taken_at") == MOMENT) & F("place").near(48.2, 16.37, 2_000)
    assert [one.id for one in client.list_items(collection=name, filter=near)] == ["new"]
    [again] = client.reindex(name, target, alias=name, added_fields=NEW_FIELDS)
    assert again.done
    assert again.done_count == len(after) + 1


def test_what_cannot_be_added_is_refused_and_leaves_nothing(client: SentinelClient) -> None:
    name = f"trip_{np.random.default_rng().integers(2**40)}"
    client.create_collection(name, OLD_FIELDS)
    known = client.list_collections()
    for added, field in (
        ([NEW_FIELDS[0], OLD_FIELDS[0]], "added_fields[1].name"),
        ([FieldSchema("no good", FieldType.STRING)], "added_fields[0].name"),
        ([FieldSchema(f"g{n}", FieldType.GEO) for n in range(28)], "added_fields"),
        ([FieldSchema("g", FieldType.GEO, indexed=True)], "added_fields[0].indexed"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            list(client.reindex(name, f"{name}_2", alias=name, added_fields=added))
        assert refused.value.field == field
    assert client.list_collections() == known


def cli(client: SentinelClient, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["--address", client.address, "collections", "add-fields", *words]
    )


def test_one_command_adds_the_fields_of_photos(client: SentinelClient) -> None:
    name = f"trip_{np.random.default_rng().integers(2**40)}"
    client.create_collection(name, [*OLD_FIELDS, FieldSchema("title", FieldType.STRING)])
    client.upsert([Item(id="a", text="red", fields={"path": "p"})], collection=name)
    client.set_alias(f"{name}_now", name)

    # An earlier call ended once it had made the copy: the command goes on with that one.
    added = [field_schema_to_proto(one) for one in PHOTO_FIELDS if one.name != "title"]
    target = f"{name}__fields"
    request = pb.ReindexCollectionRequest(
        source=name, target=target, alias=name, added_fields=added
    )
    begun = connect(client.address).collections.ReindexCollection(request, timeout=30)
    until(lambda: exists(client, target))
    begun.cancel()
    assert client.get_collection(name).name == name

    done = cli(client, name, "--photo")
    while "another call is reindexing" in done.stderr:  # it has not heard yet that it ended
        done = cli(client, name, "--photo")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{name}: added taken_at, taken_offset, camera,")
    assert "(1 items). To fill them, run `sentinel index`" in done.stdout
    for one in (name, f"{name}_now"):
        found = client.get_collection(one)
        assert found.name == f"{name}__fields"
        assert {schema.name for schema in found.fields} >= {one.name for one in PHOTO_FIELDS}
        assert [item.id for item in client.list_items(collection=one)] == ["a"]
    assert "has all these fields already" in cli(client, name, "--photo").stdout

    again = cli(client, name, "--field", "seen_at:timestamp:indexed", "--json")
    assert json.loads(again.stdout)["added"] == ["seen_at"]
    assert client.get_collection(name).name == f"{name}__fields_2"
    other = cli(client, name, "--field", "title:int64")
    assert other.exit_code == 2
    assert "has a field title already, of type string and not int64" in other.stderr
    assert cli(client, name).exit_code == 2
