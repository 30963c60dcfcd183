"""`embed`, `embed_many`, `rank`: against a scripted gateway, and a real one before a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_client import (
    AsyncSentinelClient,
    Box,
    ClientConfig,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Q,
    ResourceExhausted,
    RetryPolicy,
    Role,
    SentinelClient,
)
from sentinel_core import errors as core
from tests import photos, processes
from tests.client.fake_gateway import FakeGateway
from tests.search_server.api.test_embedding import embed as embed_at
from tests.search_server.api.test_embedding import stub_of
from tests.search_server.embedders.test_faults import FAKE, gateway_at
from tests.waiting import eventually

SMALL = ClientConfig(upsert_max_items=4, upsert_in_flight=2)


def client_of(gateway: FakeGateway, config: ClientConfig = SMALL) -> AsyncSentinelClient:
    return AsyncSentinelClient(gateway.address, config=config)


async def test_one_content_is_a_vector_and_several_are_a_matrix(gateway: FakeGateway) -> None:
    async with client_of(gateway) as client:
        assert (await client.embed("7")).tolist() == [7, 0.5]
        rows = await client.embed([str(number) for number in range(10)])
        assert rows.dtype == np.float32
        assert rows[:, 0].tolist() == list(range(10))
        assert (await client.embed([])).shape == (0, 0)
        assert (await client.embed(Q(image=b"12345")))[0] == 5
    sizes = [len(request.contents) for request in gateway.calls["Embed"]]
    assert sorted(sizes) == [1, 1, 2, 4, 4]


async def test_options_are_sent(gateway: FakeGateway) -> None:
    async with client_of(gateway) as client:
        options = {"model": "m", "dimensions": 2, "normalize": False, "truncate": False}
        await client.embed("1", **options, thumbnail_side=64, role=Role.QUERY)  # type: ignore[arg-type]
        picture = Q(image=b"1", crop=Box(right=0.5))
        assert [one.error async for one in client.embed_many([picture])] == [None]
        with pytest.raises(TypeError, match="dimension"):
            await client.embed("1", dimension=2)  # type: ignore[call-arg]
    alone, bulk = gateway.calls["Embed"]
    assert alone.options == pb.EmbedOptions(
        **options, thumbnail_side=64, priority=pb.PRIORITY_INTERACTIVE, role=pb.ROLE_QUERY
    )
    assert bulk.options == pb.EmbedOptions(priority=pb.PRIORITY_BULK)
    assert bulk.contents[0].image.crop.right == 0.5


@pytest.mark.parametrize("content", [Q("a") + Q("b"), 2 * Q("a"), Q(item_id="x"), Q(vector=[1.0])])
async def test_only_texts_and_images_can_be_embedded(gateway: FakeGateway, content: Q) -> None:
    async with client_of(gateway) as client:
        with pytest.raises(TypeError, match="neither a text nor an image"):
            await client.embed(["1", content])
        with pytest.raises(TypeError, match="neither a text nor an image"):
            await client.rank("1", [content])


async def test_one_bad_content_fails_alone_and_is_named(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    contents = [str(number) for number in range(12)]
    contents[5], contents[6] = "BAD", "half \ud83d"
    given = [*contents, Q(image=str(tmp_path / "missing.jpg"))]
    async with client_of(gateway) as client:
        found = [one async for one in client.embed_many(given)]
        reasons = {
            place: one.error.reason for place, one in enumerate(found) if one.error is not None
        }
        assert reasons == {5: "TEXT_TOO_LONG", 6: "NOT_UNICODE", 12: "FILE_UNREADABLE"}
        assert [one.vector[0] for one in found if one.vector is not None] == [
            number for number in range(12) if number not in (5, 6)
        ]
        assert found[5].error is not None
        assert found[5].error.field == "contents[5].text"
        with pytest.raises(InvalidArgument, match="TEXT_TOO_LONG") as caught:
            await client.embed(given)
        assert caught.value.field == "contents[5].text"


async def test_results_keep_their_order_while_answers_do_not(gateway: FakeGateway) -> None:
    """The first request is answered last."""
    gateway.failures["Embed"].append(core.Unavailable("DRAINING", "not now"))
    async with client_of(gateway) as client:
        found = [one async for one in client.embed_many(map(str, range(40)))]
    assert [one.vector[0] for one in found if one.vector is not None] == list(range(40))


async def test_a_slow_reader_is_not_overtaken(gateway: FakeGateway) -> None:
    """Two batches are at the server, one is read ahead."""
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        while True:
            pulled += 1
            yield str(pulled)

    async with client_of(gateway) as client:
        stream = client.embed_many(endless())
        taken = [(await anext(stream)).vector[0] for _ in range(40)]  # type: ignore[index]
        await asyncio.sleep(0)
        assert taken == list(range(1, 41))
        assert pulled <= 40 + (SMALL.upsert_in_flight + 2) * SMALL.upsert_max_items
        await stream.aclose()
    assert gateway.most_in_flight <= SMALL.upsert_in_flight


async def test_a_result_waits_for_no_further_input(gateway: FakeGateway) -> None:
    """And what the source raises comes after the results before it."""
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        for number in range(4):
            yield str(number)
        await go_on.wait()
        yield "4"
        raise OSError("the pipe is broken")

    async with client_of(gateway) as client:
        stream = client.embed_many(source())
        first = [await anext(stream) for _ in range(4)]
        go_on.set()
        last = await anext(stream)
        with pytest.raises(OSError, match="broken"):
            await anext(stream)
    assert [one.vector[0] for one in (*first, last) if one.vector is not None] == [0, 1, 2, 3, 4]


async def test_leaving_early_ends_the_calls(gateway: FakeGateway) -> None:
    gateway.stall()
    async with client_of(gateway) as client:
        reading = asyncio.ensure_future(anext(client.embed_many(["1"])))
        await eventually(gateway.entered.is_set)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await eventually(gateway.cancelled.is_set)


async def test_full_servers_slow_it_down_and_do_not_end_it(gateway: FakeGateway) -> None:
    config = ClientConfig(upsert_max_items=4, retry=RetryPolicy(max_attempts=1))
    full = core.ResourceExhausted("QUOTA_EXCEEDED", "later", retry_after_s=0.01)
    gateway.failures["Embed"].extend([full] * 7)
    async with client_of(gateway, config) as client:
        assert len([one async for one in client.embed_many(map(str, range(20)))]) == 20
        gateway.failures["Embed"].append(
            core.ResourceExhausted("QUOTA_EXCEEDED", "much later", retry_after_s=100)
        )
        with pytest.raises(ResourceExhausted):
            await client.embed("1", timeout=5)


async def test_vectors_of_two_models_are_never_mixed(gateway: FakeGateway) -> None:
    async with client_of(gateway) as client:
        stream = client.embed_many(map(str, range(400)))
        await anext(stream)
        gateway.model = content_pb2.ModelVersion(model="other", fingerprint="beef")
        with pytest.raises(FailedPrecondition, match="MODEL_MISMATCH"):
            async for _ in stream:
                pass


async def test_a_ranking_names_the_places_that_were_passed(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    missing = Q(image=str(tmp_path / "missing.jpg"))
    async with client_of(gateway) as client:
        found = await client.rank("a", [missing, "1", "BAD", "2"], top_k=7)
        assert [one.index for one in found] == [1, 3, 0, 2]
        assert [one.error.reason if one.error else "" for one in found] == [
            *("", ""),
            *("FILE_UNREADABLE", "TEXT_TOO_LONG"),
        ]
        assert found[3].error is not None
        assert found[3].error.field == "candidates[2].text"
        with pytest.raises(InvalidArgument, match="FILE_UNREADABLE"):
            await client.rank(missing, ["1"])
    request = gateway.calls["Rank"][0]
    assert (request.top_k, request.query_role, request.candidates_role) == (
        7,
        pb.ROLE_QUERY,
        pb.ROLE_DOCUMENT,
    )


def test_the_synchronous_client_embeds_and_ranks(gateway: FakeGateway) -> None:
    with SentinelClient(gateway.address, config=SMALL) as client:
        assert client.embed("7")[0] == 7
        found = client.embed_many(map(str, range(10)))
        assert next(found).vector is not None
        assert len(list(found)) == 9
        assert [one.index for one in client.rank("a", ["1", "2"])] == [0, 1]
        names = {thread.name for thread in threading.enumerate()}
        assert "sentinel-client" in names


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[processes.Server, processes.Server]]:
    """A fake model's worker, and a gateway."""
    folder = tmp_path_factory.mktemp("embedding")
    with (
        processes.running(folder / "w", FAKE, environment={"FAKE_SUPPORTED": "4"}) as worker,
        gateway_at(folder, worker.address) as server,
    ):
        yield worker, server


async def test_vectors_are_the_workers_own(
    real: tuple[processes.Server, processes.Server],
) -> None:
    worker, server = real
    data = photos.photo("chelsea").read_bytes()
    lines = [f"red {number}" for number in range(300)]
    async with AsyncSentinelClient(server.address) as client:
        model = await client.get_model()
        assert (model.supported_dimensions, model.dimensions) == ((4, 16), 16)
        assert model.embeds_texts and model.embeds_images
        for options in ({}, {"dimensions": 4}, {"normalize": False}):
            ours = await client.embed([*lines, Q(image=data)], **options)  # type: ignore[arg-type]
            many = client.embed_many([*lines, Q(image=data)], **options)  # type: ignore[arg-type]
            also = [one.vector async for one in many]
            wire = [*(content_pb2.Content(text=line) for line in lines), content_pb2.Content()]
            wire[-1].image.data = data
            for place in (0, 150, 299, 300):
                own = embed_at(stub_of(worker), wire[place], **options).results[0].vector.data
                vector = also[place]
                assert vector is not None
                assert own == ours[place].tobytes() == vector.tobytes()
        [picture] = [one async for one in client.embed_many([Q(image=data)], thumbnail_side=32)]
        assert (picture.width, picture.height, picture.media_type) == (451, 300, "image/png")
        assert picture.thumbnail.startswith(b"RIFF")
        ranked = await client.rank("red", ["blue", "red", "red blue"])
        assert [one.index for one in ranked] == [1, 2, 0]
        assert ranked[0].cosine == pytest.approx(1)
        with pytest.raises(NotFound, match="MODEL_NOT_FOUND"):
            await client.embed("red", model="another")
