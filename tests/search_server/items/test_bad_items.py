"""Calls about stored items and lists of collections that cannot be right; see test_bad_input.py."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from sentinel.search.v1 import collection_service_pb2, item_service_pb2
from tests import photos
from tests.search_server.api.test_bad_input import compare, delete, listing_token
from tests.search_server.conftest import Gateway, error_info, string


def get(gateway: Gateway, collection: str, **options: object) -> None:
    request = item_service_pb2.GetItemsRequest(collection=collection, ids=["x"], **options)  # type: ignore[arg-type]
    gateway.items.GetItems(request, timeout=20)


def chosen(count: int) -> dict[str, object]:
    return {"ids": item_service_pb2.ItemIds(ids=[str(number) for number in range(count)])}


def list_after(gateway: Gateway, change: Callable[[str], str]) -> None:
    """Ask for the page of collections after a token that was tampered with."""
    token = change(listing_token(gateway))
    request = collection_service_pb2.ListCollectionsRequest(page_size=1, page_token=token)
    gateway.collections.ListCollections(request, timeout=20)


def with_another_letter(token: str) -> str:
    middle = len(token) // 2
    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]


Call = Callable[[Gateway, str], None]
CALLS: dict[str, tuple[Call, str, str]] = {
    "more than a thousand ids to delete": (
        lambda g, c: delete(g, c, **chosen(1_001)),
        "INVALID_ARGUMENT",
        "BATCH_TOO_LARGE",
    ),
    "deleting by an unknown field": (
        lambda g, c: delete(g, c, filter=compare("nope", string("x"))),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "deleting from an unknown collection": (
        lambda g, c: delete(g, "nope", **chosen(1)),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "getting an unknown field": (
        lambda g, c: get(g, c, output_fields=["nope"]),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "getting from an unknown collection": (
        lambda g, c: get(g, "nope"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "a list's page token with another letter": (
        lambda g, c: list_after(g, with_another_letter),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "half of a list's page token": (
        lambda g, c: list_after(g, lambda token: token[: len(token) // 2]),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_refused(gateway: Gateway, album: str, name: str) -> None:
    call, code, reason = CALLS[name]
    with pytest.raises(grpc.RpcError) as caught:
        call(gateway, album)
    assert error_info(caught.value) == (code, reason)
    assert len(caught.value.details()) > 10
    assert gateway.count(album) == len(photos.all_photos())


def test_a_thousand_ids_are_not_too_many(gateway: Gateway, album: str) -> None:
    delete(gateway, album, **chosen(1_000))
    assert gateway.count(album) == len(photos.all_photos())
