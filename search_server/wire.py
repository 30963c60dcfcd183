"""Between the contract's messages and the gateway's plain types. No logic beyond the mapping."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from google.protobuf.duration_pb2 import Duration

from search_server.types import (
    CollectionInfo,
    Content,
    FloatArray,
    Hit,
    Item,
    ItemOutcome,
    Kind,
    ModelRef,
    Outcome,
    Query,
    SearchSpec,
    SearchTimings,
    StoredItem,
)
from search_server.wire_fields import fields_from, fields_to, filter_from, schema_to
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
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
        query=_query_from(params.query),
        filter=filter_from(params.filter) if params.HasField("filter") else None,
        output_fields=tuple(params.output_fields),
        include_vectors=params.include_vectors,
        include_thumbnails=params.include_thumbnails,
        min_score=min_score,
    )


def _query_from(query: search_service_pb2.Query) -> Query:
    match query.WhichOneof("kind"):
        case "content":
            return Query(content=content_from(query.content, "params.query.content"))
        case "vector":
            return Query(vector=vector_from(query.vector, "params.query.vector"))
        case "item_id":
            return Query(item_id=query.item_id)
        case _:
            return Query()


def content_from(content: content_pb2.Content, where: str) -> Content:
    """Read a text or an image."""
    match content.WhichOneof("kind"):
        case "text":
            if not content.text.strip():
                raise InvalidArgument(
                    "TEXT_EMPTY", "the text is empty or blank", field=f"{where}.text"
                )
            return Content(Kind.TEXT, content.text.encode())
        case "image":
            if not content.image.data:
                raise InvalidArgument(
                    "IMAGE_EMPTY", "the image has no bytes", field=f"{where}.image.data"
                )
            if content.image.HasField("crop"):
                raise InvalidArgument(
                    "CROP_INVALID",
                    "pictures are searched and stored as a whole; send the part as a picture",
                    field=f"{where}.image.crop",
                )
            return Content(Kind.IMAGE, content.image.data)
        case _:
            raise InvalidArgument("CONTENT_MISSING", "set a text or an image", field=where)


def vector_from(vector: content_pb2.Vector, where: str) -> FloatArray:
    """Read a vector's elements; what they must be is for the use case to check."""
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if vector.element_type not in known:
        raise InvalidArgument("VECTOR_INVALID", "element_type must be FLOAT32", field=where)
    if len(vector.data) != 4 * vector.dimensions:
        raise InvalidArgument(
            "VECTOR_INVALID",
            f"{len(vector.data)} bytes are not {vector.dimensions} dimensions of 4 bytes each",
            field=where,
        )
    return np.frombuffer(vector.data, dtype="<f4").astype(np.float32, copy=False)


def vector_to(vector: FloatArray) -> content_pb2.Vector:
    return content_pb2.Vector(
        data=vector.astype("<f4", copy=False).tobytes(),
        element_type=content_pb2.ELEMENT_TYPE_FLOAT32,
        dimensions=len(vector),
    )


def item_from(item: item_service_pb2.Item, place: int) -> Item | SentinelError:
    """Read one item; what is wrong with it is its own result and nobody else's."""
    where = f"items[{place}]"
    try:
        return Item(
            id=item.id,
            content=content_from(item.content, f"{where}.content")
            if item.HasField("content")
            else None,
            vector=vector_from(item.vector, f"{where}.vector") if item.HasField("vector") else None,
            fields=fields_from(item.fields),
        )
    except SentinelError as error:
        return error


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


def hit_to(hit: Hit) -> search_service_pb2.Hit:
    message = search_service_pb2.Hit(
        id=hit.row.id,
        rank=hit.rank,
        score=hit.score,
        fields=fields_to(hit.row.fields),
        image_uri=hit.image_uri,
        thumbnail=hit.thumbnail,
        text=hit.row.text,
    )
    if hit.row.vector is not None:
        message.vector.CopyFrom(vector_to(hit.row.vector))
    return message


def hits_to(hits: Iterable[Hit]) -> list[search_service_pb2.Hit]:
    return [hit_to(hit) for hit in hits]


def summary_to(hit_count: int, timings: SearchTimings) -> search_service_pb2.SearchSummary:
    return search_service_pb2.SearchSummary(
        hit_count=hit_count,
        total=_duration(timings.total),
        embed=_duration(timings.embed),
        embed_queue=_duration(timings.embed_queue),
        embed_inference=_duration(timings.embed_inference),
        vector_search=_duration(timings.vector_search),
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


def collection_to(info: CollectionInfo, item_count: int) -> collection_service_pb2.Collection:
    return collection_service_pb2.Collection(
        name=info.name,
        model_version=model_to(info.model),
        dimensions=info.dimensions,
        metric=collection_service_pb2.Collection.METRIC_COSINE,
        fields=schema_to(info.fields),
        item_count=item_count,
    )
