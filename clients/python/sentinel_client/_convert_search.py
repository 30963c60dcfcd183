"""Between searches as we write them and the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _convert
from sentinel_client._filters import Filter
from sentinel_client._query import Term
from sentinel_client._search_types import (
    Diversity,
    GroupBy,
    Hit,
    Hybrid,
    SearchPage,
    SearchTimings,
)
from sentinel_client._types import Consistency


def query_to_proto(terms: Sequence[tuple[Term, _convert.LoadedImage | None]]) -> search_pb.Query:
    """Return the query; each term comes with the picture that its image source holds."""
    if len(terms) == 1 and terms[0][0].weight == 1:
        return search_pb.Query(**_kind(*terms[0]))
    return search_pb.Query(
        composite=search_pb.CompositeQuery(
            terms=[
                search_pb.WeightedTerm(weight=term.weight, **_kind(term, image))
                for term, image in terms
            ]
        )
    )


def _kind(term: Term, image: _convert.LoadedImage | None) -> dict[str, Any]:
    if term.vector is not None:
        return {"vector": _convert.vector_to_proto(term.vector)}
    if term.item_id is not None:
        return {"item_id": term.item_id}
    return {"content": _convert.content_to_proto(term.text, image, term.crop)}


def search_params(
    collection: str,
    query: search_pb.Query,
    *,
    filter: Filter | None = None,
    output_fields: Sequence[str] = (),
    min_score: float | None = None,
    include_thumbnails: bool = False,
    include_vectors: bool = False,
    consistency: Consistency | None = None,
    hybrid: Hybrid | None = None,
    diversity: Diversity | None = None,
    group_by: GroupBy | None = None,
    index_params: Mapping[str, int] | None = None,
) -> search_pb.SearchParams:
    """Return the part of a search that all its kinds share.

    Raises:
        TypeError: `output_fields` is one string.
    """
    if isinstance(output_fields, str):
        raise TypeError("output_fields is a list of names, not one string")
    return search_pb.SearchParams(
        collection=collection,
        query=query,
        filter=None if filter is None else _convert.filter_to_proto(filter),
        output_fields=output_fields,
        include_vectors=include_vectors,
        include_thumbnails=include_thumbnails,
        min_score=min_score,
        consistency=_convert.consistency_to_proto(consistency),
        hybrid=None if hybrid is None else _hybrid(hybrid),
        diversity=None if diversity is None else _diversity(diversity),
        group=None if group_by is None else _group(group_by),
        index_params=index_params,
    )


def _hybrid(hybrid: Hybrid) -> search_pb.HybridParams:
    return search_pb.HybridParams(
        text=hybrid.text,
        rrf_k=hybrid.rrf_k,
        vector_weight=hybrid.vector_weight,
        text_weight=hybrid.text_weight,
    )


def _diversity(diversity: Diversity) -> search_pb.DiversityParams:
    return search_pb.DiversityParams(
        duplicate_threshold=diversity.duplicate_threshold, mmr_lambda=diversity.mmr_lambda
    )


def _group(group: GroupBy) -> search_pb.GroupParams:
    return search_pb.GroupParams(field=group.field, size=group.size)


def hit_from_proto(message: search_pb.Hit) -> Hit:
    """Return one hit."""
    vector = message.vector if message.HasField("vector") else None
    return Hit(
        id=message.id,
        rank=message.rank,
        score=message.score,
        fields=_convert.fields_from_proto(message.fields),
        image_uri=message.image_uri,
        text=message.text,
        thumbnail=message.thumbnail,
        vector=None if vector is None else _convert.vector_from_proto(vector),
    )


def page_from_proto(message: search_pb.SearchPageResponse) -> SearchPage:
    """Return one page of hits."""
    return SearchPage(
        hits=tuple(map(hit_from_proto, message.hits)),
        next_page_token=message.next_page_token,
        timings=timings_from_proto(message.summary),
    )


def timings_from_proto(message: search_pb.SearchSummary) -> SearchTimings:
    """Return the summary's durations in seconds."""

    def seconds(name: str) -> float | None:
        if not message.HasField(name):
            return None
        duration: Any = getattr(message, name)
        return float(duration.ToNanoseconds()) / 1e9

    return SearchTimings(
        total=seconds("total") or 0.0,
        embed=seconds("embed"),
        embed_queue=seconds("embed_queue"),
        embed_inference=seconds("embed_inference"),
        vector_search=seconds("vector_search"),
        embed_cached=message.embed_cached,
    )
