"""The context of a run: its size, the systems' settings, and calls to the load generator."""

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
    """The size of a run.

    Attributes:
        rounds: Turns of each system that count.
        seconds: Length of a turn.
        lone_calls: Single texts of each kind of call.
        priority_seconds: Length of a turn, with and without bulk load.
        overload_seconds: Length of a turn of overload, after the queue is full.
        memory_requests: Numbers of requests after which memory is read.
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
    """The model and its settings.

    Attributes:
        model: As of a worker's `--model`.
        folder: The model in transformers' format; None if it is another one.
        runtime: As of a worker's `--runtime`.
        flags: Further flags of every worker of this model.
        threads: CPU threads of a forward pass; 0: all cores.
        device: Device of a forward pass.
        infinity_venv: Virtual environment of infinity; may not exist.
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
    """A run: its settings and its load generator."""

    plan: Plan
    choice: Choice
    scratch: Path
    load: Agent
    console: Console

    def say(self, text: str) -> None:
        """Print the progress of the run."""
        self.console.print(f"[dim]{text}[/]")

    @contextlib.contextmanager
    def worker(self, *flags: str, model: str | None = None) -> Iterator[Server]:
        """Run a worker with the model under test, or with another one."""
        choice = self.choice
        flags = (*flags, "--threads", str(choice.threads), "--device", choice.device)
        if model is None:
            flags = ("--model", choice.model, "--runtime", choice.runtime, *choice.flags, *flags)
        else:  # the other flags may not fit
            flags = ("--model", model, *flags)
        with worker(self.scratch, *flags) as server:
            yield server

    def closed(self, server: Server, kind: str, content: str, **arguments: Any) -> dict[str, Any]:
        """Run a closed loop of calls to a server."""
        return self._call("closed", server, kind, content, **arguments)

    def lone(self, server: Server, kind: str, content: str, *, calls: int) -> dict[str, Any]:
        """Send one request after the other with gRPC's blocking stub."""
        return self._call("lone", server, kind, content, calls=calls)

    def open(
        self, server: Server, kind: str, content: str, *, rate: float, **arguments: Any
    ) -> dict[str, Any]:
        """Run an open loop of calls to a server, at `rate` or the load generator's maximum."""
        return self._call("open", server, kind, content, rate=min(MAX_RATE, rate), **arguments)

    def _call(
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
