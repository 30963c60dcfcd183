"""A confirmation token is of use to the caller who made the dry run only."""

from __future__ import annotations

import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as items
from tests.search_server.access.secured import OK, Caller, Secured
from tests.waiting import until

INVALID = ("INVALID_ARGUMENT", "CONFIRMATION_INVALID")
NAME = "confirmed"
RED = filter_pb2.Filter(
    comparison=filter_pb2.Comparison(
        field="color",
        operator=filter_pb2.Comparison.OPERATOR_EQUAL,
        values=[filter_pb2.FieldValue(string_value="red")],
    )
)


def fill(caller: Caller) -> None:
    kind = collections.FieldSchema.TYPE_STRING
    collection = collections.Collection(
        name=NAME, fields=[collections.FieldSchema(name="color", type=kind)]
    )
    created = collections.CreateCollectionRequest(collection=collection)
    assert caller.call("CollectionService/CreateCollection", created) == OK
    stored = [
        items.Item(
            id=f"i{number}",
            content=content_pb2.Content(text=f"red {number}"),
            fields={"color": filter_pb2.FieldValue(string_value="red")},
        )
        for number in range(4)
    ]
    request = items.UpsertItemsRequest(collection=NAME, items=stored)
    assert caller.call("ItemService/UpsertItems", request) == OK


def dry_runs(caller: Caller) -> tuple[str, str]:
    """Return the tokens for the red items and for the collection."""
    request = items.DeleteItemsRequest(collection=NAME, filter=RED, dry_run=True)
    [some] = caller.answers("ItemService/DeleteItems", request)
    previewed = collections.PreviewDeletionRequest(name=NAME)
    [whole] = caller.answers("CollectionService/PreviewDeletion", previewed)
    assert (some.deleted_count, whole.item_count) == (4, 4)
    return some.confirmation_token, whole.confirmation_token


def delete(caller: Caller, token: str) -> tuple[str, str]:
    request = items.DeleteItemsRequest(collection=NAME, filter=RED, confirmation_token=token)
    return caller.call("ItemService/DeleteItems", request)


def drop(caller: Caller, token: str) -> tuple[str, str]:
    request = collections.DeleteCollectionRequest(name=NAME, confirmation_token=token)
    return caller.call("CollectionService/DeleteCollection", request)


@pytest.fixture(scope="module")
def mine(system: Secured) -> Caller:
    caller = system.caller(system.key("owner", tenant="mine"))
    fill(caller)
    return caller


@pytest.mark.parametrize("tenant", ["mine", "yours"])
def test_another_callers_token_confirms_nothing(system: Secured, mine: Caller, tenant: str) -> None:
    """Of the same tenant, and of another one with a collection that looks the same."""
    other = system.caller(system.key("owner", tenant=tenant))
    if tenant == "yours":
        fill(other)
    some, whole = dry_runs(mine)
    assert (delete(other, some), drop(other, whole)) == (INVALID, INVALID)
    their_some, their_whole = dry_runs(other)
    assert (delete(mine, their_some), drop(mine, their_whole)) == (INVALID, INVALID)


def test_the_audit_log_counts_what_a_filter_deleted(system: Secured) -> None:
    caller = system.caller(system.key("owner", tenant="counted"))
    fill(caller)
    some, whole = dry_runs(caller)
    assert (delete(caller, some), drop(caller, whole)) == (OK, OK)

    def counts() -> list[int]:
        lines = [line for line in system.audited() if line["tenant"] == "counted"]
        return [line["items"] for line in lines if line["method"].endswith("/DeleteItems")]

    until(lambda: len(counts()) == 2)  # lines are written after the answers
    assert counts() == [0, 4]  # the dry run, the deletion
