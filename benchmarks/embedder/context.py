"""What every section of the embedder's benchmark works with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.load.agents import Agent, agent
from benchmarks.load.embed_generator import MAX_RATE
from benchmarks.servers import Server, worker

CALLERS = 32


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: How often the systems take turns.
        seconds: Length of a turn.
        lone_calls: Single texts, of each kind.
        priority_seconds: Length of a turn without and of one with bulk load.
        overload_seconds: Length of a turn of overload, once the queue is full.
        memory_requests: After how many requests memory is read.
        starts: Starts of each worker.
    """

    rounds: int
    seconds: float
    lone_calls: int
    priority_seconds: float
    overload_seconds: float
    memory_requests: tuple[int, int]
    starts: int


FULL = Plan(5, 4.0, 400, 12.0, 10.0, (2_000, 20_000), 5)
QUICK = Plan(2, 1.5, 60, 4.0, 3.0, (100, 500), 1)


@dataclass(frozen=True)
class Choice:
    """What is measured.

    Attributes:
        model: What a worker's `--model` takes.
        folder: The model in transformers' format; None: not a transformers model.
        runtime: What a worker's `--runtime` takes.
        flags: Further ones of every worker of this model.
        threads: CPU threads of a forward pass; 0: all cores.
        device: Device of a forward pass.
        infinity_venv: Where infinity is installed; may not exist.
    """

    model: str
    folder: Path | None
    runtime: str
    flags: tuple[str, ...]
    threads: int
    device: str
    infinity_venv: Path


@dataclass
class Bench:
    """One run."""

    plan: Plan
    choice: Choice
    scratch: Path
    load: Agent
    console: Console

    def say(self, text: str) -> None:
        """Tell how far the run is."""
        self.console.print(f"[dim]{text}[/]")

    @contextlib.contextmanager
    def worker(self, *flags: str, model: str | None = None) -> Iterator[Server]:
        """Run a worker of the model under test, or of another one."""
        choice = self.choice
        flags = (*flags, "--threads", str(choice.threads), "--device", choice.device)
        if model is None:
            flags = ("--model", choice.model, "--runtime", choice.runtime, *choice.flags, *flags)
        else:  # the other flags may not suit it
            flags = ("--model", model, *flags)
        with worker(self.scratch, *flags) as server:
            yield server

    def closed(self, server: Server, kind: str, content: str, **arguments: Any) -> dict[str, Any]:
        """Run a closed loop against a server."""
        return self._ask("closed", server, kind, content, **arguments)

    def lone(self, server: Server, kind: str, content: str, *, calls: int) -> dict[str, Any]:
        """Ask a server one request after the other, with gRPC's blocking stub."""
        return self._ask("lone", server, kind, content, calls=calls)

    def open(
        self, server: Server, kind: str, content: str, *, rate: float, **arguments: Any
    ) -> dict[str, Any]:
        """Run an open loop against a server, at what the load generator can make of `rate`."""
        return self._ask("open", server, kind, content, rate=min(MAX_RATE, rate), **arguments)

    def _ask(
        self, loop: str, server: Server, kind: str, content: str, **arguments: Any
    ) -> dict[str, Any]:
        requests = {"content": content, "per_request": arguments.pop("per_request", 1)}
        requests["priority"] = arguments.pop("priority", "interactive")
        return self.load.call(
            loop, kind=kind, address=server.address, requests=requests, **arguments
        )

    @contextlib.contextmanager
    def another_load(self) -> Iterator[Agent]:
        """Run a second load generator."""
        with agent("benchmarks.load.embed_generator") as extra:
            yield extra
