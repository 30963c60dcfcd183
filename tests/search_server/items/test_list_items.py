"""ListItems: every item once, by the bytes of its id, page after page."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as pb
from tests import processes
from tests.search_server.conftest import MAX_RESPONSE_BYTES, Gateway, connect, photo_item
from tests.search_server.items.ingesting import Stream

# Ids whose order differs by bytes, by UTF-16 units, by case and by what looks like a number.
ODD_IDS = [
    "a",
    "B",
    "Z",
    "b",
    "é",
    "z",
    "ä",
    "10",
    "9",
    "\U0001f600",
    "\uffee",
    "名",
    '"',
    "\\",
    "'",
]


def bare(item_id: str, year: int = 0) -> pb.Item:
    values = np.random.default_rng(len(item_id) + year).normal(size=384).astype("<f4")
    item = pb.Item(id=item_id, vector=content_pb2.Vector(data=values.tobytes(), dimensions=384))
    item.fields["year"].int_value = year
    return item


def pages(gateway: Gateway, name: str, **options: object) -> list[list[pb.Item]]:
    """Return all pages; `size` may be a list, one page after the other."""
    sizes = options.pop("sizes", [0])
    assert isinstance(sizes, list)
    found, token = [], ""
    while True:
        size = sizes[min(len(found), len(sizes) - 1)]
        request = pb.ListItemsRequest(
            collection=name,
            page_size=size,
            page_token=token,
            **options,  # type: ignore[arg-type]
        )
        page = gateway.items.ListItems(request, timeout=30)
        found.append(list(page.items))
        token = page.next_page_token
        if not token:
            return found


def ids(found: list[list[pb.Item]]) -> list[str]:
    return [item.id for page in found for item in page]


def by_bytes(item_ids: list[str]) -> list[str]:
    return sorted(item_ids, key=str.encode)


def test_every_item_comes_once_by_the_bytes_of_its_id(gateway: Gateway) -> None:
    """Written in random order and in many writes, some of them twice, some deleted again."""
    name = gateway.create()
    wanted = [*ODD_IDS, *(f"i{number}" for number in range(1_500))]
    shuffled = random.Random(3).sample(wanted, len(wanted))
    with Stream(gateway, name) as stream:
        for start in range(0, len(shuffled), 100):
            stream.send(start, *(bare(item_id) for item_id in shuffled[start : start + 100]))
        for start in range(0, 300, 100):
            again = shuffled[start : start + 100]
            stream.send(10_000 + start, *(bare(item_id, 1) for item_id in again))
        assert stream.rest()[-1].summary.stored_count == len(wanted) + 300
    gone = ["i7", "i77", "i777"]
    gateway.items.DeleteItems(
        pb.DeleteItemsRequest(collection=name, ids=pb.ItemIds(ids=gone)), timeout=20
    )
    left = by_bytes([item_id for item_id in wanted if item_id not in gone])
    for sizes in ([0], [1_000], [7, 500, 3], [5_000]):
        found = pages(gateway, name, sizes=sizes)
        assert ids(found) == left
    assert [len(page) for page in found] == [1_000, len(left) - 1_000]


def test_a_page_that_is_full_to_the_last_item_is_the_last(gateway: Gateway) -> None:
    name = gateway.create()
    gateway.upsert(name, *(bare(item_id) for item_id in "abcd"))
    assert [len(page) for page in pages(gateway, name, sizes=[2])] == [2, 2]
    assert pages(gateway, gateway.create()) == [[]]


def test_a_filter_and_output_fields_hold_on_every_page(gateway: Gateway) -> None:
    name = gateway.create()
    made = [bare(f"i{number}", number % 5) for number in range(60)]
    for item in made:
        item.fields["path"].string_value = item.id
    gateway.upsert(name, *made)
    odd = filter_pb2.Filter(
        any_of=filter_pb2.Filters(
            filters=[
                filter_pb2.Filter(
                    comparison=filter_pb2.Comparison(
                        field="year",
                        operator=filter_pb2.Comparison.OPERATOR_EQUAL,
                        values=[filter_pb2.FieldValue(int_value=year)],
                    )
                )
                for year in (1, 3)
            ]
        )
    )
    found = pages(gateway, name, sizes=[10], filter=odd, output_fields=["path"])
    assert ids(found) == by_bytes([f"i{n}" for n in range(60) if n % 5 in (1, 3)])
    assert all(list(item.fields) == ["path"] for page in found for item in page)
    assert [len(page) for page in found] == [10, 10, 4]


def test_vectors_and_thumbnails_come_when_asked_for(gateway: Gateway) -> None:
    name = gateway.create()
    gateway.upsert(name, photo_item("chelsea"), bare("bare"))
    [[plain_photo, plain]] = pages(gateway, name)
    assert not plain_photo.thumbnail
    assert not plain.HasField("vector")
    assert plain_photo.image_uri
    [[photo, vector]] = pages(gateway, name, include_vectors=True, include_thumbnails=True)
    assert photo.thumbnail[8:12] == b"WEBP"
    assert photo.vector.dimensions == vector.vector.dimensions == 384


def test_a_page_ends_before_its_message_would_be_too_large(gateway: Gateway) -> None:
    """100 texts of 60 kB are 6 MB."""
    name = gateway.create()
    words = "名" * 20_000
    with Stream(gateway, name) as stream:
        for start in range(0, 100, 50):
            batch = [bare(f"i{number}") for number in range(start, start + 50)]
            for item in batch:
                item.content.text = words
            stream.send(start, *batch)
        assert stream.rest()[-1].summary.stored_count == 100
    found = pages(gateway, name, sizes=[1_000])
    assert len(found) > 1
    assert ids(found) == by_bytes([f"i{number}" for number in range(100)])
    assert all(sum(item.ByteSize() for item in page) < MAX_RESPONSE_BYTES for page in found)


@pytest.mark.milvus
def test_what_another_gateway_wrote_is_listed_at_once(
    milvus_server_uri: str, worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("two")
    flags = processes.gateway_flags(folder, milvus_server_uri, worker.address)
    with (
        processes.running(folder / "a", "search_server", *flags) as one,
        processes.running(folder / "b", "search_server", *flags) as two,
    ):
        writing, reading = connect(one.address), connect(two.address)
        name = writing.create()
        assert pages(reading, name) == [[]]
        for number in range(10):
            writing.upsert(name, bare(f"i{number}"))
            assert len(ids(pages(reading, name))) == number + 1


@pytest.mark.milvus
def test_rows_of_several_segments_are_all_listed(
    milvus_server_uri: str, worker: processes.Server, tmp_path: Path
) -> None:
    """A server ends its answer where one segment has no more rows, before the limit."""
    flags = processes.gateway_flags(tmp_path, milvus_server_uri, worker.address)
    with processes.running(tmp_path / "g", "search_server", *flags) as server:
        gateway = connect(server.address)
        name = gateway.create()
        last, first = ([f"{letter}{number}" for number in range(150)] for letter in "ba")
        gateway.upsert(name, *map(bare, last))
        milvus = MilvusClient(milvus_server_uri)
        milvus.flush(name)  # what comes now is in another segment
        milvus.close()
        gateway.upsert(name, *map(bare, first[:20]))
        assert ids(pages(gateway, name, sizes=[100])) == by_bytes(first[:20] + last)
