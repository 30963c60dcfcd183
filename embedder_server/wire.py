"""Protobuf requests to plain values, and the checks that concern a whole request."""

from __future__ import annotations

from collections.abc import Sequence

from embedder_server.requests import Content, Crop, EmbedOptions, ImageFile
from embedder_server.types import ModelInfo, Priority
from embedder_server.vectors import Element
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core.errors import InvalidArgument, NotFound, PermissionDenied

_MIN_THUMBNAIL_SIDE = 16
_MAX_THUMBNAIL_SIDE = 1024
_DEFAULTS = EmbedOptions()

_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BULK: Priority.BULK,
}
_ELEMENTS = {
    content_pb2.ELEMENT_TYPE_UNSPECIFIED: Element.FLOAT32,
    content_pb2.ELEMENT_TYPE_FLOAT32: Element.FLOAT32,
    content_pb2.ELEMENT_TYPE_FLOAT16: Element.FLOAT16,
    content_pb2.ELEMENT_TYPE_BFLOAT16: Element.BFLOAT16,
    content_pb2.ELEMENT_TYPE_INT8: Element.INT8,
    content_pb2.ELEMENT_TYPE_BINARY: Element.BINARY,
}


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


def check_count(count: int, limit: int, field: str) -> None:
    """Accept 1 to `limit` contents.

    Raises:
        InvalidArgument: BATCH_EMPTY or BATCH_TOO_LARGE.
    """
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", f"{field} is empty; send at least one", field=field)
    if count > limit:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{field} has {count} contents, the limit is {limit}; split it",
            field=field,
            limit=limit,
        )


def options_from(request: pb.EmbedRequest, info: ModelInfo) -> EmbedOptions:
    """Return the options of a request.

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
    )


def supported_dimensions(info: ModelInfo) -> tuple[int, ...]:
    """Return the lengths a caller may ask for, ascending; the model's own is the last."""
    return tuple(sorted({*info.supported_dimensions, info.dimensions}))


def _dimensions(options: pb.EmbedOptions, info: ModelInfo) -> int:
    if not options.HasField("dimensions"):
        return 0
    supported = supported_dimensions(info)
    if options.dimensions not in supported:
        offered = ", ".join(map(str, supported))
        raise InvalidArgument(
            "DIMENSIONS_UNSUPPORTED",
            f"{info.name!r} has no vectors of {options.dimensions} dimensions; ask for one of "
            f"{offered}",
            field="options.dimensions",
            supported=",".join(map(str, supported)),
        )
    return options.dimensions


def top_k_from(request: pb.RankRequest) -> int:
    """Return how many candidates to give back; 0: all.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE.
    """
    if request.top_k < 0:
        raise _out_of_range("top_k", f"{request.top_k} is negative; 0 returns all")
    return request.top_k


def _out_of_range(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", f"{field}: {message}", field=field)


def contents_from(contents: Sequence[content_pb2.Content], field: str) -> list[Content]:
    """Return the contents, each that is at fault already as its error."""
    return [content_from(content, f"{field}[{index}]") for index, content in enumerate(contents)]


def content_from(content: content_pb2.Content, where: str) -> Content:
    """Return one content, or its error; `where` is its path in the request."""
    kind = content.WhichOneof("kind")
    if kind == "text":
        return content.text
    if kind == "image":
        image = content.image
        if image.WhichOneof("source") == "uri":
            return PermissionDenied(
                "URI_FORBIDDEN",
                "a worker fetches nothing; send the picture's bytes, or ask a gateway",
                field=f"{where}.image.uri",
            )
        if not image.HasField("crop"):
            return ImageFile(image.data)
        crop = _crop(image.crop)
        if crop is not None:
            return ImageFile(image.data, crop)
        return InvalidArgument(
            "CROP_INVALID",
            "the crop box must have 0 <= left < right <= 1 and 0 <= top < bottom <= 1",
            field=f"{where}.image.crop",
        )
    return InvalidArgument("CONTENT_MISSING", "neither text nor image is set; set one", field=where)


def _crop(box: content_pb2.BoundingBox) -> Crop | None:
    # Comparisons with NaN are false, so this refuses it too.
    if 0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1:
        return Crop(box.left, box.top, box.right, box.bottom)
    return None
