"""Between the contract's messages and the gateway's plain types. No logic beyond the mapping."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from search_server.types.items import (
    Hit,
    Item,
    ItemOutcome,
    Outcome,
    SearchTimings,
    StoredItem,
    UnreadableItem,
)
from search_server.types.queries import SearchSpec
from search_server.types.values import FloatArray, ModelRef
from search_server.wire_fields import consistency_from, fields_from, fields_to, filter_from
from search_server.wire_queries import query_from, vector_from, whole_content_from
from search_server.wire_ranking import diversity_from, grouping_from, hybrid_from
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    item_service_pb2,
    search_service_pb2,
)
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.status import to_status

_OUTCOMES = {
    Outcome.STORED: item_service_pb2.ItemResult.OUTCOME_STORED,
    Outcome.UNCHANGED: item_service_pb2.ItemResult.OUTCOME_UNCHANGED,
    Outcome.FAILED: item_service_pb2.ItemResult.OUTCOME_FAILED,
}


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


def vector_to(vector: FloatArray) -> content_pb2.Vector:
    return content_pb2.Vector(
        data=vector.astype("<f4", copy=False).tobytes(),
        element_type=content_pb2.ELEMENT_TYPE_FLOAT32,
        dimensions=len(vector),
    )


def item_from(item: item_service_pb2.Item, place: int) -> Item | UnreadableItem:
    """Read one item; what is wrong with it is its own result and nobody else's."""
    where = f"items[{place}]"
    try:
        return Item(
            id=item.id,
            content=whole_content_from(item.content, f"{where}.content")
            if item.HasField("content")
            else None,
            vector=vector_from(item.vector, f"{where}.vector") if item.HasField("vector") else None,
            fields=fields_from(item.fields),
        )
    except SentinelError as error:
        return UnreadableItem(item.id, error)


def item_result_to(outcome: ItemOutcome) -> item_service_pb2.ItemResult:
    result = item_service_pb2.ItemResult(id=outcome.id, outcome=_OUTCOMES[outcome.outcome])
    if isinstance(outcome.error, SentinelError):
        result.error.CopyFrom(to_status(outcome.error))
    return result


def item_to(item: StoredItem) -> item_service_pb2.Item:
    message = item_service_pb2.Item(
        id=item.row.id,
        fields=fields_to(item.row.fields),
        image_uri=item.image_uri,
        thumbnail=item.thumbnail,
    )
    if item.row.text:
        message.content.text = item.row.text
    if item.row.vector is not None:
        message.vector.CopyFrom(vector_to(item.row.vector))
    return message


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


def model_from(version: content_pb2.ModelVersion) -> ModelRef | None:
    if not version.model and not version.fingerprint:
        return None
    return ModelRef(version.model, version.revision, version.fingerprint)


def model_to(model: ModelRef) -> content_pb2.ModelVersion:
    return content_pb2.ModelVersion(
        model=model.model, revision=model.revision, fingerprint=model.fingerprint
    )
