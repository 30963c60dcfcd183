"""A worker that serves a vision-language model: tiny, of the real architecture, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedder_server.app import running_worker
from embedder_server.images.fork_server import ForkServer
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.settings import EmbedderSettings
from embedder_server.types import FloatArray
from scripts.check_vlm import Content, embedded, least_cosine
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.vectors import Role
from tests import secure
from tests.embedder_server.calls import image, request, text
from tests.embedder_server.models import tiny_vlms
from tests.embedder_server.pictures import encode, noise

pytest.importorskip("torch")
pytest.importorskip("transformers")

Stub = pb_grpc.EmbeddingServiceStub
PICTURES = [noise(size, seed) for seed, size in enumerate([(60, 40), (33, 97), (700, 500)])]
WIRE = {Role.QUERY: pb.ROLE_QUERY, Role.DOCUMENT: pb.ROLE_DOCUMENT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vlm") / "model"
    tiny_vlms.qwen3_vl(path)
    return path


@pytest.fixture
def chosen(folder: Path, make_settings: Callable[..., EmbedderSettings]) -> EmbedderSettings:
    return make_settings(model=str(folder), runtime="torch", max_image_tokens=256)


@pytest.fixture
def direct(chosen: EmbedderSettings) -> DualEncoder:
    """The same model, called in this process."""
    return load_hub_model(chosen.model_choice)


@pytest.fixture
async def served(
    direct: DualEncoder, chosen: EmbedderSettings, forks: ForkServer
) -> AsyncIterator[Stub]:
    async with (
        running_worker(chosen, model=direct, forks=forks) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        yield Stub(channel)


def sent(content: Content) -> content_pb2.Content:
    words, picture = content
    if picture is None:
        return text(words)
    message = image(encode(picture, "PNG"))
    message.image.text = words
    return message


def vectors(response: pb.EmbedResponse) -> FloatArray:
    assert not any(result.HasField("error") for result in response.results)
    return np.stack([np.frombuffer(one.vector.data, "<f4") for one in response.results])


async def test_contents_of_all_kinds_and_roles_at_once(served: Stub, direct: DualEncoder) -> None:
    words = ["a cat", "two dogs run along the beach", ""]
    kinds: list[list[Content]] = [
        [(one, None) for one in words if one],
        [("", picture) for picture in PICTURES],
        list(zip(words, PICTURES, strict=True)),
    ]
    every = [content for contents in kinds for content in contents]
    calls: list[Any] = [served.Embed(request(*map(sent, every), role=WIRE[role])) for role in Role]
    answers = await asyncio.gather(*calls)
    for role, answer in zip(Role, answers, strict=True):
        expected = np.concatenate([embedded(direct, contents, role) for contents in kinds])
        assert least_cosine(vectors(answer), expected) > 0.9999


async def test_what_it_offers(served: Stub) -> None:
    model = (await served.GetModel(pb.GetModelRequest())).model
    assert model.asymmetric
    assert pb.MODALITY_IMAGE_WITH_TEXT in model.modalities
    assert list(model.supported_dimensions) == [64, 96]
    short = vectors(await served.Embed(request(text("a cat"), dimensions=64)))
    whole = vectors(await served.Embed(request(text("a cat"))))
    np.testing.assert_allclose(
        short, whole[:, :64] / np.linalg.norm(whole[:, :64]), rtol=0, atol=1e-6
    )


async def test_a_crop_and_a_thumbnail_come_as_with_other_models(served: Stub) -> None:
    content = image(encode(PICTURES[2], "PNG"))
    content.image.crop.right = content.image.crop.bottom = 0.5
    [result] = (await served.Embed(request(content, thumbnail_side=64))).results
    part = image(encode(PICTURES[2].crop((0, 0, 350, 250)), "PNG"))
    expected = vectors(await served.Embed(request(part)))
    found = np.frombuffer(result.vector.data, "<f4")[None]
    assert least_cosine(found, expected) > 0.9999
    assert result.image.thumbnail
    assert result.image.width == 700
