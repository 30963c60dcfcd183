"""Check and convert the messages of EmbeddingService."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_server.api.common_messages import content_from, enum_table, out_of_range
from search_server.embedders.worker import ServedModel
from search_server.types.embeddings import EmbeddedItem, EmbedOptions, WorkerTimings
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core.errors import SentinelError
from sentinel_core.status import to_status
from sentinel_core.vectors import Element, RankedCandidate, Role, encode
from sentinel_store.items import Content

_ELEMENTS = enum_table(content_pb2.ElementType, "ELEMENT_TYPE", Element)
_ELEMENTS_TO_WIRE = {ours: theirs for theirs, ours in _ELEMENTS.items()}
_ELEMENTS[content_pb2.ELEMENT_TYPE_UNSPECIFIED] = Element.FLOAT32
_ROLES = enum_table(pb.Role, "ROLE", Role)
_OF_ONE_CONTENT = ("max_text_chars", "max_image_bytes", "max_image_pixels")


def options_from(options: pb.EmbedOptions) -> EmbedOptions:
    """Read how to embed; the workers check what depends on their model.

    Raises InvalidArgument for an unknown priority or role.
    """
    if options.priority not in pb.Priority.values():
        raise out_of_range(f"{options.priority} is not a Priority", "options.priority")
    return EmbedOptions(
        bulk=options.priority == pb.PRIORITY_BULK,
        thumbnail_side=options.thumbnail_side,
        normalize=options.normalize if options.HasField("normalize") else True,
        dimensions=options.dimensions if options.HasField("dimensions") else None,
        truncate=options.truncate if options.HasField("truncate") else True,
        role=_role(options.role, Role.DOCUMENT, "options.role"),
    )


def rank_roles_from(request: pb.RankRequest) -> tuple[Role, Role]:
    """Read the role of the query and that of the candidates."""
    return (
        _role(request.query_role, Role.QUERY, "query_role"),
        _role(request.candidates_role, Role.DOCUMENT, "candidates_role"),
    )


def _role(number: int, default: Role, path: str) -> Role:
    role = _ROLES.get(number) if number != pb.ROLE_UNSPECIFIED else default
    if role is None:
        raise out_of_range(f"{number} is not a Role", path)
    return role


def element_from(options: pb.EmbedOptions) -> Element:
    """Read the type of the elements of the vectors; workers send float32, whatever it is."""
    element = _ELEMENTS.get(options.element_type)
    if element is None:
        raise out_of_range(f"{options.element_type} is not an ElementType", "options.element_type")
    return element


def contents_from(
    contents: Iterable[content_pb2.Content], paths: Iterable[str]
) -> list[Content | SentinelError]:
    """Read contents, each with its path in the request; a bad one becomes its error."""
    return [_content_or_error(*one) for one in zip(contents, paths, strict=True)]


def _content_or_error(content: content_pb2.Content, path: str) -> Content | SentinelError:
    try:
        return content_from(content, path)
    except SentinelError as error:
        return error


def embed_response(
    items: Sequence[EmbeddedItem], timings: pb.StageTimings, element: Element, model: pb.Model
) -> pb.EmbedResponse:
    """Build the response to an Embed call; the errors of items have their paths already."""
    response = pb.EmbedResponse(model_version=model.version, timings=timings)
    for item in items:
        _fill_result(response.results.add(), item, element)
    return response


def _fill_result(message: pb.EmbedResult, item: EmbeddedItem, element: Element) -> None:
    message.token_count, message.truncated = item.token_count, item.truncated
    if item.error is not None:
        message.error.CopyFrom(to_status(item.error))
    elif item.vector is not None:
        encoded, vector = encode(item.vector, element), message.vector
        vector.data, vector.dimensions = encoded.data, encoded.dimensions
        vector.scale = encoded.scale
        vector.element_type = _ELEMENTS_TO_WIRE[element]
    if item.image is not None:
        image = message.image
        image.width, image.height = item.image.width, item.image.height
        image.media_type, image.thumbnail = item.image.media_type, item.thumbnail


def rank_response(
    ranked: Iterable[RankedCandidate],
    errors: Iterable[tuple[int, SentinelError]],
    timings: pb.StageTimings,
    model: pb.Model,
) -> pb.RankResponse:
    """Build the response to a Rank call: the ranked candidates, then those with an error."""
    response = pb.RankResponse(model_version=model.version, timings=timings)
    for one in ranked:
        response.candidates.add(index=one.index, cosine=one.cosine, probability=one.probability)
    for index, error in errors:
        response.candidates.add(index=index, error=to_status(error))
    return response


def timings_to(total_s: float, timings: WorkerTimings) -> pb.StageTimings:
    """Return the times of a call that took `total_s` seconds."""
    message = pb.StageTimings(batch_size=timings.batch_size)
    message.total.FromNanoseconds(int(total_s * 1e9))
    message.decode.FromNanoseconds(int(timings.decode * 1e9))
    message.preprocess.FromNanoseconds(int(timings.preprocess * 1e9))
    message.queue.FromNanoseconds(int(timings.queue * 1e9))
    message.inference.FromNanoseconds(int(timings.inference * 1e9))
    return message


def model_to(served: Sequence[ServedModel], max_contents: int) -> pb.Model:
    """Describe a model by what its workers say of it, with the limits of a call to the gateway.

    A call may have more contents than one of a worker: the gateway splits it.
    """
    model = pb.Model()
    model.CopyFrom(served[0].details)
    limits = [one.details.limits for one in served]
    model.limits.max_contents_per_request = max_contents
    for name in _OF_ONE_CONTENT:
        setattr(model.limits, name, min(getattr(one, name) for one in limits))
    model.limits.max_queue_items = sum(one.max_queue_items for one in limits)
    model.limits.max_stream_items = 0
    return model
