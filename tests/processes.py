"""Start our servers as separate processes on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests import secure, shared

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


class Process:
    """A process that the launcher has started, with the methods of `subprocess.Popen`.

    Thread-safe.
    """

    def __init__(self, launcher: str, request: Mapping[str, object]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(launcher)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        digits = b""
        while not digits.endswith(b"\n"):
            read = self._socket.recv(1)
            assert read, "the launcher has died"
            digits += read
        self.pid = int(digits)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            return None
        # Only looked at, so that the next call and other threads find it, too.
        code = self._socket.recv(16, socket.MSG_PEEK)
        return int(code) if code else -signal.SIGKILL


@dataclass(slots=True)
class Server:
    """One running process."""

    process: Process | subprocess.Popen[bytes]
    address: str
    metrics_address: str
    log: Path

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator would; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_TIMEOUT_S)


def start(
    folder: Path,
    module: str,
    *flags: str,
    serving: bool = True,
    environment: Mapping[str, str] | None = None,
    constants: Mapping[str, float] | None = None,
    forked: bool = True,
) -> Server:
    """Start `module` with `flags`; wait until it listens, or until it is SERVING.

    Args:
        folder: For the file with its address, and for its log.
        module: As for `python -m`.
        flags: Of the module; without a port it picks a free one. Those of the secure mode come
            by themselves.
        serving: Wait until it is SERVING.
        environment: Variables besides those of this process.
        constants: New values for constants of its modules by their full names, for example for the
            age of a cache.
        forked: False: with a command line of its own, as `python -m` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address_file, log = folder / f"{module}.address", folder / f"{module}.log"
    address_file.unlink(missing_ok=True)
    arguments = ["--address-file", str(address_file), *flags, *secure.flags(module, flags)]
    if not any(flag.startswith("--port") for flag in flags):
        arguments += ["--port", "0"]
    variables = {**os.environ, **secure.variables(module), **(environment or {})}
    process: Process | subprocess.Popen[bytes]
    if forked and shared.VARIABLE in os.environ:
        process = _forked(module, arguments, variables, log, constants or {})
    else:
        assert not constants
        process = _launched(module, arguments, variables, log)
    end = time.monotonic() + _START_TIMEOUT_S
    while not address_file.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"{module} did not start: {log.read_text()[-3000:]}")
        time.sleep(0.02)
    address, metrics_address = address_file.read_text().split()
    server = Server(process, address, metrics_address, log)
    if serving and not wait_for_health(address, True, _START_TIMEOUT_S):
        server.kill()
        raise RuntimeError(f"{module} is not SERVING: {log.read_text()[-3000:]}")
    return server


def _forked(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    log: Path,
    constants: Mapping[str, float],
) -> Process:
    """Become `module` in a fork of the launcher, which costs a tenth of a start."""
    request = {
        "module": module,
        "flags": arguments,
        "environment": environment,
        "log": str(log),
        "constants": dict(constants),
    }
    return Process(shared.once("launcher", _start_launcher), request)


def _launched(
    module: str, arguments: list[str], environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start `python -m module`."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def _start_launcher(folder: Path) -> str:
    """Start the launcher of this run; return the path of its socket."""
    path = folder / "socket"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher", path], stdout=log, stderr=log
        )
    end = time.monotonic() + _START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no launcher: {(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.02)
    return str(path)


@contextmanager
def running(
    folder: Path,
    module: str,
    *flags: str,
    serving: bool = True,
    environment: Mapping[str, str] | None = None,
    constants: Mapping[str, float] | None = None,
    forked: bool = True,
) -> Iterator[Server]:
    """Run a server for the length of a block; for the arguments see `start`."""
    server = start(
        folder,
        module,
        *flags,
        serving=serving,
        environment=environment,
        constants=constants,
        forked=forked,
    )
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def gateway_flags(
    folder: Path, milvus_uri: str, *workers: str, match_levels: bool = False
) -> list[str]:
    """Return the flags of a gateway that keeps its images under `folder`.

    By default without match levels, which come whenever the gateway has time for them.
    """
    return [
        "--match-levels" if match_levels else "--no-match-levels",
        "--milvus-uri", milvus_uri,
        "--object-store-uri", str(folder / "objects"),
        "--workers", ",".join(workers),
    ]  # fmt: skip


def is_serving(address: str) -> bool:
    """Ask a server for its overall health."""
    with secure.channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def metric(address: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(secure.read_metrics(address))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def in_flight(gateway: Server) -> float:
    """Return how many calls a gateway is at."""
    return metric(gateway.metrics_address, "sentinel_gateway_requests_in_flight")


def wait_for_health(address: str, serving: bool, timeout_s: float) -> bool:
    """Wait until a server's health is `serving`; return whether it came to that."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if is_serving(address) == serving:
            return True
        time.sleep(0.05)
    return False


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
