"""Long ids, large lists and large filters are refused before anything of them is converted."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from search_server.api import collection_messages, common_messages, search_messages
from search_server.api.page_tokens import PageTokens
from search_server.search.paging import Position
from sentinel.search.v1 import (
    collection_service_pb2,
    filter_pb2,
    item_service_pb2,
    search_service_pb2,
)
from sentinel_core.errors import InvalidArgument
from tests.search_server.api.test_bad_input import (
    compare,
    composite,
    delete,
    download,
    list_items,
    search,
)
from tests.search_server.conftest import Gateway, error_info, string

LONG = "x" * 257
GOOD = "x" * 256


def ids(*values: str) -> item_service_pb2.ItemIds:
    return item_service_pb2.ItemIds(ids=values)


def any_of(*filters: filter_pb2.Filter) -> filter_pb2.Filter:
    return filter_pb2.Filter(any_of=filter_pb2.Filters(filters=filters))


CALLS: dict[str, tuple[Callable[[Gateway, str], object], str]] = {
    "a long id to get": (lambda g, c: g.get(c, GOOD, LONG), "ids[1]"),
    "a long id of few characters": (lambda g, c: g.get(c, "\N{CAT FACE}" * 65), "ids[0]"),
    "a long id to delete": (lambda g, c: delete(g, c, ids=ids("a", LONG)), "ids.ids[1]"),
    "a long id to download": (lambda g, c: download(g, c, LONG), "id"),
    "a long id to search with": (
        lambda g, c: search(g, c, search_service_pb2.Query(item_id=LONG)),
        "params.query.item_id",
    ),
    "a long id of a term": (
        lambda g, c: search(g, c, composite(search_service_pb2.WeightedTerm(item_id=LONG))),
        "params.query.composite.terms[0].item_id",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_id_that_no_item_can_have_is_refused(gateway: Gateway, album: str, name: str) -> None:
    call, path = CALLS[name]
    with pytest.raises(grpc.RpcError) as caught:
        call(gateway, album)
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "NAME_INVALID")
    assert path.encode() in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


def test_the_longest_id_is_taken(gateway: Gateway, album: str) -> None:
    assert gateway.get(album, GOOD).missing_ids == [GOOD]


def test_ids_are_refused_before_the_collection_is_asked_for(gateway: Gateway) -> None:
    for call in (lambda: gateway.get("nope", LONG), lambda: delete(gateway, "nope", ids=ids(LONG))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_info(caught.value)[1] == "NAME_INVALID"


@pytest.mark.parametrize(
    "large",
    [
        compare("year", *[filter_pb2.FieldValue(int_value=1)] * 1_001),
        any_of(*[compare("year")] * 1_001),
        any_of(*[any_of(*[compare("year")] * 50)] * 21),
        any_of(*[filter_pb2.Filter()] * 100_000),
        compare("path", string("x" * (1024 * 1024))),
    ],
    ids=["values", "comparisons", "groups", "empty ones", "bytes"],
)
def test_a_large_filter_is_refused(large: filter_pb2.Filter) -> None:
    with pytest.raises(InvalidArgument) as caught:
        common_messages.filter_from(large, "filter")
    assert caught.value.reason == "FILTER_INVALID"
    assert "more than" in caught.value.message


def test_a_filter_of_a_thousand_values_is_taken() -> None:
    half = compare("year", *[filter_pb2.FieldValue(int_value=1)] * 500)
    common_messages.filter_from(any_of(half, half), "filter")


def test_a_large_filter_of_any_call_is_refused(gateway: Gateway, album: str) -> None:
    large = compare("path", *[string("x")] * 1_001)
    for call in (
        lambda: list_items(gateway, album, filter=large),
        lambda: delete(gateway, album, filter=large),
        lambda: search(gateway, album, search_service_pb2.Query(item_id="x"), filter=large),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_info(caught.value) == ("INVALID_ARGUMENT", "FILTER_INVALID")


def params(**values: object) -> search_service_pb2.SearchParams:
    query = search_service_pb2.Query(item_id="x")
    return search_service_pb2.SearchParams(collection="c", query=query, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "read",
    [
        lambda: search_messages.spec_from(params(output_fields=["path"] * 57)),
        lambda: search_messages.spec_from(params(index_params={f"p{n}": 1 for n in range(17)})),
        lambda: common_messages.fields_from({f"f{n}": string("x") for n in range(57)}, "fields"),
        lambda: collection_messages.new_collection_from(
            collection_service_pb2.Collection(
                name="c", fields=[collection_service_pb2.FieldSchema(name="a")] * 57
            )
        ),
    ],
    ids=["output_fields", "index_params", "fields of an item", "fields of a collection"],
)
def test_a_large_list_is_refused(read: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read()
    assert caught.value.reason == "PARAMETER_OUT_OF_RANGE"


def test_the_longest_page_token_is_taken_and_a_longer_one_is_not_decoded() -> None:
    tokens = PageTokens(b"key", 3600)
    tied = frozenset(number.to_bytes(8, "big") for number in range(10_000))
    longest = Position(10_000, 0.5, tied).pack()
    assert tokens.read(tokens.make(longest, b"search"), b"search") == longest
    with pytest.raises(InvalidArgument) as caught:
        tokens.read(tokens.make(bytes(200_000), b"search"), b"search")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
