"""Queries and documents at a worker: what a role changes, and for which models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from embedder_server.types import FloatArray
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import failure, request, text
from tests.fakes.fake_model import FakeModel

Stub = pb_grpc.EmbeddingServiceStub


@pytest.fixture
def asymmetric() -> FakeModel:
    return FakeModel(asymmetric=True)


@pytest.fixture
async def stub_of_asymmetric(
    asymmetric: FakeModel, settings: EmbedderSettings
) -> AsyncIterator[Stub]:
    async with (
        running_worker(settings, model=asymmetric) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        asymmetric.batches.clear()
        yield Stub(channel)


async def vector(stub: Stub, words: str, **options: pb.Role) -> FloatArray:
    [result] = (await stub.Embed(request(text(words), **options))).results
    return np.frombuffer(result.vector.data, "<f4")


def embedded(model: FakeModel) -> list[str]:
    return [one for batch in model.batches for one in batch.contents]


async def test_an_asymmetric_model_says_so_and_reads_the_role(stub_of_asymmetric: Stub) -> None:
    assert (await stub_of_asymmetric.GetModel(pb.GetModelRequest())).model.asymmetric
    unset = await vector(stub_of_asymmetric, "red")
    document = await vector(stub_of_asymmetric, "red", role=pb.ROLE_DOCUMENT)
    query = await vector(stub_of_asymmetric, "red", role=pb.ROLE_QUERY)
    np.testing.assert_array_equal(unset, document)
    assert query @ document < 0.9


async def test_a_symmetric_model_ignores_the_role(stub: Stub) -> None:
    assert not (await stub.GetModel(pb.GetModelRequest())).model.asymmetric
    document, query = [await vector(stub, "red", role=role) for role in (2, 1)]
    np.testing.assert_array_equal(query, document)


async def test_each_message_of_a_stream_has_its_own_role(stub_of_asymmetric: Stub) -> None:
    roles = (pb.ROLE_QUERY, pb.ROLE_DOCUMENT)
    expected = [await vector(stub_of_asymmetric, "red", role=role) for role in roles]

    async def messages() -> AsyncIterator[pb.EmbedStreamRequest]:
        for number, role in enumerate(roles):
            yield pb.EmbedStreamRequest(sequence=number, request=request(text("red"), role=role))

    answers = {one.sequence: one async for one in stub_of_asymmetric.EmbedStream(messages())}
    for number, wanted in enumerate(expected):
        [result] = answers[number].response.results
        np.testing.assert_array_equal(np.frombuffer(result.vector.data, "<f4"), wanted)


@pytest.mark.parametrize(
    ("roles", "of_query", "of_candidates"),
    [
        ({}, "query for red", "red"),
        ({"query_role": 2}, "red", "red"),
        ({"candidates_role": 1}, "query for red", "query for red"),
        ({"query_role": 2, "candidates_role": 1}, "red", "query for red"),
    ],
    ids=str,
)
async def test_a_ranking_embeds_each_side_in_its_role(
    stub_of_asymmetric: Stub,
    asymmetric: FakeModel,
    roles: dict[str, pb.Role],
    of_query: str,
    of_candidates: str,
) -> None:
    answer = await stub_of_asymmetric.Rank(
        pb.RankRequest(
            query=text("red"), candidates=[text("blue"), text("red"), text(" ")], **roles
        )
    )
    assert [one.index for one in answer.candidates] == [1, 0, 2]
    other = of_candidates.replace("red", "blue")
    assert sorted(embedded(asymmetric)) == sorted([of_query, other, of_candidates])
    same = of_query == of_candidates
    assert (answer.candidates[0].cosine > 0.999) is same
    assert answer.timings.total.nanos > 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda stub: stub.Embed(request(text("x"), role=7)), "options.role"),
        (
            lambda stub: stub.Rank(
                pb.RankRequest(query=text("x"), candidates=[text("y")], query_role=7)
            ),
            "query_role",
        ),
        (
            lambda stub: stub.Rank(
                pb.RankRequest(query=text("x"), candidates=[text("y")], candidates_role=7)
            ),
            "candidates_role",
        ),
    ],
)
async def test_an_unknown_role_is_refused(stub: Stub, call: object, field: str) -> None:
    error, info = await failure(call(stub))  # type: ignore[operator]
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "PARAMETER_OUT_OF_RANGE"
    assert dict(info.metadata) == {"field": field}
