"""The process itself: started, asked, told to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests.embedder.pictures import encode, flat

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    processes = []

    def start(*flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "embedder_server", "--port", "0", *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def address_in(file: Path, process: subprocess.Popen[str]) -> str:
    end = time.monotonic() + 30
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
    return file.read_text().split()[0]


def test_serves_the_default_model_and_stops_on_sigterm(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "address"
    process = start("--address-file", str(file))
    with grpc.insecure_channel(address_in(file, process)) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        contents = [
            content_pb2.Content(text="a red square"),
            content_pb2.Content(image=content_pb2.Image(data=encode(flat(), "JPEG"))),
        ]
        end = time.monotonic() + 30
        while True:
            try:
                answer = stub.Embed(pb.EmbedRequest(contents=contents), timeout=10)
                break
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE  # loading
                assert time.monotonic() < end
                time.sleep(0.05)
        assert all(result.HasField("vector") for result in answer.results)
        model = stub.GetModel(pb.GetModelRequest()).model
        assert model.version.model == "conse-minilm-lite0"
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log
    assert '"message": "serving"' in log
    assert '"message": "stopped"' in log
    assert "Traceback" not in log


def test_sigterm_while_loading_stops_at_once(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "address"
    process = start("--address-file", str(file))
    address_in(file, process)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--model", "nonsense"], "unknown model 'nonsense'", id="unknown model"),
        pytest.param(["--device", "cuda:0"], "cuda:0", id="no such device"),
    ],
)
def test_a_model_that_cannot_be_served_is_one_line_and_exit_code_1(
    start: Start, flags: list[str], message: str
) -> None:
    process = start(*flags, "--log-style", "text")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    [line] = [line for line in log.splitlines() if "ERROR" in line]
    assert "cannot serve the model" in line
    assert message in line
    assert "Traceback" not in log


def test_a_taken_port_is_one_line_and_exit_code_1(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--port", str(port), "--log-style", "text")
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in log
    assert "Traceback" not in log


def until_serving(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    end = time.monotonic() + 30
    while health.Check(health_pb2.HealthCheckRequest()).status != 1:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sigterm_under_load_answers_everything_it_accepted(tmp_path: Path) -> None:
    file = tmp_path / "address"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.worker", "--port", "0", "--address-file", str(file)],
        env={**os.environ, "FAKE_SECONDS_PER_BATCH": "0.2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with grpc.insecure_channel(address_in(file, process)) as channel:
            stub = pb_grpc.EmbeddingServiceStub(channel)
            request = pb.EmbedRequest(contents=[content_pb2.Content(text="x")] * 8)
            until_serving(channel)
            calls = [stub.Embed.future(request, timeout=20) for _ in range(64)]
            calls[0].result()  # a batch later the others have arrived
            process.send_signal(signal.SIGTERM)
            codes = {call.code() for call in calls}
            # What was accepted is answered; what had not arrived yet is refused, never dropped.
            assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert sum(call.code() is grpc.StatusCode.OK for call in calls) > 8
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_cores_that_are_not_there_are_refused(start: Start) -> None:
    process = start("--cpus", "9999")
    assert process.wait(30) == 2
    assert process.stderr is not None
    assert "cpus" in process.stderr.read()
