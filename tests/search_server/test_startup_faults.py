"""A gateway that starts into a world that is not ready, or not willing: what its log says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import processes, secure
from tests.processes import metric
from tests.search_server.conftest import connect, error_info, text
from tests.search_server.embedders.test_faults import FAKE, caption, free_port, gateway_at, lite
from tests.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def fake_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Server]:
    with processes.running(tmp_path_factory.mktemp("w"), FAKE) as server:
        yield server


def why_not_serving(log: Path, words: str) -> dict[str, Any]:
    """Wait for the line that tells it, and return it."""
    for _ in range(200):
        for line in log.read_text().splitlines():
            if '"not serving"' in line and words in line:
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def status(address: str, service: str) -> int:
    with secure.channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=5
        )
        return int(answer.status)


class _Refusing(grpc.GenericRpcHandler):
    """Answers every call as Milvus 2.3.5 answers one with a wrong password."""

    def service(self, _: Any) -> Any:
        def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "auth check failure, please check username[root] and password are correct",
            )

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing_milvus() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.plaintext("with keys a gateway needs the secret of page tokens that this one lacks")
def test_a_wrong_milvus_password_is_said(
    tmp_path: Path, fake_worker: processes.Server, refusing_milvus: str
) -> None:
    at = gateway_at(tmp_path, fake_worker.address, milvus=refusing_milvus, serving=False)
    with at as server:
        line = why_not_serving(server.log, "password")
        assert line["reason"] == "STORE_UNAVAILABLE"
        assert "milvus_token" in line["why"]
        # Without a token nothing in the key of page tokens is secret.
        assert server.log.read_text().count("page tokens can be forged") == 1
        assert "page_token_secret" in server.log.read_text()
        with pytest.raises(grpc.RpcError) as caught:
            connect(server.address).hits("any", text("red"))
        assert error_info(caught.value) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "password" in caught.value.details()


def test_a_milvus_that_is_down_is_logged_once_and_kills_nobody(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    """NOT_SERVING for those who balance, but alive for those who restart."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    with gateway_at(tmp_path, fake_worker.address, milvus=nowhere, serving=False) as server:
        why_not_serving(server.log, "Milvus does not answer just now")
        time.sleep(1.5)  # three looks
        assert server.log.read_text().count('"not serving"') == 1
        assert status(server.address, "") != SERVING
        assert status(server.address, "liveness") == SERVING


def test_a_process_that_drains_is_alive(tmp_path: Path) -> None:
    with processes.running(tmp_path, FAKE, "--drain-pause-seconds", "2") as server:
        assert status(server.address, "liveness") == SERVING
        server.process.terminate()
        assert processes.wait_for_health(server.address, False, 2)
        assert status(server.address, "liveness") == SERVING
        assert server.process.wait(20) == 0


def test_no_worker_is_logged(tmp_path: Path) -> None:
    with gateway_at(tmp_path, f"127.0.0.1:{free_port()}", serving=False) as server:
        assert why_not_serving(server.log, "configured")["reason"] == "NO_HEALTHY_WORKER"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux's setpriv is not here")
def test_a_volume_without_write_permission_ends_the_start_with_one_line(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    """Not the first upsert: by then somebody believes that the system works."""
    volume = tmp_path / "volume"
    (volume / "drafts").mkdir(parents=True)  # of a run that was allowed to write
    (volume / "drafts").chmod(0o555)
    flags = processes.gateway_flags(volume.parent, lite(tmp_path), fake_worker.address)
    flags[flags.index("--object-store-uri") + 1] = str(volume)
    # Root may write anywhere: give that right up, too.
    bound = ["setpriv", "--bounding-set=-dac_override", "--"]
    if subprocess.run([*bound, "true"], check=False, capture_output=True).returncode:
        bound = []
    result = subprocess.run(
        [*bound, sys.executable, "-m", "search_server", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    complaint = next(line for line in lines if line.startswith("sentinel-gateway: "))
    assert f"{volume} cannot be opened: access is denied" in complaint
    assert "Traceback" not in result.stderr


def test_a_setting_that_is_wrong_ends_the_start_with_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "search_server", "--workers", "here"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("sentinel-gateway: workers: ")
    assert len(result.stderr.splitlines()) == 1


def test_failed_calls_are_counted_by_reason(tmp_path: Path, fake_worker: processes.Server) -> None:
    with gateway_at(tmp_path, fake_worker.address) as server:
        gateway = connect(server.address)
        gateway.upsert(gateway.create("a"), caption("red"))
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                gateway.hits("nope", text("red"))

        def errors(**labels: str) -> float:
            return metric(server.metrics_address, "sentinel_gateway_errors_total", **labels)

        until(lambda: errors(reason="COLLECTION_NOT_FOUND") == 2)  # counted after the answer
        assert errors() == 2
