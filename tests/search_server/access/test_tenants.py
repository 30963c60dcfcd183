"""Tenants: the same names side by side, and no way to what belongs to another one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from search_server.api.page_tokens import PageTokens
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import search_service_pb2 as search
from sentinel_core.access.scopes import Caller as Credential
from sentinel_core.calls import Call, current_call
from sentinel_core.errors import InvalidArgument
from tests import photos
from tests.search_server.access.secured import OK, Caller, Secured
from tests.search_server.access.test_scopes import REQUESTS, WITHOUT_COLLECTION
from tests.search_server.conftest import error_info, image, text
from tests.waiting import until

NOT_FOUND = ("NOT_FOUND", "COLLECTION_NOT_FOUND")


@dataclass(slots=True)
class Tenant:
    """A tenant with a collection `photos`, which has some items and an alias `now`."""

    caller: Caller
    name: str

    def create(self, name: str) -> None:
        request = collections.CreateCollectionRequest(collection=collections.Collection(name=name))
        assert self.caller.call("CollectionService/CreateCollection", request) == OK

    def fill(self) -> None:
        self.create("photos")
        alias = collections.SetAliasRequest(alias="now", collection="photos")
        assert self.caller.call("CollectionService/SetAlias", alias) == OK
        stored = [
            items.Item(id=f"{self.name}{n}", content=content_pb2.Content(text=f"{self.name} {n}"))
            for n in range(5)
        ]
        stored.append(items.Item(id="cat", content=image(photos.photo("chelsea").read_bytes())))
        request = items.UpsertItemsRequest(collection="photos", items=stored)
        [answer] = self.caller.answers("ItemService/UpsertItems", request)
        assert {one.outcome for one in answer.results} == {items.ItemResult.OUTCOME_STORED}

    def listed(self) -> list[tuple[str, list[str]]]:
        [answer] = self.caller.answers("CollectionService/ListCollections")
        return [(one.name, list(one.aliases)) for one in answer.collections]

    def ids(self, collection: str = "photos") -> set[str]:
        request = items.ListItemsRequest(collection=collection)
        [answer] = self.caller.answers("ItemService/ListItems", request)
        return {one.id for one in answer.items}


@pytest.fixture(scope="module")
def tenants(system: Secured) -> tuple[Tenant, Tenant]:
    found = []
    for name in ("acme", "acme2"):  # one name begins the other
        tenant = Tenant(system.caller(system.key("owner", tenant=name)), name)
        tenant.fill()
        found.append(tenant)
    return found[0], found[1]


def test_names_are_local(tenants: tuple[Tenant, Tenant], system: Secured, owner: str) -> None:
    for tenant in tenants:
        assert tenant.listed() == [("photos", ["now"])]
        assert (
            tenant.ids() == tenant.ids("now") == {f"{tenant.name}{n}" for n in range(5)} | {"cat"}
        )
    without = Tenant(system.caller(owner), "")
    assert not {name for name, _ in without.listed() if "acme" in name or name == "photos"}
    assert without.caller.call(*_get("photos")) == NOT_FOUND


def test_the_header_and_errors_have_local_names(tenants: tuple[Tenant, Tenant]) -> None:
    caller = tenants[0].caller
    params = search.SearchParams(collection="now", query=text("red"))
    events = caller.answers("SearchService/Search", search.SearchRequest(params=params))
    assert events[0].header.collection == "photos"
    with pytest.raises(grpc.RpcError) as caught:
        caller.answers("CollectionService/DeleteCollection", _delete("photos"))
    assert error_info(caught.value) == ("FAILED_PRECONDITION", "COLLECTION_ALIASED")
    assert "tenant_" not in caught.value.details()
    assert "tenant_" not in str(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    with pytest.raises(grpc.RpcError) as caught:
        caller.answers("ItemService/GetItems", items.GetItemsRequest(collection="no", ids=["x"]))
    assert caught.value.details() == "no collection 'no'"


def _get(name: str) -> tuple[str, Any]:
    return "CollectionService/GetCollection", collections.GetCollectionRequest(name=name)


def _delete(name: str) -> collections.DeleteCollectionRequest:
    return collections.DeleteCollectionRequest(name=name)


_NAMING_A_COLLECTION = sorted(set(REQUESTS) - WITHOUT_COLLECTION | {"SearchService/BatchSearch"})


@pytest.mark.parametrize(
    "name", ["tenant_acme2__photos", "tenant_acme__photos", "photos2", "other_now"]
)
@pytest.mark.parametrize("method", _NAMING_A_COLLECTION)
def test_collections_of_others_do_not_exist(
    tenants: tuple[Tenant, Tenant], system: Secured, owner: str, method: str, name: str
) -> None:
    """By their own names, by their stored names; for another tenant, and for one without."""
    mine, other = tenants
    if "photos2" not in dict(other.listed()):
        other.create("photos2")
        alias = collections.SetAliasRequest(alias="other_now", collection="photos2")
        assert other.caller.call("CollectionService/SetAlias", alias) == OK
    for caller in (mine.caller, system.caller(owner)):
        request = type(REQUESTS[method][1][0])()
        request.CopyFrom(REQUESTS[method][1][0])
        _rename(request, name)
        if method in ("CollectionService/CreateCollection", "CollectionService/DeleteAlias"):
            continue  # the one makes an own one, the other ignores what does not exist
        try:
            answers = caller.answers(method, request)
        except grpc.RpcError as error:
            assert error.code().name in ("NOT_FOUND", "INVALID_ARGUMENT")
            assert "PERMISSION" not in error.code().name
        else:
            assert method == "SearchService/BatchSearch"
            assert answers[0].results[0].WhichOneof("outcome") == "error"
    assert other.ids() == {f"acme2{n}" for n in range(5)} | {"cat"}
    assert dict(other.listed()) == {"photos": ["now"], "photos2": ["other_now"]}


def _rename(request: Any, name: str) -> None:
    """Put a name wherever the request has one."""
    for field, value in request.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _rename(one, name)
        elif value == "photos":
            setattr(request, field.name, name)


def test_deleting_an_alias_of_another_one_changes_nothing(tenants: tuple[Tenant, Tenant]) -> None:
    mine, other = tenants
    request = collections.DeleteAliasRequest(alias="tenant_acme2__now")
    mine.caller.call("CollectionService/DeleteAlias", request)
    assert dict(other.listed())["photos"] == ["now"]


def test_a_page_token_of_another_one_is_refused(tenants: tuple[Tenant, Tenant]) -> None:
    mine, other = tenants
    params = search.SearchParams(collection="photos", query=text("red"))
    [page] = other.caller.answers(
        "SearchService/SearchPage", search.SearchPageRequest(params=params, page_size=2)
    )
    assert page.next_page_token
    stolen = search.SearchPageRequest(params=params, page_size=2, page_token=page.next_page_token)
    refused = ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    assert mine.caller.call("SearchService/SearchPage", stolen) == refused
    assert other.caller.call("SearchService/SearchPage", stolen) == OK
    [listed] = other.caller.answers(
        "ItemService/ListItems", items.ListItemsRequest(collection="photos", page_size=2)
    )
    stolen_list = items.ListItemsRequest(
        collection="photos", page_size=2, page_token=listed.next_page_token
    )
    assert mine.caller.call("ItemService/ListItems", stolen_list) == refused
    assert other.caller.call("ItemService/ListItems", stolen_list) == OK


def test_a_forged_page_token_names_no_collection_of_another_one() -> None:
    """Even if somebody knows the key."""
    tokens = PageTokens(b"known", 60.0)
    call = Call("/x")
    current = current_call.set(call)
    try:
        for tenant, name in (("acme", "tenant_acme2__photos"), ("", "tenant_acme__photos")):
            call.caller = Credential("key", frozenset(), tenant)
            token = tokens.make_in_collection(name, b"position", b"request")
            with pytest.raises(InvalidArgument):
                tokens.read_in_collection(token, b"request")
        call.caller = Credential("key", frozenset(), "acme")
        token = tokens.make_in_collection("tenant_acme__photos", b"position", b"request")
        assert tokens.read_in_collection(token, b"request")[1] == b"position"
    finally:
        current_call.reset(current)


def test_strangers_do_not_fill_the_audit_log(system: Secured) -> None:
    before = len(system.audited())
    stranger = system.caller(None)
    start = time.monotonic()
    for _ in range(300):
        stranger.call("ItemService/GetItems")
    seconds = 2 + int(time.monotonic() - start)
    assert len(system.audited()) - before <= 10 * seconds


def test_guesses_of_a_known_id_do_not_fill_the_audit_log(system: Secured, owner: str) -> None:
    """At a method that is always audited; most of them are throttled."""
    before = len(system.audited())
    guesser = system.caller(f"{owner.rpartition('_')[0]}_{'x' * 43}")
    start = time.monotonic()
    reasons = {guesser.call("ItemService/DeleteItems")[1] for _ in range(300)}
    assert reasons == {"CREDENTIALS_INVALID", "CREDENTIALS_THROTTLED"}

    def noted() -> list[dict[str, Any]]:
        guesser.call("ItemService/DeleteItems")
        return system.audited()[before:]

    # Refusals of others may have taken the lines of the first second.
    until(noted)
    lines = noted()
    assert len(lines) <= 10 * (2 + int(time.monotonic() - start))
    assert {line["reason"] for line in lines} <= reasons


def test_ids_of_another_one_are_found_nowhere(tenants: tuple[Tenant, Tenant]) -> None:
    mine, _ = tenants
    request = items.GetItemsRequest(collection="photos", ids=["acme21"])
    [answer] = mine.caller.answers("ItemService/GetItems", request)
    assert list(answer.missing_ids) == ["acme21"]
    query = search.Query(item_id="acme21")
    params = search.SearchParams(collection="photos", query=query)
    answer = mine.caller.call("SearchService/Search", search.SearchRequest(params=params))
    assert answer == ("NOT_FOUND", "ITEM_NOT_FOUND")


def test_a_uri_of_another_ones_image_is_not_fetched(
    tenants: tuple[Tenant, Tenant], system: Secured
) -> None:
    """But one at a place that the operator names for all."""
    mine, other = tenants
    request = items.GetItemsRequest(collection="photos", ids=["cat"])
    [answer] = other.caller.answers("ItemService/GetItems", request)
    uris = {"stolen": answer.items[0].image_uri, "listed": f"{system.place.as_uri()}/cat.jpg"}
    upsert = items.UpsertItemsRequest(collection="photos")
    for name, uri in uris.items():
        content = content_pb2.Content(image=content_pb2.Image(uri=uri))
        upsert.items.append(items.Item(id=name, content=content))
    [answer] = mine.caller.answers("ItemService/UpsertItems", upsert)
    outcomes = {result.id: result.outcome for result in answer.results}
    assert outcomes["stolen"] == items.ItemResult.OUTCOME_FAILED
    assert outcomes["listed"] == items.ItemResult.OUTCOME_STORED
    embed = embedding.EmbedRequest(
        contents=[content_pb2.Content(image=content_pb2.Image(uri=uri)) for uri in uris.values()]
    )
    [answer] = mine.caller.answers("EmbeddingService/Embed", embed)
    assert [one.WhichOneof("outcome") for one in answer.results] == ["error", "vector"]


def test_a_cached_query_of_another_one_is_not_cached_for_me(
    tenants: tuple[Tenant, Tenant],
) -> None:
    """Or the time would tell what others search for."""

    def cached(tenant: Tenant) -> bool:
        params = search.SearchParams(collection="photos", query=text("a secret of acme2"))
        events = tenant.caller.answers("SearchService/Search", search.SearchRequest(params=params))
        return bool(events[-1].summary.embed_cached)

    mine, other = tenants
    assert [cached(other), cached(other), cached(mine), cached(mine)] == [False, True, False, True]


def test_nobody_creates_a_name_of_a_tenant(system: Secured, owner: str) -> None:
    name = "tenant_zzz__photos"
    request = collections.CreateCollectionRequest(collection=collections.Collection(name=name))
    answer = system.caller(owner).call("CollectionService/CreateCollection", request)
    assert answer == ("INVALID_ARGUMENT", "NAME_INVALID")


def test_a_tenant_reindexes_by_its_own_names(tenants: tuple[Tenant, Tenant]) -> None:
    """No worker here serves a second model. The gateway says so once it has found the source."""
    request = collections.ReindexCollectionRequest(source="photos", target="photos_new")
    answer = tenants[0].caller.call("CollectionService/ReindexCollection", request)
    assert answer == ("FAILED_PRECONDITION", "MODEL_MISMATCH")


def test_a_token_can_name_the_tenant(tenants: tuple[Tenant, Tenant], system: Secured) -> None:
    token = system.issuer.token(scope="owner", tenant="acme")
    assert Tenant(system.caller(token), "acme").ids() == tenants[0].ids()


def test_the_audit_log_tells_who_did_what_and_no_contents(
    tenants: tuple[Tenant, Tenant], system: Secured
) -> None:
    upserts = [line for line in system.audited() if line["method"].endswith("/UpsertItems")]
    mine = next(line for line in upserts if line["tenant"] == "acme")
    assert mine["collections"] == ["photos"]
    assert (mine["items"], mine["code"], mine["scope"]) == (6, "OK", "write")
    key = tenants[0].caller.credential or ""
    assert mine["who"] == key.split("_")[1]
    assert mine["request_id"] and mine["peer"].startswith("ipv4:127.0.0.1")

    def stranger_is_noted() -> bool:  # after the answer, and not each one
        assert system.caller(None).call("ItemService/GetItems")[0] == "UNAUTHENTICATED"
        return bool(system.audited()[-1]["code"] == "UNAUTHENTICATED")

    until(stranger_is_noted)
    assert system.audited()[-1]["who"] == ""
    reads = [line for line in system.audited() if line["method"].endswith("/GetItems")]
    assert {line["code"] for line in reads} <= {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    everything = system.audit.read_text() + system.gateway.log.read_text()
    for secret in (key, key.split("_", 2)[2], "acme 3", "a secret of acme2"):
        assert secret not in everything
