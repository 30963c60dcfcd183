"""The process itself: started, asked, told to stop."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests.embedder_server.calls import detail
from tests.embedder_server.pictures import encode, flat
from tests.processes import metric
from tests.waiting import until

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
    until(lambda: health.Check(health_pb2.HealthCheckRequest()).status == 1)


TEXTS = pb.EmbedRequest(contents=[content_pb2.Content(text="x")] * 8)
IMAGES = pb.EmbedRequest(
    contents=[content_pb2.Content(image=content_pb2.Image(data=encode(flat(), "PNG")))] * 4
)
OK = grpc.StatusCode.OK


def outcome(call: grpc.Call) -> str:
    """Wait for a call; return `ok`, or the reason that the worker gave: every refusal has one."""
    if call.code() is OK:
        return "ok"
    assert call.code() is grpc.StatusCode.UNAVAILABLE, call.details()
    trailers = {one.key: one.value for one in call.trailing_metadata()}
    assert "grpc-status-details-bin" in trailers, f"dropped: {call.details()}"
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    return str(detail(status.details, error_details_pb2.ErrorInfo).reason)


class StreamReader:
    """An EmbedStream with messages in work that its sender does not close."""

    MESSAGES = 20

    def __init__(self, stub: pb_grpc.EmbeddingServiceStub) -> None:
        self.answered: queue.Queue[int] = queue.Queue()
        self.sequences: set[int] = set()
        self._ended = threading.Event()
        self._call = stub.EmbedStream(self._messages(), timeout=30)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _messages(self) -> Iterator[pb.EmbedStreamRequest]:
        for number in range(self.MESSAGES):
            yield pb.EmbedStreamRequest(sequence=number, request=[TEXTS, IMAGES][number % 2])
        self._ended.wait(30)

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for answer in self._call:
                assert answer.HasField("response")
                self.sequences.add(answer.sequence)
                self.answered.put(answer.sequence)

    def end(self) -> str:
        """Wait for the worker to end the stream; return the reason it gave."""
        self._thread.join(20)
        self._ended.set()
        return outcome(self._call)


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
            until_serving(channel)
            metrics = file.read_text().split()[1]
            stream = StreamReader(stub)

            def in_work() -> float:
                """Return how many calls have arrived and are not answered, but for the stream."""
                return metric(metrics, "sentinel_embedder_requests_in_flight") - 1

            calls = [stub.Embed.future(one, timeout=20) for one in [TEXTS, IMAGES] * 24]
            stream.answered.get(timeout=20)
            until(lambda: sum(call.done() for call in calls) + in_work() >= len(calls))
            process.send_signal(signal.SIGTERM)
            # None is begun after the first refusal: the work in hand keeps the process alive as
            # long, so that whatever has no answer of the worker's was dropped.
            while not any(call.done() and call.code() is not OK for call in calls):
                calls.append(stub.Embed.future(TEXTS, timeout=20))
                time.sleep(0.02)
            outcomes = [outcome(call) for call in calls]
            assert set(outcomes) == {"ok", "DRAINING"}
            assert outcomes[:48] == ["ok"] * 48
            assert stream.end() == "DRAINING"
            assert stream.sequences == set(range(StreamReader.MESSAGES))
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_cores_that_are_not_there_are_refused(start: Start) -> None:
    process = start("--cpus", "9999")
    assert process.wait(30) == 2
    assert process.stderr is not None
    assert "cpus" in process.stderr.read()
