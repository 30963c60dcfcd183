"""Protected mode: what a deletion needs, and which tokens confirm it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from search_server.api import confirmations
from search_server.api.confirmations import Confirmations
from search_server.api.page_tokens import PageTokens
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as items
from sentinel_client.cli import main
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import CollectionInfo
from sentinel_store.values import ModelRef
from tests import processes
from tests.search_server.conftest import PAGE_TOKEN_SECRET, Gateway, connect, error_info

SMALL = 3
FLAGS = ("--protect", "--protect-items", str(SMALL))
OK = ("OK", "")
NEEDED = ("FAILED_PRECONDITION", "CONFIRMATION_NEEDED")
OUTDATED = ("FAILED_PRECONDITION", "CONFIRMATION_OUTDATED")
INVALID = ("INVALID_ARGUMENT", "CONFIRMATION_INVALID")


@pytest.fixture(scope="module")
def protected(
    worker: processes.Server, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("protected")
    # A file of Milvus Lite belongs to one process.
    uri = milvus_uri if "://" in milvus_uri else str(folder / "milvus.db")
    flags = processes.gateway_flags(folder, uri, worker.address)
    with processes.running(folder, "search_server", *flags, *FLAGS) as server:
        yield connect(server.address)


def years(*which: int) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="year",
            operator=filter_pb2.Comparison.OPERATOR_IN,
            values=[filter_pb2.FieldValue(int_value=year) for year in which],
        )
    )


def fill(gateway: Gateway, name: str, first: int, last: int, year: int = 2020) -> None:
    """Store the items `first` to `last` of a year."""
    stored = []
    for number in range(first, last + 1):
        values = np.random.default_rng(number).normal(size=384).astype("<f4").tobytes()
        vector = content_pb2.Vector(data=values, dimensions=384)
        fields = {"year": filter_pb2.FieldValue(int_value=year)}
        stored.append(items.Item(id=f"i{number}", vector=vector, fields=fields))
    gateway.upsert(name, *stored)


def album(gateway: Gateway, count: int = 5, name: str | None = None) -> str:
    name = gateway.create(name)
    if count:
        fill(gateway, name, 1, count)
    return name


def preview(gateway: Gateway, name: str) -> collections.PreviewDeletionResponse:
    request = collections.PreviewDeletionRequest(name=name)
    return gateway.collections.PreviewDeletion(request, timeout=20)


def dry_run(
    gateway: Gateway, name: str, matching: filter_pb2.Filter | None = None
) -> items.DeleteItemsResponse:
    request = items.DeleteItemsRequest(
        collection=name, filter=matching or years(2020), dry_run=True
    )
    return gateway.items.DeleteItems(request, timeout=20)


def outcome(method: Any, request: Any) -> tuple[str, str]:
    """Return the code and the reason of a call."""
    try:
        method(request, timeout=20)
    except grpc.RpcError as error:
        return error_info(error)
    return OK


def drop(gateway: Gateway, name: str, token: str = "") -> tuple[str, str]:
    request = collections.DeleteCollectionRequest(name=name, confirmation_token=token)
    return outcome(gateway.collections.DeleteCollection, request)


def delete(
    gateway: Gateway, name: str, token: str = "", matching: filter_pb2.Filter | None = None
) -> tuple[str, str]:
    request = items.DeleteItemsRequest(
        collection=name, filter=matching or years(2020), confirmation_token=token
    )
    return outcome(gateway.items.DeleteItems, request)


def point(gateway: Gateway, alias: str, name: str) -> None:
    gateway.collections.SetAlias(
        collections.SetAliasRequest(alias=alias, collection=name), timeout=20
    )


def test_large_deletions_need_a_token(protected: Gateway) -> None:
    name = album(protected)
    assert drop(protected, name) == NEEDED
    assert delete(protected, name) == NEEDED
    assert protected.count(name) == 5
    assert drop(protected, album(protected, 0)) == NEEDED  # an empty one, too
    assert drop(protected, "nowhere") == ("NOT_FOUND", "COLLECTION_NOT_FOUND")


def test_small_deletions_and_those_by_id_need_none(protected: Gateway) -> None:
    name = album(protected, 4)
    ids = items.DeleteItemsRequest(
        collection=name, ids=items.ItemIds(ids=[f"i{n}" for n in range(1, 5)])
    )
    assert delete(protected, name) == NEEDED
    assert outcome(protected.items.DeleteItems, ids) == OK
    assert protected.count(name) == 0
    fill(protected, name, 1, SMALL)
    assert delete(protected, name) == OK
    assert protected.count(name) == 0


def test_a_dry_run_deletes_nothing_and_its_token_confirms(protected: Gateway) -> None:
    name = album(protected)
    fill(protected, name, 6, 9, year=1999)
    some, whole = dry_run(protected, name), preview(protected, name)
    assert (some.deleted_count, whole.item_count, protected.count(name)) == (5, 9, 9)
    assert delete(protected, name, some.confirmation_token) == OK
    assert protected.count(name) == 4
    assert drop(protected, name, whole.confirmation_token) == OK
    assert drop(protected, name, whole.confirmation_token)[0] == "NOT_FOUND"


def test_a_preview_fails_where_the_deletion_would(protected: Gateway) -> None:
    name = album(protected)
    alias = f"a_{name}"
    point(protected, alias, name)
    for one in (name, alias):
        request = collections.PreviewDeletionRequest(name=one)
        failed = outcome(protected.collections.PreviewDeletion, request)
        assert failed == ("FAILED_PRECONDITION", "COLLECTION_ALIASED")
    request = collections.PreviewDeletionRequest(name="nowhere")
    failed = outcome(protected.collections.PreviewDeletion, request)
    assert failed == ("NOT_FOUND", "COLLECTION_NOT_FOUND")


def test_a_token_is_for_one_deletion(protected: Gateway) -> None:
    name, other = album(protected), album(protected)
    some, whole = (
        dry_run(protected, name).confirmation_token,
        preview(protected, name).confirmation_token,
    )
    for wrong in (some, preview(protected, other).confirmation_token, whole[:-4], "x", "é"):
        assert drop(protected, name, wrong) == INVALID
    for wrong in (whole, dry_run(protected, other).confirmation_token, some + "AAAA"):
        assert delete(protected, name, wrong) == INVALID
    assert delete(protected, name, some, years(2020, 2021)) == INVALID
    by_id = items.DeleteItemsRequest(
        collection=name, ids=items.ItemIds(ids=["i1"]), confirmation_token=some
    )
    assert outcome(protected.items.DeleteItems, by_id) == INVALID
    assert protected.count(name) == protected.count(other) == 5


def test_a_page_token_confirms_nothing_and_the_other_way_round(protected: Gateway) -> None:
    name = album(protected)
    request = items.ListItemsRequest(collection=name, filter=years(2020), page_size=2)
    page = protected.items.ListItems(request, timeout=20).next_page_token
    assert page
    assert (drop(protected, name, page), delete(protected, name, page)) == (INVALID, INVALID)
    request.page_token = dry_run(protected, name).confirmation_token
    listed = outcome(protected.items.ListItems, request)
    assert listed == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    assert protected.count(name) == 5


def test_a_page_token_that_says_what_a_confirmation_says_confirms_nothing() -> None:
    """The purposes have keys of their own."""
    info = CollectionInfo("photos", ModelRef("m", "r", "f"), 4, {}, id="x")
    deletion = collections.DeleteCollectionRequest(name="photos")
    tokens = Confirmations(b"key", protect=True, small_items=0)
    deletion.confirmation_token = tokens.make(deletion, info, 5)
    tokens.check(deletion, info, 5)
    said = base64.urlsafe_b64decode(deletion.confirmation_token)[40:]  # after tag and time
    page = PageTokens(b"key", 60.0).make(said, confirmations._identity(deletion))
    deletion.confirmation_token = page
    with pytest.raises(InvalidArgument) as caught:
        tokens.check(deletion, info, 5)
    assert caught.value.reason == "CONFIRMATION_INVALID"


def test_a_collection_of_the_same_name_is_another_one(protected: Gateway) -> None:
    name = album(protected)
    some, whole = (
        dry_run(protected, name).confirmation_token,
        preview(protected, name).confirmation_token,
    )
    assert drop(protected, name, whole) == OK
    album(protected, name=name)
    assert drop(protected, name, whole) == OUTDATED
    assert delete(protected, name, some) == OUTDATED
    assert protected.count(name) == 5


def test_an_alias_that_has_moved_takes_no_token_along(protected: Gateway) -> None:
    name, other = album(protected), album(protected)
    alias = f"a_{name}"
    point(protected, alias, name)
    token = dry_run(protected, alias).confirmation_token
    point(protected, alias, other)
    assert delete(protected, alias, token) == OUTDATED
    point(protected, alias, name)
    assert delete(protected, alias, token) == OK
    assert (protected.count(name), protected.count(other)) == (0, 5)


def test_a_token_covers_few_items_more_than_were_counted(protected: Gateway) -> None:
    name = album(protected)
    some, whole = (
        dry_run(protected, name).confirmation_token,
        preview(protected, name).confirmation_token,
    )
    fill(protected, name, 6, 5 + SMALL + 1)
    assert drop(protected, name, whole) == OUTDATED
    assert delete(protected, name, some) == OUTDATED
    one = items.DeleteItemsRequest(collection=name, ids=items.ItemIds(ids=["i1"]))
    assert outcome(protected.items.DeleteItems, one) == OK
    assert protected.count(name) == 5 + SMALL
    assert delete(protected, name, some) == OK
    assert protected.count(name) == 0


def test_gateways_that_share_the_secret_take_each_others_tokens(
    worker: processes.Server, tmp_path: Path
) -> None:
    """One after the other: a file of Milvus Lite belongs to one process."""
    flags = [*processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)]

    def gateway(secret: str, **constants: float) -> Any:
        named = {f"search_server.api.confirmations.{key}": one for key, one in constants.items()}
        environment = {"SENTINEL_GATEWAY_PAGE_TOKEN_SECRET": secret}
        return processes.running(
            tmp_path, "search_server", *flags, *FLAGS, environment=environment, constants=named
        )

    with gateway(PAGE_TOKEN_SECRET) as server:
        first = connect(server.address)
        name = album(first)
        some, whole = (
            dry_run(first, name).confirmation_token,
            preview(first, name).confirmation_token,
        )
    with gateway("another secret") as server:
        another = connect(server.address)
        assert drop(another, name, whole) == INVALID
        assert delete(another, name, some) == INVALID
    with gateway(PAGE_TOKEN_SECRET, LIFETIME_S=-1) as server:  # its tokens are old at once
        late = connect(server.address)
        assert drop(late, name, whole) == OUTDATED
        assert delete(late, name, some) == OUTDATED
    with gateway(PAGE_TOKEN_SECRET) as server:
        second = connect(server.address)
        assert delete(second, name, some) == OK
        assert second.count(name) == 0
        assert drop(second, name, whole) == OK


@pytest.mark.milvus
def test_a_token_is_not_checked_against_what_a_gateway_remembers(
    worker: processes.Server,
    gateways: Callable[[str], processes.Server],
    milvus_server_uri: str,
    tmp_path: Path,
) -> None:
    """Or another gateway could have put another collection in its place."""
    other = connect(gateways(milvus_server_uri).address)
    flags = processes.gateway_flags(tmp_path, milvus_server_uri, worker.address)
    with processes.running(
        tmp_path,
        "search_server",
        *flags,
        *FLAGS,
        environment={"SENTINEL_GATEWAY_PAGE_TOKEN_SECRET": PAGE_TOKEN_SECRET},
        constants={"search_server.collections.catalog.CACHE_S": 3600},
    ) as server:
        gateway = connect(server.address)
        name = album(other)
        assert gateway.get(name, "i1").items
        token = dry_run(other, name).confirmation_token
        assert drop(other, name) == OK
        album(other, name=name)
        assert delete(gateway, name, token) == OUTDATED
        assert delete(gateway, name, dry_run(gateway, name).confirmation_token) == OK


def test_without_protected_mode_a_token_is_not_needed_but_checked(gateway: Gateway) -> None:
    name = album(gateway)
    some, whole = (dry_run(gateway, name), preview(gateway, name).confirmation_token)
    assert (some.deleted_count, gateway.count(name)) == (5, 5)
    assert delete(gateway, name, whole) == INVALID
    assert delete(gateway, name) == OK
    assert gateway.count(name) == 0
    assert drop(gateway, name, some.confirmation_token) == INVALID
    assert drop(gateway, name) == OK
    album(gateway, name=name)
    assert drop(gateway, name, whole) == OUTDATED
    assert drop(gateway, name) == OK


def test_commands_ask_and_then_confirm(protected: Gateway) -> None:
    name = album(protected)

    def sentinel(*words: str, answer: str) -> str:
        command = ["--address", protected.address, *words]
        return CliRunner().invoke(main, command, input=f"{answer}\n").output

    matching = ["items", "delete", "-c", name, "--where", "year=2020"]
    assert f"Delete 5 items of {name}?" in sentinel(*matching, answer="n")
    assert protected.count(name) == 5
    assert f"Deleted 5 items of {name}." in sentinel(*matching, answer="y")
    whole = ["collections", "delete", name]
    assert "with its 0 items?" in sentinel(*whole, answer="n")
    assert protected.count(name) == 0
    assert f"Deleted {name} (0 items)." in sentinel(*whole, "--yes", answer="")
    assert drop(protected, name)[0] == "NOT_FOUND"
