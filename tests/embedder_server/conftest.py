from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from embedder_server.app import Worker, running_worker
from embedder_server.images.fork_server import ForkServer
from embedder_server.settings import EmbedderSettings
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.fakes.fake_model import FakeModel


@pytest.fixture
def model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.faults.gate.set()  # lets a device thread that a test stalled end


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """What starts the image decoders of all workers in these tests."""
    forks = ForkServer()
    yield forks
    forks.close()


@pytest.fixture
def make_settings() -> Callable[..., EmbedderSettings]:
    def make(**changes: Any) -> EmbedderSettings:
        given = {**secure.server_settings(), **changes}
        return EmbedderSettings(_env_file=None, port=0, decode_processes=2, **given)

    return make


@pytest.fixture
def settings(make_settings: Callable[..., EmbedderSettings]) -> EmbedderSettings:
    return make_settings()


@pytest.fixture
async def worker(
    model: FakeModel, settings: EmbedderSettings, forks: ForkServer
) -> AsyncIterator[Worker]:
    async with running_worker(settings, model=model, forks=forks) as worker:
        model.batches.clear()  # those of the warm-up
        yield worker
        model.faults.gate.set()


@pytest.fixture
async def stub(worker: Worker) -> AsyncIterator[pb_grpc.EmbeddingServiceStub]:
    async with secure.aio_channel(worker.address) as channel:
        yield pb_grpc.EmbeddingServiceStub(channel)
