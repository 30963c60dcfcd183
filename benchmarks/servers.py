"""Start, watch and stop the servers under test. They listen on loopback addresses only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_START_TIMEOUT_S = 300.0
_POLL_S = 0.01


class Server:
    """A server process, with its address, memory and CPU time."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.address = ""
        self.start_seconds = 0.0
        self._log = log
        self._started = time.perf_counter()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True; record the time since the start of the process."""
        while not ready():
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")
            if time.perf_counter() - self._started > _START_TIMEOUT_S:
                sys.exit(f"{self.name} took over {_START_TIMEOUT_S:.0f} s: {self.log_tail()}")
            time.sleep(_POLL_S)
        self.start_seconds = time.perf_counter() - self._started

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def memory_bytes(self) -> int:
        """Return the memory of the process and its children; what they share counts once."""
        total = 0
        for pid in _with_children(self.process.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process and its children have used; Linux only."""
        ticks = 0
        for pid in _with_children(self.process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Terminate the process; kill it after 30 s."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _with_children(pid: int) -> Iterator[int]:
    """Yield a process, its children and theirs."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _with_children(int(child))


def spawn(
    folder: Path, name: str, command: Sequence[str], extra: dict[str, str] | None = None
) -> Server:
    """Start a process in `folder`, with its log there.

    It does not get the caller's SENTINEL_ variables or `.env`, which would change the measurement.
    """
    environment = {key: value for key, value in os.environ.items() if "SENTINEL_" not in key}
    path = folder / f"{name}.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**environment, **(extra or {})}
        )
    return Server(name, process, path)


def sentinel(folder: Path, module: str, *flags: str) -> Server:
    """Start a Sentinel server on a free port and wait until the port is open."""
    address_file = folder / f"{module}.addr"
    address_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, "--port", "0", "--address-file", str(address_file)]
    server = spawn(folder, module, [*command, *flags])
    try:
        server.wait_until(lambda: address_file.exists() and bool(address_file.read_text().split()))
    except BaseException:
        server.stop()
        raise
    server.address = address_file.read_text().split()[0]
    return server


@contextmanager
def bare(folder: Path, name: str, *arguments: str) -> Iterator[Server]:
    """Run a minimal server of this package, such as `embedder.empty_calls`."""
    address_file = folder / f"{name}.addr"
    address_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", str(address_file), *arguments]
    server = spawn(folder, name, command, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        server.wait_until(address_file.exists)
        server.address = address_file.read_text().strip()
        yield server
    finally:
        server.stop()


def write_address(address_file: Path, port: int) -> None:
    """Write the address of a minimal server for `bare`, which waits for the file."""
    partial = address_file.with_suffix(".tmp")
    partial.write_text(f"127.0.0.1:{port}\n")
    partial.replace(address_file)


@contextmanager
def worker(folder: Path, *flags: str) -> Iterator[Server]:
    """Run a worker; yield it when it is SERVING, with the time that took in `start_seconds`."""
    server = sentinel(folder, "embedder_server", *flags)
    try:
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            server.wait_until(lambda: is_serving(health))
        yield server
    finally:
        server.stop()


def is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    """Ask a server for its health."""
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def gpu_utilisation(device: str) -> Iterator[list[int]]:
    """Sample the utilisation of a GPU in percent, five times a second; empty without a GPU."""
    samples: list[int] = []
    if not device.startswith("cuda") or shutil.which("nvidia-smi") is None:
        yield samples
        return
    command = ["nvidia-smi", "-i", device.partition(":")[2] or "0", "-lms", "200"]
    command += ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield samples
    finally:
        process.terminate()
        output, _ = process.communicate()
        samples.extend(int(line) for line in output.split() if line.isdigit())
