"""An image and a text as one content: for models that read both together, and for all others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from embedder_server.types import FloatArray
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import image, item_reason, request, text
from tests.embedder_server.pictures import encode, flat
from tests.fakes.fake_model import FakeModel
from tests.search_server.api.test_embedding import field_of

Stub = pb_grpc.EmbeddingServiceStub
RED = encode(flat("red"), "PNG")


@pytest.fixture
async def able(settings: EmbedderSettings) -> AsyncIterator[Stub]:
    """A worker whose model reads images with texts."""
    model = FakeModel(embeds_image_with_text=True, asymmetric=True)
    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        yield Stub(channel)


def both(words: str, data: bytes = RED) -> content_pb2.Content:
    content = image(data)
    content.image.text = words
    return content


async def vectors(stub: Stub, *contents: content_pb2.Content, **options: int) -> list[FloatArray]:
    results = (await stub.Embed(request(*contents, **options))).results
    assert not any(result.HasField("error") for result in results)
    return [np.frombuffer(result.vector.data, "<f4") for result in results]


async def test_the_vector_is_of_both_and_of_the_role(able: Stub) -> None:
    model = (await able.GetModel(pb.GetModelRequest())).model
    assert list(model.modalities) == [
        pb.MODALITY_TEXT,
        pb.MODALITY_IMAGE,
        pb.MODALITY_IMAGE_WITH_TEXT,
    ]
    blue = encode(flat("blue"), "PNG")
    contents = [both("at night"), both("at noon"), both("at night", blue), image(RED), text("red")]
    found = await vectors(able, *contents)
    found += await vectors(able, both("at night"), image(RED), role=pb.ROLE_QUERY)
    cosines = np.stack(found) @ np.stack(found).T - np.eye(len(found))
    assert cosines.max() < 0.999
    [alone] = await vectors(able, both("at night"))
    np.testing.assert_allclose(alone, found[0], atol=1e-6)


async def test_the_text_is_counted_and_cut(able: Stub) -> None:
    long = both("word " * 100)
    [result] = (await able.Embed(request(long))).results
    assert (result.token_count, result.truncated) == (100, True)
    assert (result.image.width, result.image.media_type) == (40, "image/png")
    [plain] = (await able.Embed(request(image(RED)))).results
    assert (plain.token_count, plain.truncated) == (0, False)
    [refused] = (await able.Embed(request(long, truncate=False))).results
    assert item_reason(refused.error) == "TEXT_TOO_LONG"
    assert field_of(refused.error) == "contents[0].image.text"


async def test_what_is_wrong_is_named_and_fails_alone(able: Stub) -> None:
    contents = [both(" "), both("x" * 100_001), both("fine"), both("fine", b"no image")]
    results = (await able.Embed(request(*contents))).results
    reasons = [item_reason(one.error) if one.HasField("error") else "" for one in results]
    assert reasons == ["TEXT_EMPTY", "TEXT_TOO_LONG", "", "IMAGE_FORMAT_UNSUPPORTED"]
    fields = [field_of(results[place].error) for place in (0, 1, 3)]
    assert fields == [
        "contents[0].image.text",
        "contents[1].image.text",
        "contents[3].image.data",
    ]


async def test_other_models_refuse_it_and_say_what_to_do(stub: Stub) -> None:
    model = (await stub.GetModel(pb.GetModelRequest())).model
    assert pb.MODALITY_IMAGE_WITH_TEXT not in model.modalities
    results = (await stub.Embed(request(image(RED), both("at night")))).results
    assert results[0].HasField("vector")
    error = results[1].error
    assert item_reason(error) == "MODALITY_UNSUPPORTED"
    assert field_of(error) == "contents[1].image.text"
    assert "composite query" in error.message
