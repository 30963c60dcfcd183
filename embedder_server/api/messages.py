"""Check protobuf requests and convert them to values; convert values to protobuf responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedder_server.settings import EmbedderSettings
from embedder_server.types import (
    Content,
    Crop,
    EmbedOptions,
    EmbedResults,
    ImageFile,
    ItemResult,
    Modality,
    ModelInfo,
    Priority,
    StageTimings,
)
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core.errors import InvalidArgument, NotFound, PermissionDenied, SentinelError
from sentinel_core.status import to_status
from sentinel_core.vectors import Element, RankedCandidate, Role, encode

_MIN_THUMBNAIL_SIDE = 16
_MAX_THUMBNAIL_SIDE = 1024
_DEFAULTS = EmbedOptions()

# Enums of the contract and ours have the same names. Unspecified means the default.
_PRIORITIES = {pb.Priority.Value(f"PRIORITY_{own.name}"): own for own in Priority}
_PRIORITIES[pb.PRIORITY_UNSPECIFIED] = _DEFAULTS.priority
_ELEMENT_TYPES: dict[Element, Any] = {
    own: content_pb2.ElementType.Value(f"ELEMENT_TYPE_{own.name}") for own in Element
}
_ELEMENTS = {number: own for own, number in _ELEMENT_TYPES.items()}
_ELEMENTS[content_pb2.ELEMENT_TYPE_UNSPECIFIED] = _DEFAULTS.element
_MODALITIES: dict[Modality, Any] = {
    own: pb.Modality.Value(f"MODALITY_{own.name}") for own in Modality
}
_ROLES = {pb.Role.Value(f"ROLE_{own.name}"): own for own in Role}
# What the text beside an image can have wrong.
_OF_TEXTS = ("TEXT_EMPTY", "TEXT_TOO_LONG", "MODALITY_UNSUPPORTED")
_NANOS = 1_000_000_000


def check_model(name: str, info: ModelInfo) -> None:
    """Accept the served model's name or an empty name.

    Raises:
        NotFound: MODEL_NOT_FOUND.
    """
    if name not in ("", info.name):
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"this worker serves {info.name!r}; use that name, or leave it empty",
            model=name,
        )


def options_from(request: pb.EmbedRequest, info: ModelInfo) -> EmbedOptions:
    """Convert the options of a request.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE or DIMENSIONS_UNSUPPORTED.
        NotFound: MODEL_NOT_FOUND.
    """
    if not request.HasField("options"):
        return _DEFAULTS
    options = request.options
    check_model(options.model, info)
    priority = _PRIORITIES.get(options.priority)
    if priority is None:
        raise _out_of_range("options.priority", f"{options.priority} is not a Priority")
    element = _ELEMENTS.get(options.element_type)
    if element is None:
        raise _out_of_range("options.element_type", f"{options.element_type} is not an ElementType")
    side = options.thumbnail_side
    if side != 0 and not _MIN_THUMBNAIL_SIDE <= side <= _MAX_THUMBNAIL_SIDE:
        raise _out_of_range(
            "options.thumbnail_side",
            f"{side} is not 0 or {_MIN_THUMBNAIL_SIDE} to {_MAX_THUMBNAIL_SIDE} pixels",
        )
    return EmbedOptions(
        truncate=options.truncate if options.HasField("truncate") else True,
        priority=priority,
        thumbnail_side=side,
        normalize=options.normalize if options.HasField("normalize") else True,
        dimensions=_dimensions(options, info),
        element=element,
        role=_role(options.role, _DEFAULTS.role, "options.role"),
    )


def supported_dimensions(info: ModelInfo) -> tuple[int, ...]:
    """Return the lengths a caller may request, ascending; the model's own is the last."""
    return tuple(sorted({*info.supported_dimensions, info.dimensions}))


def _dimensions(options: pb.EmbedOptions, info: ModelInfo) -> int:
    if not options.HasField("dimensions"):
        return 0
    supported = supported_dimensions(info)
    if options.dimensions not in supported:
        offered = ", ".join(map(str, supported))
        raise InvalidArgument(
            "DIMENSIONS_UNSUPPORTED",
            f"{info.name!r} has no vectors of {options.dimensions} dimensions; use {offered}",
            field="options.dimensions",
            supported=",".join(map(str, supported)),
        )
    return options.dimensions


def top_k_from(request: pb.RankRequest) -> int:
    """Return how many candidates to return; 0: all.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE.
    """
    if request.top_k < 0:
        raise _out_of_range("top_k", f"{request.top_k} is negative; 0 returns all")
    return request.top_k


def rank_roles_from(request: pb.RankRequest) -> tuple[Role, Role]:
    """Return the role of the query and that of the candidates.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE.
    """
    return (
        _role(request.query_role, Role.QUERY, "query_role"),
        _role(request.candidates_role, Role.DOCUMENT, "candidates_role"),
    )


def _role(number: int, default: Role, field: str) -> Role:
    role = _ROLES.get(number) if number != pb.ROLE_UNSPECIFIED else default
    if role is None:
        raise _out_of_range(field, f"{number} is not a Role")
    return role


def _out_of_range(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", f"{field}: {message}", field=field)


def contents_from(contents: Sequence[content_pb2.Content], field: str) -> list[Content]:
    """Convert the contents; a bad one becomes its error."""
    return [content_from(content, f"{field}[{index}]") for index, content in enumerate(contents)]


def content_from(content: content_pb2.Content, where: str) -> Content:
    """Convert one content, or return its error; `where` is its path in the request."""
    kind = content.WhichOneof("kind")
    if kind == "text":
        return content.text
    if kind == "image":
        image = content.image
        if image.WhichOneof("source") == "uri":
            return PermissionDenied(
                "URI_FORBIDDEN",
                "a worker fetches nothing; send the image's bytes, or use a gateway",
                field=f"{where}.image.uri",
            )
        if not image.HasField("crop"):
            return ImageFile(image.data, text=image.text)
        box = image.crop
        # Comparisons with NaN are false, so this refuses NaN too.
        if 0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1:
            crop = Crop(box.left, box.top, box.right, box.bottom)
            return ImageFile(image.data, crop, image.text)
        return InvalidArgument(
            "CROP_INVALID",
            "the crop box must have 0 <= left < right <= 1 and 0 <= top < bottom <= 1",
            field=f"{where}.image.crop",
        )
    return InvalidArgument(
        "CONTENT_MISSING", "neither text nor image is set; set one of them", field=where
    )


def model_version(info: ModelInfo) -> content_pb2.ModelVersion:
    return content_pb2.ModelVersion(
        model=info.name, revision=info.revision, fingerprint=info.fingerprint
    )


def embed_response(
    contents: Sequence[Content],
    outcome: EmbedResults,
    element: Element,
    version: content_pb2.ModelVersion,
) -> pb.EmbedResponse:
    """Build the response to an Embed call."""
    response = pb.EmbedResponse(model_version=version)
    for index, (content, result) in enumerate(zip(contents, outcome.results, strict=True)):
        _fill_result(response.results.add(), result, element, content, f"contents[{index}]")
    _fill_timings(response.timings, outcome.timings)
    return response


def _fill_result(
    message: pb.EmbedResult, result: ItemResult, element: Element, content: Content, where: str
) -> None:
    message.token_count = result.token_count
    message.truncated = result.truncated
    outcome = result.outcome
    if isinstance(outcome, SentinelError):
        message.error.CopyFrom(to_status(located(outcome, content, where)))
    else:
        encoded = encode(outcome, element)
        vector = message.vector
        vector.data = encoded.data
        vector.element_type = _ELEMENT_TYPES[element]
        vector.dimensions = encoded.dimensions
        if encoded.scale:
            vector.scale = encoded.scale
    facts = result.image
    if facts is not None:
        image = message.image
        image.width, image.height = facts.width, facts.height
        image.media_type = facts.media_type
        image.thumbnail = facts.thumbnail


def located(error: SentinelError, content: Content, where: str) -> SentinelError:
    """Return the error of a content at `where` with its path, unless it names a field already."""
    if not isinstance(error, InvalidArgument) or error.field is not None:
        return error
    match content:
        case str():
            return error.at(f"{where}.text")
        case ImageFile():
            is_text = bool(content.text) and error.reason in _OF_TEXTS
            return error.at(f"{where}.image.{'text' if is_text else 'data'}")
    return error.at(where)


def _fill_timings(message: pb.StageTimings, timings: StageTimings) -> None:
    for part, seconds in (
        (message.total, timings.total),
        (message.decode, timings.decode),
        (message.preprocess, timings.preprocess),
        (message.queue, timings.queue),
        (message.inference, timings.inference),
    ):
        part.seconds, part.nanos = divmod(int(seconds * _NANOS), _NANOS)
    message.batch_size = timings.batch_size


def rank_response(
    candidates: Sequence[Content],
    ranked: Sequence[RankedCandidate],
    errors: Sequence[tuple[int, SentinelError]],
    timings: StageTimings,
    version: content_pb2.ModelVersion,
) -> pb.RankResponse:
    """Build the response to a Rank call: the ranked candidates, then those with an error."""
    response = pb.RankResponse(model_version=version)
    for candidate in ranked:
        response.candidates.add(
            index=candidate.index, cosine=candidate.cosine, probability=candidate.probability
        )
    for index, error in errors:
        status = to_status(located(error, candidates[index], f"candidates[{index}]"))
        response.candidates.add(index=index, error=status)
    _fill_timings(response.timings, timings)
    return response


def model_response(info: ModelInfo, settings: EmbedderSettings) -> pb.GetModelResponse:
    """Build the response to a GetModel call."""
    limits = pb.Limits(
        max_contents_per_request=settings.max_contents_per_request,
        max_text_chars=settings.max_text_chars,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_queue_items=settings.max_queue_items,
        max_stream_items=settings.max_stream_items,
    )
    modalities = [_MODALITIES[modality] for modality in info.modalities]
    if info.embeds_image_with_text:
        modalities.append(pb.MODALITY_IMAGE_WITH_TEXT)
    model = pb.Model(
        version=model_version(info),
        modalities=modalities,
        dimensions=info.dimensions,
        supported_dimensions=supported_dimensions(info),
        max_text_tokens=info.max_text_tokens,
        image_size=info.image_size,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        sigmoid=info.sigmoid,
        runtime=info.runtime,
        runtime_choice=info.runtime_choice,
        asymmetric=info.asymmetric,
        languages=info.languages,
        device=info.device,
        dtype=info.dtype,
        limits=limits,
    )
    return pb.GetModelResponse(model=model)
