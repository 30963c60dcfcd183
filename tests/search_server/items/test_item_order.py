"""ListItems in the order of a field: every item once, page after page."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from search_server.milvus.item_order import next_items
from search_server.milvus.search_store import SearchStore
from search_server.types.items import ItemOrder
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_client import F
from sentinel_client._field_messages import filter_to_proto
from sentinel_core.calls import Deadline
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import FieldType, ModelRef
from tests import processes
from tests.search_server.conftest import Gateway, connect, error_info
from tests.search_server.items.test_list_items import ids, pages

Listed: TypeAlias = tuple[Gateway, str, dict[str, dict[str, float]]]
START = datetime(1999, 12, 31, 23, 0, tzinfo=UTC)
COUNT = 3_250  # more than are sorted at once
RARE = 900  # few have another of these values
FIELDS = {
    "taken_at": collections.FieldSchema.TYPE_TIMESTAMP,
    "stars": collections.FieldSchema.TYPE_INT64,
    "ratio": collections.FieldSchema.TYPE_DOUBLE,
    "name": collections.FieldSchema.TYPE_STRING,
}


def create(gateway: Gateway) -> str:
    schemas = [collections.FieldSchema(name=name, type=kind) for name, kind in FIELDS.items()]
    name = f"ordered_{random.getrandbits(64):x}"
    gateway.collections.CreateCollection(
        collections.CreateCollectionRequest(
            collection=collections.Collection(name=name, fields=schemas)
        ),
        timeout=20,
    )
    return name


def bare(item_id: str, number: int, dimensions: int = 384) -> pb.Item:
    values = np.random.default_rng(number).normal(size=dimensions).astype("<f4")
    vector = content_pb2.Vector(data=values.tobytes(), dimensions=dimensions)
    return pb.Item(id=item_id, vector=vector)


@pytest.fixture(scope="module")
def listed(gateways: Callable[[str], processes.Server], milvus_uri: str) -> Listed:
    """A collection of many items, and their values by id: ids rise as `taken_at` does."""
    gateway = connect(gateways(milvus_uri).address)
    name = create(gateway)
    chance = random.Random(5)
    values: dict[str, dict[str, float]] = {}
    batch: list[pb.Item] = []
    for number in range(COUNT):
        item = bare(f"i{number:05}", number)
        known = values[item.id] = {}
        if number % 50:
            microseconds = number // 3 * 1_000_001  # three of each
            known["taken_at"] = microseconds
            moment = START + timedelta(microseconds=microseconds)
            item.fields["taken_at"].timestamp_value.FromDatetime(moment)
        stars = chance.randrange(-2, 3) if number < RARE else 3
        known["stars"] = item.fields["stars"].int_value = stars
        if chance.random() < 0.9:
            known["ratio"] = chance.choice([-0.0, 1e-300, -1e300, chance.uniform(-1, 1)])
            item.fields["ratio"].double_value = known["ratio"]
        batch.append(item)
        if len(batch) == 250:
            gateway.upsert(name, *batch)
            batch = []
    return gateway, name, values


def expected(values: dict[str, dict[str, float]], field: str, descending: bool) -> list[str]:
    sign = -1 if descending else 1
    have = [item_id for item_id, known in values.items() if field in known]
    have.sort(key=lambda item_id: (sign * values[item_id][field], item_id))
    return have + [item_id for item_id in sorted(values) if field not in values[item_id]]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("field", ["taken_at", "stars", "ratio"])
def test_every_item_comes_once_in_the_order_of_the_field(
    listed: Listed, field: str, descending: bool
) -> None:
    gateway, name, values = listed
    order = pb.ItemOrder(field=field, descending=descending)
    found = pages(gateway, name, order=order, output_fields=[field], sizes=[3, 100, 1_000])
    assert ids(found) == expected(values, field, descending)
    assert [len(page) for page in found[:3]] == [3, 100, 1_000]


def test_a_filter_holds_on_every_page_and_items_are_whole(listed: Listed) -> None:
    gateway, name, values = listed
    since = START + timedelta(seconds=300)
    filter_ = filter_to_proto((F("taken_at") >= since) & (F("ratio") > 0))
    order = pb.ItemOrder(field="taken_at", descending=True)
    found = pages(gateway, name, order=order, filter=filter_, sizes=[400], include_vectors=True)
    wanted = [
        item_id
        for item_id in expected(values, "taken_at", True)
        if values[item_id].get("taken_at", 0) >= 300_000_000 and values[item_id].get("ratio", 0) > 0
    ]
    assert ids(found) == wanted
    first = found[0][0]
    assert first.vector.dimensions == 384
    seconds = values[first.id]["taken_at"] / 1e6
    assert first.fields["taken_at"].timestamp_value.ToDatetime(UTC) == START + timedelta(
        seconds=seconds
    )


def test_a_page_token_belongs_to_its_order(listed: Listed) -> None:
    gateway, name, _ = listed
    request = pb.ListItemsRequest(collection=name, page_size=5, order=pb.ItemOrder(field="stars"))
    request.page_token = gateway.items.ListItems(request, timeout=30).next_page_token
    assert gateway.items.ListItems(request, timeout=30).items
    for other in (pb.ItemOrder(field="stars", descending=True), pb.ItemOrder(field="ratio"), None):
        request.ClearField("order")
        if other is not None:
            request.order.CopyFrom(other)
        with pytest.raises(grpc.RpcError) as refused:
            gateway.items.ListItems(request, timeout=30)
        assert error_info(refused.value) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


@pytest.mark.parametrize(
    ("field", "reason"), [("name", "FIELD_TYPE"), ("no", "FIELD_UNKNOWN"), ("", "FIELD_UNKNOWN")]
)
def test_only_times_and_numbers_give_an_order(listed: Listed, field: str, reason: str) -> None:
    gateway, name, _ = listed
    with pytest.raises(grpc.RpcError) as refused:
        pages(gateway, name, order=pb.ItemOrder(field=field))
    assert error_info(refused.value) == ("INVALID_ARGUMENT", reason)


def test_items_that_do_not_change_come_once_while_others_come_and_go(gateway: Gateway) -> None:
    """Between every two pages, items are added and deleted everywhere in the order."""
    name = create(gateway)
    chance = random.Random(11)

    def item(item_id: str, stars: int) -> pb.Item:
        made = bare(item_id, stars)
        made.fields["stars"].int_value = stars
        return made

    stay = {f"stays {number:03}": chance.randrange(50) for number in range(120)}
    go = {f"goes {number:03}": chance.randrange(50) for number in range(60)}
    gateway.upsert(name, *(item(*one) for one in {**stay, **go}.items()))
    request = pb.ListItemsRequest(
        collection=name, page_size=10, order=pb.ItemOrder(field="stars", descending=True)
    )
    found: list[str] = []
    goers = list(go)
    while True:
        page = gateway.items.ListItems(request, timeout=30)
        found += [one.id for one in page.items if one.id in stay]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
        gone = [goers.pop() for _ in range(min(4, len(goers)))]
        if gone:
            deletion = pb.DeleteItemsRequest(collection=name, ids=pb.ItemIds(ids=gone))
            gateway.items.DeleteItems(deletion, timeout=20)
        new = f"new {len(found):03}"
        gateway.upsert(name, item(new, chance.randrange(50)))
    assert sorted(found) == sorted(stay)
    assert all(stay[a] >= stay[b] for a, b in pairwise(found))


async def test_all_items_are_deleted_while_a_page_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a read that finds too many to sort, and before the sample that narrows them down."""
    store, deadline = SearchStore(str(tmp_path / "milvus.db"), "", 4), Deadline.within(60)
    made = CollectionInfo("c", ModelRef("m", "1", "f"), 4, {"stars": FieldType.INT64})
    await store.create_collection(made, deadline)
    vector = np.full(4, 0.5, np.float32)
    rows = [Row(f"{n:03}", f"{n:064x}", "", "", {"stars": n}, vector) for n in range(700)]
    await store.upsert(made, rows, deadline)
    values = store.values

    async def values_then_none(*arguments: Any) -> list[tuple[str, float]]:
        found = await values(*arguments)
        if found:
            await store.delete(made, 'id >= ""', deadline)
        return found

    monkeypatch.setattr(store, "values", values_then_none)
    order = ItemOrder("stars")
    found = await next_items(store, made, "", order=order, after=None, count=5, deadline=deadline)
    assert found == []
    await store.close()
