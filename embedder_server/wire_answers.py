"""Plain values to protobuf answers."""

from __future__ import annotations

from collections.abc import Sequence

from embedder_server.ranking import Ranked
from embedder_server.requests import EmbedOutcome, ImageFacts, ItemResult, StageTimings
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Modality, ModelInfo
from embedder_server.vectors import Element, encode
from embedder_server.wire import supported_dimensions
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.status import to_status

_NANOS = 1_000_000_000
_MODALITIES = {Modality.TEXT: pb.MODALITY_TEXT, Modality.IMAGE: pb.MODALITY_IMAGE}
_ELEMENT_TYPES = {
    Element.FLOAT32: content_pb2.ELEMENT_TYPE_FLOAT32,
    Element.FLOAT16: content_pb2.ELEMENT_TYPE_FLOAT16,
    Element.BFLOAT16: content_pb2.ELEMENT_TYPE_BFLOAT16,
    Element.INT8: content_pb2.ELEMENT_TYPE_INT8,
    Element.BINARY: content_pb2.ELEMENT_TYPE_BINARY,
}


def model_version(info: ModelInfo) -> content_pb2.ModelVersion:
    return content_pb2.ModelVersion(
        model=info.name, revision=info.revision, fingerprint=info.fingerprint
    )


def embed_response(
    outcome: EmbedOutcome, element: Element, version: content_pb2.ModelVersion
) -> pb.EmbedResponse:
    """Return the answer to an Embed call."""
    response = pb.EmbedResponse(model_version=version)
    for index, result in enumerate(outcome.results):
        _fill_result(response.results.add(), result, element, f"contents[{index}]")
    _fill_timings(response.timings, outcome.timings)
    return response


def _fill_result(message: pb.EmbedResult, result: ItemResult, element: Element, where: str) -> None:
    message.token_count = result.token_count
    message.truncated = result.truncated
    outcome = result.outcome
    if isinstance(outcome, SentinelError):
        message.error.CopyFrom(to_status(located(outcome, where)))
    else:
        encoded = encode(outcome, element)
        vector = message.vector
        vector.data = encoded.data
        vector.element_type = _ELEMENT_TYPES[element]
        vector.dimensions = encoded.dimensions
        if encoded.scale:
            vector.scale = encoded.scale
    if result.image is not None:
        message.image.CopyFrom(_image_info(result.image))


def located(error: SentinelError, where: str) -> SentinelError:
    """Return `error`, with the path of the content at fault unless it names a field already."""
    if isinstance(error, InvalidArgument) and error.field is None:
        error.field = where
    return error


def _image_info(facts: ImageFacts) -> pb.ImageInfo:
    return pb.ImageInfo(
        width=facts.width,
        height=facts.height,
        media_type=facts.media_type,
        thumbnail=facts.thumbnail,
    )


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
    ranked: Sequence[Ranked],
    errors: Sequence[tuple[int, SentinelError]],
    timings: StageTimings,
    version: content_pb2.ModelVersion,
) -> pb.RankResponse:
    """Return the answer to a Rank call: the candidates in order, then those with an error."""
    response = pb.RankResponse(model_version=version)
    for place in ranked:
        response.candidates.add(
            index=place.index, cosine=place.cosine, probability=place.probability
        )
    for index, error in errors:
        status = to_status(located(error, f"candidates[{index}]"))
        response.candidates.add(index=index, error=status)
    _fill_timings(response.timings, timings)
    return response


def model_response(info: ModelInfo, settings: EmbedderSettings) -> pb.GetModelResponse:
    """Return the answer to a GetModel call."""
    limits = pb.Limits(
        max_contents_per_request=settings.max_contents_per_request,
        max_text_chars=settings.max_text_chars,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_queue_items=settings.max_queue_items,
        max_stream_items=settings.max_stream_items,
    )
    model = pb.Model(
        version=model_version(info),
        modalities=[_MODALITIES[modality] for modality in info.modalities],
        dimensions=info.dimensions,
        supported_dimensions=supported_dimensions(info),
        max_text_tokens=info.max_text_tokens,
        image_size=info.image_size,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        sigmoid=info.sigmoid,
        runtime=info.runtime,
        runtime_choice=info.runtime_choice,
        device=info.device,
        dtype=info.dtype,
        limits=limits,
    )
    return pb.GetModelResponse(model=model)
