"""What each method of the gateway needs of its callers: a scope, and for which collections."""

from __future__ import annotations

from typing import Any

from sentinel_core.access.guard import Rule
from sentinel_core.access.scopes import Scope


def _in_params(request: Any) -> tuple[str, ...]:
    return (request.params.collection,)


def _in_collection(request: Any) -> tuple[str, ...]:
    return (request.collection,)


def _in_name(request: Any) -> tuple[str, ...]:
    return (request.name,)


def _in_start(request: Any) -> tuple[str, ...]:
    return (request.start.collection,) if request.HasField("start") else ()


def _in_reindex(request: Any) -> tuple[str, ...]:
    return (request.source, request.target, *([request.alias] if request.alias else ()))


SEARCH_RULES = {
    "Search": Rule(Scope.SEARCH, _in_params),
    "SearchPage": Rule(Scope.SEARCH, _in_params),
    "BatchSearch": Rule(Scope.SEARCH),  # each of its searches is checked alone
}
ITEM_RULES = {
    "UpsertItems": Rule(Scope.WRITE, _in_collection),
    "IngestItems": Rule(Scope.WRITE, _in_start),
    "GetItems": Rule(Scope.READ, _in_collection),
    "ListItems": Rule(Scope.READ, _in_collection),
    "DownloadImage": Rule(Scope.READ, _in_collection),
    "DeleteItems": Rule(Scope.WRITE, _in_collection),
}
ACCESS_RULES = {"GetCaller": Rule(None)}
COLLECTION_RULES = {
    "CreateCollection": Rule(Scope.ADMIN, lambda request: (request.collection.name,)),
    "GetCollection": Rule(Scope.READ, _in_name),
    "ListCollections": Rule(Scope.READ),  # lists those that the caller may read
    "DeleteCollection": Rule(Scope.ADMIN, _in_name),
    "SetAlias": Rule(Scope.ADMIN, lambda request: (request.alias, request.collection)),
    "DeleteAlias": Rule(Scope.ADMIN, lambda request: (request.alias,)),
    "ReindexCollection": Rule(Scope.ADMIN, _in_reindex),
}
