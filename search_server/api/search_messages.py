"""Convert searches, their hits and their summaries between messages and our types."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from search_server.api.common_messages import (
    consistency_from,
    content_from,
    fields_to,
    filter_from,
    vector_from,
    vector_to,
)
from search_server.types.items import (
    Hit,
    SearchTimings,
)
from search_server.types.queries import Diversity, Grouping, Hybrid, Query, SearchSpec, Term
from sentinel.search.v1 import (
    search_service_pb2,
)
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_core.errors import InvalidArgument


def spec_from(params: search_service_pb2.SearchParams) -> SearchSpec:
    """Read everything about a search but its delivery."""
    min_score = params.min_score if params.HasField("min_score") else None
    if min_score is not None and not -1.0 <= min_score <= 1.0:  # NaN fails it too
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"min_score is {min_score}; it is a cosine, -1 to 1",
            field="params.min_score",
        )
    return SearchSpec(
        collection=params.collection,
        query=query_from(params.query, "params.query"),
        filter=filter_from(params.filter) if params.HasField("filter") else None,
        output_fields=tuple(params.output_fields),
        include_vectors=params.include_vectors,
        include_thumbnails=params.include_thumbnails,
        min_score=min_score,
        consistency=consistency_from(params.consistency, "params.consistency"),
        index_params=dict(params.index_params),
        hybrid=hybrid_from(params),
        diversity=diversity_from(params),
        grouping=grouping_from(params),
    )


def add_hits(
    message: search_service_pb2.HitChunk | search_service_pb2.SearchPageResponse,
    hits: Iterable[Hit],
) -> None:
    """Append hits to those of `message`; made in place, they are not copied."""
    for hit in hits:
        row = hit.row
        added = message.hits.add(
            id=row.id,
            rank=hit.rank,
            score=hit.score,
            fields=fields_to(row.fields) if row.fields else None,
            image_uri=hit.image_uri,
            thumbnail=hit.thumbnail,
            text=row.text,
        )
        if row.vector is not None:
            added.vector.CopyFrom(vector_to(row.vector))


def summary_to(hit_count: int, timings: SearchTimings) -> search_service_pb2.SearchSummary:
    return search_service_pb2.SearchSummary(
        hit_count=hit_count,
        total=_duration(timings.total),
        embed=_duration(timings.embed),
        embed_queue=_duration(timings.embed_queue),
        embed_inference=_duration(timings.embed_inference),
        vector_search=_duration(timings.vector_search),
        embed_cached=timings.embed_cached,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


_MAX_TERMS = 16
_MAX_WEIGHT = 100.0


def query_from(query: search_service_pb2.Query, where: str) -> Query:
    """Read what to look for."""
    match query.WhichOneof("kind"):
        case "content":
            return Query(content=content_from(query.content, f"{where}.content"))
        case "vector":
            return Query(vector=vector_from(query.vector, f"{where}.vector"))
        case "item_id":
            return Query(item_id=query.item_id)
        case "composite":
            return Query(terms=_terms_from(query.composite, f"{where}.composite.terms"))
        case _:
            raise InvalidArgument(
                "QUERY_MISSING", "set one of content, vector, item_id or composite", field=where
            )


def _terms_from(composite: search_service_pb2.CompositeQuery, where: str) -> tuple[Term, ...]:
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
    return tuple(
        _term_from(term, f"{where}[{index}]") for index, term in enumerate(composite.terms)
    )


def _term_from(term: search_service_pb2.WeightedTerm, where: str) -> Term:
    weight = term.weight if term.HasField("weight") else 1.0
    if not 0.0 < abs(weight) <= _MAX_WEIGHT:  # NaN fails it too
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"weight is {weight}; it must not be 0, nor beyond {_MAX_WEIGHT:g} either way",
            field=f"{where}.weight",
        )
    match term.WhichOneof("kind"):
        case "content":
            return Term(content=content_from(term.content, f"{where}.content"), weight=weight)
        case "vector":
            return Term(vector=vector_from(term.vector, f"{where}.vector"), weight=weight)
        case "item_id":
            return Term(item_id=term.item_id, weight=weight)
        case _:
            raise InvalidArgument(
                "QUERY_MISSING", "set one of content, vector or item_id", field=where
            )


_DEFAULT_RRF_K = 60
_MAX_RRF_K = 16_384
_MAX_WEIGHT = 1_000
_MAX_GROUP_SIZE = 100


def hybrid_from(params: pb.SearchParams) -> Hybrid | None:
    """Read how text is blended in; None where it is not.

    Raises:
        InvalidArgument: A parameter is out of range, or `diversity` or `group` are set too.
    """
    if not params.HasField("hybrid"):
        return None
    for other in ("diversity", "group"):
        if params.HasField(other):
            raise _out_of_range(
                "hybrid", f"hybrid and {other} do not go together; leave one of them out"
            )
    message = params.hybrid
    hybrid = Hybrid(
        text=message.text,
        rrf_k=message.rrf_k or _DEFAULT_RRF_K,
        vector_weight=message.vector_weight if message.HasField("vector_weight") else 1.0,
        text_weight=message.text_weight if message.HasField("text_weight") else 1.0,
    )
    _check_range("hybrid.rrf_k", hybrid.rrf_k, 1, _MAX_RRF_K)
    _check_range("hybrid.vector_weight", hybrid.vector_weight, 0, _MAX_WEIGHT)
    _check_range("hybrid.text_weight", hybrid.text_weight, 0, _MAX_WEIGHT)
    if hybrid.vector_weight == hybrid.text_weight == 0:
        raise _out_of_range("hybrid", "both weights are 0; give one of the rankings some weight")
    return hybrid


def diversity_from(params: pb.SearchParams) -> Diversity | None:
    """Read what is done about near-duplicates; None for nothing.

    Raises:
        InvalidArgument: A parameter is out of range.
    """
    if not params.HasField("diversity"):
        return None
    message = params.diversity
    threshold = message.duplicate_threshold if message.HasField("duplicate_threshold") else None
    share = message.mmr_lambda if message.HasField("mmr_lambda") else None
    if threshold is not None and not 0.0 < threshold <= 1.0:  # NaN fails it too
        raise _out_of_range(
            "diversity.duplicate_threshold", f"{threshold} is no cosine above 0, up to 1"
        )
    if share is not None:
        _check_range("diversity.mmr_lambda", share, 0, 1)
    return None if threshold is share is None else Diversity(threshold, share)


def grouping_from(params: pb.SearchParams) -> Grouping | None:
    """Read what hits are grouped by; None where they are not.

    Raises:
        InvalidArgument: A parameter is out of range.
    """
    if not params.HasField("group"):
        return None
    size = params.group.size or 1
    _check_range("group.size", size, 1, _MAX_GROUP_SIZE)
    return Grouping(params.group.field, size)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN fails it too
        raise _out_of_range(name, f"{value} is not in {least} to {most}")


def _out_of_range(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        "PARAMETER_OUT_OF_RANGE", f"params.{name}: {message}", field=f"params.{name}"
    )
