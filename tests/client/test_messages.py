from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import FieldSchema, FieldType, GeoPoint, Internal, Item, Outcome
from sentinel_client import InvalidArgument as InvalidField
from sentinel_client import _messages as convert
from sentinel_client._requests import split
from sentinel_core.errors import InvalidArgument
from sentinel_core.status import to_status


def test_a_vector_travels_as_little_endian_float32() -> None:
    message = convert.vector_to_proto(np.array([1.0, -2.0], dtype=">f8"))
    assert message.data == bytes.fromhex("0000803f000000c0")
    assert message.dimensions == 2
    back = convert.vector_from_proto(message)
    assert back.dtype == np.float32
    assert back.flags.writeable
    np.testing.assert_array_equal(back, [1.0, -2.0])


def test_a_strided_vector_is_sent_as_its_elements() -> None:
    message = convert.vector_to_proto(np.arange(6, dtype=np.float32)[::2])
    np.testing.assert_array_equal(convert.vector_from_proto(message), [0, 2, 4])


@pytest.mark.parametrize("shape", [(), (1, 3)])
def test_only_one_dimension_is_a_vector(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one dimension"):
        convert.vector_to_proto(np.ones(shape))


def test_vector_bytes_that_do_not_fit_are_the_servers_fault() -> None:
    with pytest.raises(Internal):
        convert.vector_from_proto(content_pb2.Vector(data=b"123", dimensions=1))


def test_fields_keep_their_types() -> None:
    fields = {
        "s": "x",
        "i": 2**60,
        "d": 0.5,
        "b": True,
        "l": ["a", "b"],
        "t": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "g": GeoPoint(-90, 179.999),
    }
    message = convert.item_to_proto(Item(id="1", text="t", fields=fields), None)
    back = convert.item_from_proto(message)
    assert back.fields == fields
    assert type(back.fields["b"]) is bool
    assert type(back.fields["i"]) is int
    assert back.text == "t"


def test_a_time_without_a_zone_is_the_items_fault() -> None:
    item = Item(id="1", text="t", fields={"taken_at": datetime(2021, 7, 4)})
    with pytest.raises(InvalidField, match="has no time zone") as caught:
        convert.item_to_proto(item, None)
    assert (caught.value.reason, caught.value.field) == ("FIELD_TYPE", "fields[taken_at]")


def test_min_score_zero_is_not_unset() -> None:
    query = search_pb.Query(item_id="x")
    assert convert.search_params("c", query, min_score=0.0).HasField("min_score")
    assert not convert.search_params("c", query).HasField("min_score")


def test_an_item_cannot_be_text_and_image() -> None:
    with pytest.raises(TypeError, match="not both"):
        convert.item_to_proto(Item(text="x"), b"image")


def test_a_failed_item_carries_its_error() -> None:
    error = to_status(InvalidArgument("IMAGE_TOO_LARGE", "too large", limit=5))
    result = convert.item_result_from_proto(
        item_pb.ItemResult(id="1", outcome=item_pb.ItemResult.OUTCOME_FAILED, error=error)
    )
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert (result.error.reason, result.error.metadata) == ("IMAGE_TOO_LARGE", {"limit": "5"})


@pytest.mark.parametrize("kind", FieldType)
def test_every_field_type_goes_there_and_back(kind: FieldType) -> None:
    schema = FieldSchema("f", kind)
    message = collection_pb.Collection(name="c", fields=[convert.field_schema_to_proto(schema)])
    assert convert.collection_from_proto(message).fields == (schema,)


def test_every_field_type_of_the_contract_is_known() -> None:
    names = set(collection_pb.FieldSchema.Type.keys()) - {"TYPE_UNSPECIFIED"}
    assert names == {f"TYPE_{kind.name}" for kind in FieldType}


def test_batches_are_cut_by_count_and_bytes_and_a_large_one_goes_alone() -> None:
    sizes = [1, 1, 1, 9, 4, 4, 4]
    batches = list(split(sizes, lambda size: size, max_items=2, max_bytes=8))
    assert batches == [[1, 1], [1], [9], [4, 4], [4]]
