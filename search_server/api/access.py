"""What each method of the gateway needs of its callers: a scope, and for which collections.

And what it costs them, for their quotas: the unit is a search by a text with 20 hits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from search_server.types.queries import MAX_HITS
from sentinel_core.access.guard import Rule
from sentinel_core.access.quotas import Cost
from sentinel_core.access.scopes import Scope

# A worker embeds 876 texts or 108 images in a second (docs/benchmarks-method.md).
_PER_IMAGE = 8.0
_HITS_PER_CALL = 200
_DEFAULT_HITS = 20
# No request costs more than the largest one that is answered, whatever it asks for.
_MAX_PAGE, _MAX_TERMS, _MAX_SEARCHES, _MAX_CONTENTS = 1_000, 16, 64, 1_024
# Searches with another order than Milvus's rank this many candidates.
_CANDIDATES = 1_000


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


def _search_cost(request: Any) -> Cost:
    hits = request.limit if request.HasField("limit") else _DEFAULT_HITS
    return Cost(_calls(request.params, min(hits, MAX_HITS)))


def _page_cost(request: Any) -> Cost:
    return Cost(_calls(request.params, min(request.page_size or _DEFAULT_HITS, _MAX_PAGE)))


def _batch_cost(request: Any) -> Cost:
    return Cost(max(1.0, sum(_page_cost(one).calls for one in request.searches[:_MAX_SEARCHES])))


def _calls(params: Any, hits: int) -> float:
    """Return what a search costs: its contents, or 1 if it has none, and many hits."""
    is_reranked = any(params.HasField(name) for name in ("hybrid", "diversity", "group"))
    ranked = _CANDIDATES if is_reranked else max(0, hits)
    return max(1.0, sum(map(_content_calls, _terms(params.query)))) + ranked // _HITS_PER_CALL


def _terms(query: Any) -> Iterable[Any]:
    return query.composite.terms[:_MAX_TERMS] if query.HasField("composite") else (query,)


def _content_calls(term: Any) -> float:
    if not term.HasField("content"):
        return 0.0
    return _each(term.content)


def _items_cost(request: Any) -> Cost:
    return Cost(items=min(len(request.items), _MAX_CONTENTS))


def _batch_of_stream_cost(request: Any) -> Cost:
    return _items_cost(request.batch) if request.HasField("batch") else Cost()


def _embed_cost(request: Any) -> Cost:
    return Cost(max(1.0, sum(map(_each, request.contents[:_MAX_CONTENTS]))))


def _rank_cost(request: Any) -> Cost:
    return Cost(_each(request.query) + sum(map(_each, request.candidates[:_MAX_CONTENTS])))


def _each(content: Any) -> float:
    return _PER_IMAGE if content.HasField("image") else 1.0


SEARCH_RULES = {
    "Search": Rule(Scope.SEARCH, _in_params, _search_cost),
    "SearchPage": Rule(Scope.SEARCH, _in_params, _page_cost),
    # Each of its searches is checked alone.
    "BatchSearch": Rule(Scope.SEARCH, cost=_batch_cost),
}
ITEM_RULES = {
    "UpsertItems": Rule(Scope.WRITE, _in_collection, _items_cost),
    "IngestItems": Rule(Scope.WRITE, _in_start, _batch_of_stream_cost),
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
    "PreviewDeletion": Rule(Scope.ADMIN, _in_name),
    "SetAlias": Rule(Scope.ADMIN, lambda request: (request.alias, request.collection)),
    "DeleteAlias": Rule(Scope.ADMIN, lambda request: (request.alias,)),
    "ReindexCollection": Rule(Scope.ADMIN, _in_reindex),
}
# Without a collection: what a caller learns is only about its own contents, and those that the
# operator lets everybody fetch.
EMBEDDING_RULES = {
    "Embed": Rule(Scope.EMBED, cost=_embed_cost),
    "EmbedStream": Rule(Scope.EMBED),
    "Rank": Rule(Scope.EMBED, cost=_rank_cost),
    "GetModel": Rule(Scope.READ),
}
