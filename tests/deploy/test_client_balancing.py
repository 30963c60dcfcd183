"""The service configs that our documents give to other clients do what they say."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2, embedding_service_pb2_grpc
from tests import processes
from tests.deploy import files
from tests.processes import metric
from tests.search_server.embedders.test_faults import FAKE, free_port
from tests.waiting import until

HOSTS = ("127.0.0.1", "127.0.0.2")


def service_config() -> str:
    text = (files.DEPLOY / "README.md").read_text()
    found = re.search(r'`(\{"loadBalancingConfig.*\})`', text)
    assert found
    json.loads(found[1])
    return found[1]


def calls(server: processes.Server) -> float:
    return metric(server.metrics_address, "sentinel_embedder_request_duration_seconds_count")


def test_calls_go_to_every_replica_and_to_none_that_drains(tmp_path: Path) -> None:
    port = str(free_port())
    flags = ("--port", port, "--drain-pause-seconds", "20")
    with (
        processes.running(tmp_path / "a", FAKE, "--host", HOSTS[0], *flags) as one,
        processes.running(tmp_path / "b", FAKE, "--host", HOSTS[1], *flags) as two,
        grpc.insecure_channel(
            f"ipv4:{HOSTS[0]}:{port},{HOSTS[1]}:{port}",
            options=[("grpc.service_config", service_config())],
        ) as channel,
    ):
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)

        def ask(times: int) -> None:
            for _ in range(times):
                stub.GetModel(
                    embedding_service_pb2.GetModelRequest(), timeout=10, wait_for_ready=True
                )

        before = calls(one), calls(two)

        def both_answer() -> bool:
            ask(2)
            return calls(one) > before[0] and calls(two) > before[1]

        until(both_answer)
        before = calls(one), calls(two)
        ask(40)
        assert min(calls(one) - before[0], calls(two) - before[1]) >= 15
        one.process.terminate()
        assert processes.wait_for_health(one.address, False, 15)

        def spared() -> bool:
            before = calls(one), calls(two)
            ask(40)
            return (calls(one) - before[0], calls(two) - before[1]) == (0, 40)

        until(spared)  # the watch of the channel hears of it when it does
        assert one.process.poll() is None
        for server in (one, two):
            server.kill()  # it would drain for as long


def weighted() -> str:
    """The service config of docs/operations.md, with weights from the beginning on."""
    text = (files.DEPLOY.parent / "docs" / "operations.md").read_text()
    found = re.search(r'^\{"loadBalancingConfig.*weighted.*\}$', text, re.MULTILINE)
    assert found
    config = json.loads(found[0])
    times = {"blackoutPeriod": "0.1s", "weightUpdatePeriod": "0.1s"}
    config["loadBalancingConfig"][0]["weighted_round_robin"] |= times
    return json.dumps(config)


@pytest.mark.slow  # two workers, and seconds until weights settle
def test_of_two_unequal_workers_the_faster_one_gets_more_calls(tmp_path: Path) -> None:
    port = str(free_port())

    def worker(host: str, seconds: str) -> AbstractContextManager[processes.Server]:
        return processes.running(
            tmp_path / host,
            FAKE,
            *("--host", host, "--port", port),
            environment={"FAKE_SECONDS_PER_BATCH": seconds},
        )

    with (
        worker(HOSTS[0], "0.02") as fast,
        worker(HOSTS[1], "0.2") as slow,
        grpc.insecure_channel(
            f"ipv4:{HOSTS[0]}:{port},{HOSTS[1]}:{port}",
            options=[("grpc.service_config", weighted())],
        ) as channel,
        ThreadPoolExecutor(8) as threads,
    ):
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_service_pb2.EmbedRequest(contents=[content_pb2.Content(text="red")])

        def ask(times: int) -> None:
            for _ in range(times):
                stub.Embed(request, timeout=20, wait_for_ready=True)

        def at_once(times: int) -> tuple[float, float]:
            before = calls(fast), calls(slow)
            list(threads.map(ask, [times] * 8))
            return calls(fast) - before[0], calls(slow) - before[1]

        def is_in_proportion() -> bool:
            to_fast, to_slow = at_once(4)
            return to_fast > 2 * to_slow > 0

        until(is_in_proportion, 60)
