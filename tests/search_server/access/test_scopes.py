"""Every method needs its scope, for the collections of its request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool

from embedder_server.api.embedding_service import EmbeddingService
from embedder_server.settings import EmbedderSettings
from search_server.api import access
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import search_service_pb2 as search
from tests.search_server.access.secured import OK, SERVICES, Secured
from tests.search_server.conftest import text

GET_CALLER = "AccessService/GetCaller"  # of any scope
DENIED = ("PERMISSION_DENIED", "SCOPE_MISSING")
_PARAMS = search.SearchParams(collection="photos", query=text("red"))
REQUESTS: dict[str, tuple[str, list[Any]]] = {
    "SearchService/Search": ("search", [search.SearchRequest(params=_PARAMS)]),
    "SearchService/SearchPage": ("search", [search.SearchPageRequest(params=_PARAMS)]),
    "SearchService/BatchSearch": (
        "search",
        [search.BatchSearchRequest(searches=[search.SearchPageRequest(params=_PARAMS)])],
    ),
    "ItemService/UpsertItems": (
        "write",
        [
            items.UpsertItemsRequest(
                collection="photos",
                items=[items.Item(id="x", content=content_pb2.Content(text="red"))],
            )
        ],
    ),
    "ItemService/IngestItems": (
        "write",
        [items.IngestItemsRequest(start=items.IngestStart(collection="photos"))],
    ),
    "ItemService/GetItems": ("read", [items.GetItemsRequest(collection="photos", ids=["x"])]),
    "ItemService/ListItems": ("read", [items.ListItemsRequest(collection="photos")]),
    "ItemService/DownloadImage": (
        "read",
        [items.DownloadImageRequest(collection="photos", id="x")],
    ),
    "ItemService/DeleteItems": (
        "write",
        [items.DeleteItemsRequest(collection="photos", ids=items.ItemIds(ids=["nobody"]))],
    ),
    "CollectionService/CreateCollection": (
        "admin",
        [collections.CreateCollectionRequest(collection=collections.Collection(name="photos"))],
    ),
    "CollectionService/GetCollection": ("read", [collections.GetCollectionRequest(name="photos")]),
    "CollectionService/ListCollections": ("read", [collections.ListCollectionsRequest()]),
    "CollectionService/DeleteCollection": (
        "admin",
        [collections.DeleteCollectionRequest(name="photos")],
    ),
    "CollectionService/PreviewDeletion": (
        "admin",
        [collections.PreviewDeletionRequest(name="photos")],
    ),
    "CollectionService/SetAlias": (
        "admin",
        [collections.SetAliasRequest(alias="photos", collection="photos")],
    ),
    "CollectionService/DeleteAlias": ("admin", [collections.DeleteAliasRequest(alias="photos")]),
    "CollectionService/ReindexCollection": (
        "admin",
        [collections.ReindexCollectionRequest(source="photos", target="photos")],
    ),
    "EmbeddingService/Embed": (
        "embed",
        [embedding.EmbedRequest(contents=[content_pb2.Content(text="red")])],
    ),
    "EmbeddingService/EmbedStream": ("embed", [embedding.EmbedStreamRequest()]),
    "EmbeddingService/Rank": (
        "embed",
        [
            embedding.RankRequest(
                query=content_pb2.Content(text="red"), candidates=[content_pb2.Content(text="blue")]
            )
        ],
    ),
    "EmbeddingService/GetModel": ("read", [embedding.GetModelRequest()]),
}
# These name no collection, or each part of the request is checked alone.
WITHOUT_COLLECTION = {
    "SearchService/BatchSearch",
    "CollectionService/ListCollections",
    *(f"EmbeddingService/{name}" for name in access.EMBEDDING_RULES),
}


def methods(*services: str) -> set[str]:
    pool = descriptor_pool.Default()
    return {
        f"{service.rpartition('.')[2]}/{method}"
        for service in services
        for method in pool.FindServiceByName(service).methods_by_name
    }


def test_every_method_has_a_rule_and_a_test() -> None:
    """A new method without a rule is refused to everybody, and fails here."""
    rules = {
        **{f"SearchService/{name}": rule for name, rule in access.SEARCH_RULES.items()},
        **{f"ItemService/{name}": rule for name, rule in access.ITEM_RULES.items()},
        **{f"CollectionService/{name}": rule for name, rule in access.COLLECTION_RULES.items()},
        **{f"AccessService/{name}": rule for name, rule in access.ACCESS_RULES.items()},
        **{f"EmbeddingService/{name}": rule for name, rule in access.EMBEDDING_RULES.items()},
    }
    assert set(rules) == methods(*SERVICES) == set(REQUESTS) | {GET_CALLER}
    assert not any(rule.is_open for rule in rules.values())
    assert {name: str(rule.scope) for name, rule in rules.items() if name != GET_CALLER} == {
        name: scope for name, (scope, _) in REQUESTS.items()
    }


def test_the_documents_have_the_same_table() -> None:
    table = Path("docs/security.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+/\w+)` \| (\w+) \|", table, re.MULTILINE))
    expected = {name: scope for name, (scope, _) in REQUESTS.items()} | {GET_CALLER: "any"}
    assert rows == expected


def test_a_worker_needs_the_same_scopes_as_the_gateway() -> None:
    rules = EmbeddingService(EmbedderSettings()).service().rules
    assert {name: rule.scope for name, rule in rules.items()} == {
        name: rule.scope for name, rule in access.EMBEDDING_RULES.items()
    }


@pytest.mark.parametrize("role", ["reader", "writer", "owner"])
def test_who_may_search_may_embed(system: Secured, role: str) -> None:
    caller = system.caller(system.key(f"{role}:photos"))
    for method in ("Embed", "Rank", "GetModel"):
        name = f"EmbeddingService/{method}"
        assert caller.call(name, *REQUESTS[name][1]) == OK


@pytest.fixture(scope="module")
def keys(system: Secured) -> dict[str, str]:
    every = ("search", "read", "write", "admin", "embed")
    return {
        **{f"no {one}": system.key(*(two for two in every if two != one)) for one in every},
        **{f"other {one}": system.key(f"{one}:photo_album", f"{one}:video*") for one in every},
        **{f"only {one}": system.key(f"{one}:pho*") for one in every},
    }


@pytest.mark.parametrize("method", REQUESTS)
def test_a_call_needs_the_scope_of_its_method(
    system: Secured, keys: dict[str, str], method: str
) -> None:
    scope, requests = REQUESTS[method]
    assert system.caller(keys[f"no {scope}"]).call(method, *requests) == DENIED
    assert system.caller(keys[f"only {scope}"]).call(method, *requests) != DENIED
    assert system.caller(None).call(method, *requests)[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", sorted(set(REQUESTS) - WITHOUT_COLLECTION))
def test_a_scope_is_for_the_collections_that_it_names(
    system: Secured, keys: dict[str, str], method: str
) -> None:
    scope, requests = REQUESTS[method]
    assert system.caller(keys[f"other {scope}"]).call(method, *requests) == DENIED


def test_an_alias_needs_the_scope_as_a_collection_does(system: Secured) -> None:
    caller = system.caller(system.key("admin:mine*"))
    for alias, name in (("mine", "theirs"), ("theirs", "mine")):
        request = collections.SetAliasRequest(alias=alias, collection=name)
        assert caller.call("CollectionService/SetAlias", request) == DENIED
    reindex = collections.ReindexCollectionRequest
    for names in ({"source": "theirs"}, {"target": "theirs"}, {"alias": "theirs"}):
        request = reindex(**{"source": "mine", "target": "mine2", **names})
        assert caller.call("CollectionService/ReindexCollection", request) == DENIED


def test_of_a_batch_only_the_search_without_scope_fails(system: Secured, owner: str) -> None:
    for name in ("batch_mine", "batch_other"):
        request = collections.CreateCollectionRequest(collection=collections.Collection(name=name))
        assert system.caller(owner).call("CollectionService/CreateCollection", request)[0] == "OK"
    searches = [
        search.SearchPageRequest(params=search.SearchParams(collection=name, query=text("red")))
        for name in ("batch_mine", "batch_other")
    ]
    caller = system.caller(system.key("search:batch_mine"))
    [answer] = caller.answers(
        "SearchService/BatchSearch", search.BatchSearchRequest(searches=searches)
    )
    assert [result.WhichOneof("outcome") for result in answer.results] == ["page", "error"]


def test_a_list_has_the_collections_that_may_be_read(system: Secured, owner: str) -> None:
    for name in ("list_a", "list_b"):
        request = collections.CreateCollectionRequest(collection=collections.Collection(name=name))
        assert system.caller(owner).call("CollectionService/CreateCollection", request)[0] == "OK"
    caller = system.caller(system.key("read:list_b"))
    [answer] = caller.answers("CollectionService/ListCollections")
    assert [one.name for one in answer.collections] == ["list_b"]
