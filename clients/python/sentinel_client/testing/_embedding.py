"""EmbeddingService of the fake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_client import _messages
from sentinel_client._errors import NotFound, SentinelError
from sentinel_client._types import Vector
from sentinel_client.testing import _checks
from sentinel_client.testing._model import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_CHARS,
    MAX_TOKENS,
    HashingModel,
    unit,
)
from sentinel_client.testing._status import to_status
from sentinel_client.testing._store import THUMBNAIL

_MAX_CONTENTS = 256
_LOGIT_SCALE = 100.0
_FLOAT32 = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Embeds and ranks contents."""

    def __init__(self, model: HashingModel) -> None:
        self._model = model

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        options = request.options
        self._check_options(options)
        _checks.check_count(len(request.contents), _MAX_CONTENTS, "contents")
        response = pb.EmbedResponse(model_version=self._model.version)
        for index, content in enumerate(request.contents):
            self._fill(response.results.add(), content, f"contents[{index}]", options)
        return response

    def _fill(
        self, result: pb.EmbedResult, content: content_pb2.Content, path: str, options: Any
    ) -> None:
        truncate = options.truncate if options.HasField("truncate") else True
        try:
            embedded = self._model.embed(content, path, truncate=truncate)
        except SentinelError as error:
            result.error.CopyFrom(to_status(error))
            return
        normalize = options.normalize if options.HasField("normalize") else True
        kept = embedded.vector[: options.dimensions or None]
        vector = unit(kept) if normalize else kept
        result.vector.CopyFrom(_messages.vector_to_proto(vector))
        result.token_count, result.truncated = embedded.token_count, embedded.truncated
        if embedded.media_type:
            result.image.media_type = embedded.media_type
            result.image.thumbnail = THUMBNAIL if options.thumbnail_side else b""

    def _check_options(self, options: pb.EmbedOptions) -> None:
        if options.priority not in pb.Priority.values():
            raise _checks.out_of_range(f"{options.priority} is not one", "options.priority")
        _check_role(options.role, "options.role")
        if options.element_type not in _FLOAT32:
            raise _checks.unsupported("sends vectors as float32 only")
        self._check_model(options.model)
        if options.HasField("dimensions"):
            self._model.check_dimensions(options.dimensions, "options.dimensions")
        if options.thumbnail_side and not 16 <= options.thumbnail_side <= 1024:
            raise _checks.out_of_range(
                f"{options.thumbnail_side} is not 0 or 16 to 1024 pixels", "options.thumbnail_side"
            )

    def _check_model(self, name: str) -> None:
        if name not in ("", self._model.version.model):
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"no worker serves {name[:100]!r}; the fake has {self._model.version.model!r}",
                metadata={"model": name},
            )

    def EmbedStream(
        self, request_iterator: object, context: grpc.ServicerContext
    ) -> Iterator[pb.EmbedStreamResponse]:
        raise _checks.unsupported("has no EmbedStream, as no gateway has it: call Embed")

    def Rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> pb.RankResponse:
        if request.top_k < 0:
            raise _checks.out_of_range(f"{request.top_k} is negative; 0 returns all", "top_k")
        self._check_model(request.model)
        _checks.check_count(len(request.candidates), _MAX_CONTENTS - 1, "candidates")
        _check_role(request.query_role, "query_role")
        _check_role(request.candidates_role, "candidates_role")
        query = unit(self._model.embed(request.query, "query").vector)
        vectors: dict[int, Vector] = {}
        errors: dict[int, SentinelError] = {}
        for index, content in enumerate(request.candidates):
            try:
                vectors[index] = unit(self._model.embed(content, f"candidates[{index}]").vector)
            except SentinelError as error:
                errors[index] = error
        response = pb.RankResponse(model_version=self._model.version)
        if vectors:
            cosines = np.clip(np.stack(list(vectors.values())) @ query, -1.0, 1.0)
            weights = np.exp(_LOGIT_SCALE * (cosines - cosines.max()))
            ranked = sorted(
                zip(vectors, cosines, weights / weights.sum(), strict=True),
                key=lambda one: (-one[1], one[0]),
            )
            for place, cosine, probability in ranked[: request.top_k or None]:
                response.candidates.add(index=place, cosine=cosine, probability=probability)
        for index, failed in errors.items():
            response.candidates.add(index=index, error=to_status(failed))
        return response

    def GetModel(
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        self._check_model(request.model)
        limits = pb.Limits(
            max_contents_per_request=_MAX_CONTENTS,
            max_text_chars=MAX_TEXT_CHARS,
            max_image_bytes=MAX_IMAGE_BYTES,
        )
        model = pb.Model(
            version=self._model.version,
            modalities=[pb.MODALITY_TEXT, pb.MODALITY_IMAGE],
            dimensions=self._model.dimensions,
            supported_dimensions=self._model.supported_dimensions,
            max_text_tokens=MAX_TOKENS,
            logit_scale=_LOGIT_SCALE,
            runtime="fake",
            limits=limits,
        )
        return pb.GetModelResponse(model=model)


def _check_role(role: pb.Role, path: str) -> None:
    """Refuse an unknown role; like most models, this one ignores the known ones."""
    if role not in pb.Role.values():
        raise _checks.out_of_range(f"{role} is not a Role", path)
