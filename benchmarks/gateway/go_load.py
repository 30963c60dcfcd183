"""Search a gateway with 64 callers of the Go client, which itself needs little of the machine.

    python -m benchmarks.gateway.go_load [--seconds 60] [--rounds 1] [--beside FOLDER]

In turns: this gateway; that of another checkout, if one is given; and a server of grpc.aio that
answers with the same bytes and does nothing else, which is the floor. All queries are cached, on
Milvus Lite. Needs `python -m tests.clients.go_toolchain`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc
from rich.console import Console

from benchmarks.load import contents
from benchmarks.report import Row, commit, median, print_report
from benchmarks.servers import Server, bare, is_serving, spawn, worker
from sentinel.common.v1 import content_pb2 as common
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_client import Item, SentinelClient
from tests.clients import go_toolchain

_COLLECTION = "load"
_ROWS, _DIMENSIONS = 1_000, 384


def main() -> None:
    arguments = _arguments()
    toolchain = go_toolchain.find()
    if toolchain is None:
        sys.exit("first run python -m tests.clients.go_toolchain")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = folder / "load"
        subprocess.run(
            ["go", "build", "-o", program, "./cmd/load"],
            cwd=toolchain.checkout(folder),
            env=toolchain.environment(),
            check=True,
        )
        embedder = stack.enter_context(worker(folder))
        systems = {commit(): stack.enter_context(_gateway(folder / "here", embedder))}
        if arguments.beside:
            other = stack.enter_context(_gateway(folder / "there", embedder, arguments.beside))
            systems[arguments.beside.name] = other
        answer = folder / "answer"
        answer.write_bytes(_answer(next(iter(systems.values()))))
        floor = bare(folder, "gateway.canned_gateway", str(answer))
        systems["grpc.aio alone"] = stack.enter_context(floor)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
        for _ in range(arguments.rounds):
            for name, system in systems.items():
                turns[name].append(_turn(program, system, embedder, arguments))
    console = Console(width=None if sys.stdout.isatty() else 140)
    print_report({name: _rows(measured) for name, measured in turns.items()}, console)


@contextlib.contextmanager
def _gateway(folder: Path, embedder: Server, checkout: Path | None = None) -> Iterator[Server]:
    """Run a gateway on Milvus Lite with a filled collection, from this or another checkout."""
    folder.mkdir()
    address_file = folder / "address"
    code = [str(checkout / part) for part in ("", "protos/gen/python")] if checkout else sys.path
    server = spawn(
        folder,
        "search_server",
        [
            *(sys.executable, "-m", "search_server", "--port", "0"),
            *("--address-file", str(address_file), "--workers", embedder.address),
            *("--milvus-uri", str(folder / "milvus.db")),
            *("--object-store-uri", str(folder / "objects")),
        ],
        {"PYTHONPATH": ":".join(filter(None, code))},
    )
    try:
        server.wait_until(lambda: address_file.exists() and bool(address_file.read_text().split()))
        server.address = address_file.read_text().split()[0]
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            server.wait_until(lambda: is_serving(health))
        with SentinelClient(server.address) as client:
            client.create_collection(_COLLECTION)
            vectors = np.random.default_rng(1).normal(size=(_ROWS, _DIMENSIONS))
            items = (
                Item(id=str(number), vector=vector.astype(np.float32))
                for number, vector in enumerate(vectors)
            )
            for _ in client.ingest(items, collection=_COLLECTION):
                pass
        yield server
    finally:
        server.stop()


def _answer(gateway: Server) -> bytes:
    """Return what the gateway answers, as one message."""
    query = pb.Query(content=common.Content(text=contents.texts(1)[0]))
    request = pb.SearchRequest(params=pb.SearchParams(collection=_COLLECTION, query=query))
    with grpc.insecure_channel(gateway.address) as channel:
        (message,) = pb_grpc.SearchServiceStub(channel).Search(request, timeout=60)
    return bytes(message.SerializeToString())


def _turn(
    program: Path, system: Server, embedder: Server, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Load one system; return rate, latencies and the share of a core of each process."""
    before = system.cpu_seconds(), embedder.cpu_seconds()
    command = [str(program), "-addresses", system.address, "-collection", _COLLECTION]
    command += ["-callers", str(arguments.callers), "-for", f"{arguments.seconds}s"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    seconds = found["seconds"]
    return found | {
        "server": (system.cpu_seconds() - before[0]) / seconds,
        "worker": (embedder.cpu_seconds() - before[1]) / seconds,
        "go": found["cpu_seconds"] / seconds,
    }


def _rows(turns: list[dict[str, Any]]) -> list[Row]:
    def row(name: str, key: str, unit: str) -> Row:
        values = [turn[key] for turn in turns]
        return Row(name, median(values), unit, note=", ".join(f"{value:.4g}" for value in values))

    return [
        row("searches", "per_second", "/s"),
        row("p50", "p50_ms", "ms"),
        row("p99", "p99_ms", "ms"),
        row("failed", "failed", ""),
        row("CPU of the server", "server", "cores"),
        row("CPU of the worker", "worker", "cores"),
        row("CPU of Go", "go", "cores"),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="of each turn")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each system")
    parser.add_argument("--callers", type=int, default=64, help="searches at a time")
    parser.add_argument("--beside", type=Path, help="another checkout, whose gateway is compared")
    return parser.parse_args()


if __name__ == "__main__":
    main()
