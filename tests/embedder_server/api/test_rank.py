"""Rank over the wire."""

from __future__ import annotations

import dataclasses
import math

import grpc
import pytest

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import failure, image, item_reason, text
from tests.embedder_server.pictures import encode, flat
from tests.fakes.fake_model import FakeModel


def ask(
    *candidates: content_pb2.Content, query: content_pb2.Content | None = None, top_k: int = 0
) -> pb.RankRequest:
    return pb.RankRequest(query=query or text("red"), candidates=candidates, top_k=top_k)


async def test_candidates_of_any_kind_best_first(stub: pb_grpc.EmbeddingServiceStub) -> None:
    answer = await stub.Rank(
        ask(text("blue"), image(encode(flat("red"), "PNG")), text(" "), text("red"), image(b"no"))
    )
    assert [one.index for one in answer.candidates] == [3, 1, 0, 2, 4]
    good, bad = answer.candidates[:3], answer.candidates[3:]
    assert good[0].cosine == pytest.approx(1)
    assert sum(one.probability for one in good) == pytest.approx(1, abs=1e-6)
    assert not any(one.HasField("error") for one in good)
    assert [item_reason(one.error) for one in bad] == ["TEXT_EMPTY", "IMAGE_FORMAT_UNSUPPORTED"]
    assert answer.model_version.model == "fake-model"
    assert answer.timings.total.nanos > 0


async def test_an_image_against_labels(stub: pb_grpc.EmbeddingServiceStub) -> None:
    labels = [text(colour) for colour in ("blue", "red", "lime")]
    answer = await stub.Rank(ask(*labels, query=image(encode(flat("lime"), "PNG")), top_k=1))
    [best] = answer.candidates
    assert best.index == 2
    assert best.probability > 0.9


async def test_a_model_trained_with_a_sigmoid_judges_each_candidate_by_itself(
    model: FakeModel, settings: EmbedderSettings
) -> None:
    model.info = dataclasses.replace(model.info, sigmoid=True, logit_bias=-5.0)
    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel)
        described = (await stub.GetModel(pb.GetModelRequest())).model
        assert (described.sigmoid, described.logit_bias) == (True, -5.0)
        alone = await stub.Rank(ask(text("red")))
        answer = await stub.Rank(ask(text("red"), text("blue"), text("red")))
    for one in answer.candidates:
        logit = 10.0 * one.cosine - 5.0
        assert one.probability == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)
    # A softmax would have made 1 of one candidate, and would have shared it out among several.
    assert alone.candidates[0].probability == answer.candidates[0].probability < 0.994
    assert sum(one.probability for one in answer.candidates) > 1.9


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        pytest.param(ask(), "BATCH_EMPTY", "candidates", id="no candidates"),
        pytest.param(ask(*[text("x")] * 256), "BATCH_TOO_LARGE", "candidates", id="too many"),
        pytest.param(ask(text("x"), top_k=-1), "PARAMETER_OUT_OF_RANGE", "top_k", id="top_k"),
        pytest.param(ask(text("x"), query=text(" ")), "TEXT_EMPTY", "query.text", id="blank query"),
        pytest.param(
            pb.RankRequest(candidates=[text("x")]), "CONTENT_MISSING", "query", id="no query"
        ),
    ],
)
async def test_faults_of_the_request_fail_the_call(
    stub: pb_grpc.EmbeddingServiceStub, bad: pb.RankRequest, reason: str, field: str
) -> None:
    error, info = await failure(stub.Rank(bad))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.metadata["field"]) == (reason, field)


async def test_another_model_is_not_found(stub: pb_grpc.EmbeddingServiceStub) -> None:
    request = ask(text("x"))
    request.model = "other"
    _, info = await failure(stub.Rank(request))
    assert info.reason == "MODEL_NOT_FOUND"
