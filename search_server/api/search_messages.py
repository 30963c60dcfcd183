"""Convert searches, hits and summaries between messages and our types."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from search_server.api.common_messages import (
    check_range,
    consistency_from,
    content_from,
    filter_from,
    index_params_from,
    optional,
    out_of_range,
    output_fields_from,
    set_fields,
    stored_name,
    vector_from,
    vector_to,
)
from search_server.types.queries import Diversity, Grouping, Hybrid, Query, SearchSpec, Term
from search_server.types.searches import Hit, Match, Notice, NoticeKind, SearchTimings
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_core.errors import InvalidArgument
from sentinel_store.prepared_item import check_id_length

_MAX_TERMS = 16
_MAX_TERM_WEIGHT = 100.0
_DEFAULT_RRF_K = 60
_MAX_RRF_K = 16_384
_MAX_RANKING_WEIGHT = 1_000
_MAX_GROUP_SIZE = 100
_MATCHES = {
    Match.WEAK: pb.MATCH_LEVEL_WEAK,
    Match.FAIR: pb.MATCH_LEVEL_FAIR,
    Match.STRONG: pb.MATCH_LEVEL_STRONG,
}
_NOTICES = {
    NoticeKind.TEXT_TRUNCATED: pb.Notice.KIND_TEXT_TRUNCATED,
    NoticeKind.LANGUAGE_UNKNOWN: pb.Notice.KIND_LANGUAGE_UNKNOWN,
}


def spec_from(params: pb.SearchParams) -> SearchSpec:
    """Read everything about a search except its delivery."""
    min_score = optional(params, "min_score", -1.0, (-1, 1), "params.")  # no cosine is less
    return SearchSpec(
        collection=stored_name(params.collection, "params.collection"),
        query=_query_from(params.query, "params.query"),
        filter=filter_from(params.filter, "params.filter") if params.HasField("filter") else None,
        output_fields=output_fields_from(params.output_fields, "params.output_fields"),
        include_vectors=params.include_vectors,
        include_thumbnails=params.include_thumbnails,
        min_score=min_score,
        consistency=consistency_from(params.consistency, "params.consistency"),
        index_params=index_params_from(params.index_params, "params.index_params"),
        hybrid=_hybrid_from(params),
        diversity=_diversity_from(params),
        grouping=_grouping_from(params),
    )


def add_hits(message: pb.HitChunk | pb.SearchPageResponse, hits: Iterable[Hit]) -> None:
    """Append hits to `message`.

    They are made in place, and of what is set only: arguments of `add` take twice the time.
    """
    add = message.hits.add
    for hit in hits:
        row = hit.row
        added = add()
        added.id = row.id
        added.rank = hit.rank
        added.score = hit.score
        if row.text:
            added.text = row.text
        if hit.image_uri:
            added.image_uri = hit.image_uri
        if hit.thumbnail:
            added.thumbnail = hit.thumbnail
        if hit.match is not None:
            added.match_level = _MATCHES[hit.match]
        if row.fields:
            set_fields(added.fields, row.fields)
        if row.vector is not None:
            added.vector.CopyFrom(vector_to(row.vector))


def set_summary(
    summary: pb.SearchSummary, hit_count: int, timings: SearchTimings, notices: Iterable[Notice]
) -> None:
    """Fill the summary that ends the hits of a search."""
    summary.hit_count = hit_count
    _set_duration(summary.total, timings.total)
    if timings.embed is not None:
        _set_duration(summary.embed, timings.embed)
    if timings.embed_queue is not None:
        _set_duration(summary.embed_queue, timings.embed_queue)
    if timings.embed_inference is not None:
        _set_duration(summary.embed_inference, timings.embed_inference)
    if timings.vector_search is not None:
        _set_duration(summary.vector_search, timings.vector_search)
    summary.embed_cached = timings.embed_cached
    for one in notices:
        summary.notices.add(kind=_NOTICES[one.kind], message=one.message)


def _set_duration(duration: Duration, seconds: float) -> None:
    duration.seconds = whole = int(seconds)
    duration.nanos = int((seconds - whole) * 1e9)


def _query_from(query: pb.Query, where: str) -> Query:
    if query.WhichOneof("kind") == "composite":
        return Query(_terms_from(query.composite, f"{where}.composite.terms"), is_composite=True)
    return Query((_term_from(query, 1.0, where, "content, vector, item_id or composite"),))


def _terms_from(composite: pb.CompositeQuery, where: str) -> tuple[Term, ...]:
    if not composite.terms:
        raise InvalidArgument(
            "QUERY_MISSING", "a composite query needs at least one term", field=where
        )
    if len(composite.terms) > _MAX_TERMS:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"a composite query has at most {_MAX_TERMS} terms, not {len(composite.terms)}",
            field=where,
            limit=_MAX_TERMS,
        )
    terms = []
    for index, term in enumerate(composite.terms):
        path = f"{where}[{index}]"
        weight = optional(term, "weight", 1.0, (-_MAX_TERM_WEIGHT, _MAX_TERM_WEIGHT), f"{path}.")
        if weight == 0:
            raise out_of_range("it must not be 0", f"{path}.weight")
        terms.append(_term_from(term, weight, path, "content, vector or item_id"))
    return tuple(terms)


def _term_from(message: pb.Query | pb.WeightedTerm, weight: float, where: str, kinds: str) -> Term:
    match message.WhichOneof("kind"):
        case "content":
            return Term(content=content_from(message.content, f"{where}.content"), weight=weight)
        case "vector":
            return Term(vector=vector_from(message.vector, f"{where}.vector"), weight=weight)
        case "item_id":
            check_id_length(message.item_id, f"{where}.item_id")
            return Term(item_id=message.item_id, weight=weight)
        case _:
            raise InvalidArgument("QUERY_MISSING", f"set one of {kinds}", field=where)


def _hybrid_from(params: pb.SearchParams) -> Hybrid | None:
    if not params.HasField("hybrid"):
        return None
    for other in ("diversity", "group"):
        if params.HasField(other):
            raise out_of_range(
                f"hybrid and {other} cannot be combined; leave one of them out", "params.hybrid"
            )
    message, parent = params.hybrid, "params.hybrid."
    rrf_k = message.rrf_k or _DEFAULT_RRF_K
    check_range(rrf_k, 1, _MAX_RRF_K, "params.hybrid.rrf_k")
    vector_weight = optional(message, "vector_weight", 1.0, (0, _MAX_RANKING_WEIGHT), parent)
    text_weight = optional(message, "text_weight", 1.0, (0, _MAX_RANKING_WEIGHT), parent)
    if vector_weight == text_weight == 0:
        raise out_of_range("both weights are 0; give one ranking some weight", "params.hybrid")
    return Hybrid(message.text, rrf_k, vector_weight, text_weight)


def _diversity_from(params: pb.SearchParams) -> Diversity | None:
    if not params.HasField("diversity"):
        return None
    message, parent = params.diversity, "params.diversity."
    threshold: float | None = optional(message, "duplicate_threshold", None, (0, 1), parent)
    if threshold == 0:
        raise out_of_range("it must be above 0", "params.diversity.duplicate_threshold")
    mmr_lambda: float | None = optional(message, "mmr_lambda", None, (0, 1), parent)
    if threshold is None and mmr_lambda is None:
        return None
    return Diversity(threshold, mmr_lambda)


def _grouping_from(params: pb.SearchParams) -> Grouping | None:
    if not params.HasField("group"):
        return None
    size = params.group.size or 1
    check_range(size, 1, _MAX_GROUP_SIZE, "params.group.size")
    return Grouping(params.group.field, size)
