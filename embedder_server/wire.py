"""Protobuf to plain values and back, and the checks that concern a whole request."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from embedder_server.requests import (
    Content,
    EmbedOptions,
    EmbedOutcome,
    ImageFacts,
    ItemResult,
    StageTimings,
)
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Modality, ModelInfo, Priority
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError
from sentinel_core.status import to_status

_MIN_THUMBNAIL_SIDE = 16
_MAX_THUMBNAIL_SIDE = 1024

_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BULK: Priority.BULK,
}
_MODALITIES = {Modality.TEXT: pb.MODALITY_TEXT, Modality.IMAGE: pb.MODALITY_IMAGE}


def check_model(name: str, info: ModelInfo) -> None:
    """Accept the served model's name or an empty one.

    Raises:
        NotFound: MODEL_NOT_FOUND.
    """
    if name not in ("", info.name):
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"this worker serves {info.name!r}; ask for that, or leave the name empty",
            model=name,
        )


def check_batch(request: pb.EmbedRequest, max_contents: int) -> None:
    """Accept 1 to `max_contents` contents.

    Raises:
        InvalidArgument: BATCH_EMPTY or BATCH_TOO_LARGE.
    """
    count = len(request.contents)
    if count == 0:
        raise InvalidArgument(
            "BATCH_EMPTY", "the request has no contents; send at least one", field="contents"
        )
    if count > max_contents:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"the request has {count} contents, the limit is {max_contents}; split it",
            field="contents",
            limit=max_contents,
        )


def options_from(options: pb.EmbedOptions) -> EmbedOptions:
    """Return the options of a request.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE.
    """
    priority = _PRIORITIES.get(options.priority)
    if priority is None:
        raise _out_of_range("options.priority", f"{options.priority} is not a Priority")
    side = options.thumbnail_side
    if side != 0 and not _MIN_THUMBNAIL_SIDE <= side <= _MAX_THUMBNAIL_SIDE:
        raise _out_of_range(
            "options.thumbnail_side",
            f"{side} is not 0 or {_MIN_THUMBNAIL_SIDE} to {_MAX_THUMBNAIL_SIDE} pixels",
        )
    truncate = options.truncate if options.HasField("truncate") else True
    return EmbedOptions(truncate=truncate, priority=priority, thumbnail_side=side)


def _out_of_range(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", f"{field}: {message}", field=field)


def contents_from(request: pb.EmbedRequest) -> list[Content]:
    """Return the contents, those without a kind as their error."""
    return [_content_from(content) for content in request.contents]


def _content_from(content: content_pb2.Content) -> Content:
    kind = content.WhichOneof("kind")
    if kind == "text":
        return content.text
    if kind == "image":
        return content.image.data
    return InvalidArgument("CONTENT_MISSING", "neither text nor image is set; set one")


def embed_response(outcome: EmbedOutcome, info: ModelInfo) -> pb.EmbedResponse:
    """Return the answer to an Embed call."""
    return pb.EmbedResponse(
        results=[_result(index, result) for index, result in enumerate(outcome.results)],
        model_version=_model_version(info),
        timings=_timings(outcome.timings),
    )


def _result(index: int, result: ItemResult) -> pb.EmbedResult:
    message = pb.EmbedResult(token_count=result.token_count, truncated=result.truncated)
    outcome = result.outcome
    if isinstance(outcome, SentinelError):
        if isinstance(outcome, InvalidArgument) and outcome.field is None:
            outcome.field = f"contents[{index}]"
        message.error.CopyFrom(to_status(outcome))
    else:
        message.vector.data = outcome.astype("<f4", copy=False).tobytes()
        message.vector.element_type = content_pb2.ELEMENT_TYPE_FLOAT32
        message.vector.dimensions = len(outcome)
    if result.image is not None:
        message.image.CopyFrom(_image_info(result.image))
    return message


def _image_info(facts: ImageFacts) -> pb.ImageInfo:
    return pb.ImageInfo(
        width=facts.width,
        height=facts.height,
        media_type=facts.media_type,
        thumbnail=facts.thumbnail,
    )


def _model_version(info: ModelInfo) -> content_pb2.ModelVersion:
    return content_pb2.ModelVersion(
        model=info.name, revision=info.revision, fingerprint=info.fingerprint
    )


def _timings(timings: StageTimings) -> pb.StageTimings:
    return pb.StageTimings(
        total=_duration(timings.total),
        decode=_duration(timings.decode),
        preprocess=_duration(timings.preprocess),
        queue=_duration(timings.queue),
        inference=_duration(timings.inference),
        batch_size=timings.batch_size,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(max(0, int(seconds * 1e9)))
    return duration


def model_response(info: ModelInfo, settings: EmbedderSettings) -> pb.GetModelResponse:
    """Return the answer to a GetModel call."""
    limits = pb.Limits(
        max_contents_per_request=settings.max_contents_per_request,
        max_text_chars=settings.max_text_chars,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_queue_items=settings.max_queue_items,
    )
    model = pb.Model(
        version=_model_version(info),
        modalities=[_MODALITIES[modality] for modality in info.modalities],
        dimensions=info.dimensions,
        max_text_tokens=info.max_text_tokens,
        image_size=info.image_size,
        logit_scale=info.logit_scale,
        runtime=info.runtime,
        device=info.device,
        dtype=info.dtype,
        limits=limits,
    )
    return pb.GetModelResponse(model=model)
