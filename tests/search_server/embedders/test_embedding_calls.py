"""Embed and Rank at a gateway before several workers: spread, moved, isolated, bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from sentinel.embedding.v1 import embedding_service_pb2 as pb
from tests import processes
from tests.processes import metric
from tests.search_server.api.test_embedding import (
    Stub,
    embed,
    field_of,
    new_words,
    refusal,
    stub_of,
    words,
)
from tests.search_server.conftest import image, reason_of
from tests.search_server.embedders.pools import Hold, Start, picture
from tests.search_server.embedders.test_faults import gateway_at
from tests.waiting import until


def test_one_address_for_several_models(start: Start, tmp_path: Path) -> None:
    workers = [start(FAKE_NAME="first"), start(FAKE_NAME="second", FAKE_DIMENSIONS="8")]
    with gateway_at(tmp_path, *(one.address for one in workers)) as server:
        gateway = stub_of(server)
        until(lambda: _serves(gateway, "second") and _serves(gateway, "first"))
        for name, dimensions in (("", 16), ("first", 16), ("second", 8)):
            answer = embed(gateway, words("red"), model=name)
            assert answer.model_version.model == (name or "first")
            assert answer.results[0].vector.dimensions == dimensions
            ranking = pb.RankRequest(query=words("red"), candidates=[words("blue")], model=name)
            assert gateway.Rank(ranking).model_version == answer.model_version


def _serves(gateway: Stub, name: str) -> bool:
    try:
        return bool(gateway.GetModel(pb.GetModelRequest(model=name)).model.dimensions)
    except grpc.RpcError:
        return False


def test_limits_are_what_every_worker_takes(start: Start, tmp_path: Path) -> None:
    """Of one content; a call may have more contents than one worker takes at once."""
    flags = (
        ("--max-contents-per-request", "8", "--max-text-chars", "90"),
        ("--max-contents-per-request", "4", "--max-queue-items", "100"),
    )
    workers = [start(*one) for one in flags]
    with gateway_at(tmp_path, *(one.address for one in workers)) as server:
        gateway = stub_of(server)

        def limits() -> tuple[int, ...]:
            found = gateway.GetModel(pb.GetModelRequest()).model.limits
            return (
                found.max_contents_per_request,
                found.max_text_chars,
                found.max_queue_items,
                found.max_stream_items,
            )

        until(lambda: limits() == (256, 90, 1124, 0))
        many = [words(f"red {number}") for number in range(50)]
        results = embed(gateway, *many).results
        assert [one.vector.data for one in results] == [
            embed(gateway, one, normalize=True, truncate=True).results[0].vector.data
            for one in many
        ]
        ranking = gateway.Rank(pb.RankRequest(query=many[7], candidates=many, top_k=1))
        assert ranking.candidates[0].index == 7


def busy(worker: processes.Server) -> bool:
    name = "sentinel_embedder_requests_in_flight"
    return metric(worker.metrics_address, name) > 0


def test_calls_are_spread_over_the_workers(start: Start, hold: Hold, tmp_path: Path) -> None:
    workers = [start(FAKE_HOLD=str(hold)) for _ in range(2)]
    with gateway_at(tmp_path, *(one.address for one in workers)) as server:
        gateway = stub_of(server)
        until(lambda: gateway.GetModel(pb.GetModelRequest()).model.limits.max_queue_items == 2048)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(embed, gateway, words(f"red {n}")) for n in range(8)]
            until(lambda: all(map(busy, workers)))
            hold.release()
            assert all(len(call.result().results) == 1 for call in calls)


def test_a_worker_that_is_killed_costs_nobody_an_answer(start: Start, tmp_path: Path) -> None:
    holds = [Hold(tmp_path / name) for name in ("one", "two")]
    workers = [start(FAKE_HOLD=str(one)) for one in holds]
    with (
        gateway_at(tmp_path, *(one.address for one in workers)) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        gateway = stub_of(server)
        until(lambda: gateway.GetModel(pb.GetModelRequest()).model.limits.max_queue_items == 2048)
        call = threads.submit(embed, gateway, words("red"), image(picture("blue").data))
        until(lambda: any(map(busy, workers)))
        place = [busy(one) for one in workers].index(True)
        holds[1 - place].release()
        workers[place].kill()
        assert [one.WhichOneof("outcome") for one in call.result().results] == ["vector"] * 2


def test_a_content_that_ends_workers_fails_alone(start: Start, tmp_path: Path) -> None:
    workers = [start(FAKE_KILLER="deadly") for _ in range(3)]
    with gateway_at(tmp_path, *(one.address for one in workers)) as server:
        gateway = stub_of(server)
        until(lambda: gateway.GetModel(pb.GetModelRequest()).model.limits.max_queue_items == 3072)
        contents = [words("red"), words("a deadly word"), words("blue")]
        for options in ({}, {"priority": pb.PRIORITY_BULK}):
            red, deadly, blue = embed(gateway, *contents, **options).results
            assert [red.WhichOneof("outcome"), blue.WhichOneof("outcome")] == ["vector"] * 2
            assert reason_of(deadly.error) == "CONTENT_POISONOUS"
            assert field_of(deadly.error) == "contents[1].text"
        ranking = gateway.Rank(pb.RankRequest(query=contents[0], candidates=contents[1:]))
        assert [one.index for one in ranking.candidates] == [1, 0]
        assert reason_of(ranking.candidates[1].error) == "CONTENT_POISONOUS"
        assert sum(one.process.poll() is None for one in workers) == 1


def test_without_a_worker_the_call_fails_and_not_each_content(start: Start, tmp_path: Path) -> None:
    worker = start()
    with gateway_at(tmp_path, worker.address) as server:
        gateway = stub_of(server)
        worker.kill()
        for call in (
            lambda: embed(gateway, new_words("red"), new_words("blue")),
            lambda: gateway.Rank(pb.RankRequest(query=words("red"), candidates=[words("blue")])),
        ):
            code, _, _ = refusal(call)
            assert code == "UNAVAILABLE"


def test_a_deadline_is_kept_while_a_worker_is_stuck(
    start: Start, hold: Hold, tmp_path: Path
) -> None:
    with gateway_at(tmp_path, start(FAKE_HOLD=str(hold)).address) as server:
        for priority in (pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BULK):
            request = pb.EmbedRequest(contents=[words("red")])
            request.options.priority = priority
            code, reason, _ = refusal(lambda one=request: stub_of(server).Embed(one, timeout=1))
            assert (code, reason) == ("DEADLINE_EXCEEDED", "OUT_OF_TIME")
        hold.release()


def test_the_lengths_that_a_model_offers(start: Start, tmp_path: Path) -> None:
    worker = start(FAKE_SUPPORTED="4,8")
    with gateway_at(tmp_path, worker.address) as server:
        gateway = stub_of(server)
        model = gateway.GetModel(pb.GetModelRequest()).model
        assert list(model.supported_dimensions) == [4, 8, 16]
        for options in ({}, {"normalize": False}):
            for dimensions in model.supported_dimensions:
                own = embed(stub_of(worker), words("red"), dimensions=dimensions, **options)
                ours = embed(gateway, words("red"), dimensions=dimensions, **options)
                assert ours.results == own.results
                assert ours.results[0].vector.dimensions == dimensions
