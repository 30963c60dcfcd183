"""What gRPC by itself takes from a model on the same cores.

The model is called directly in a process of its own while a server that computes nothing (`echo`)
answers as many of the worker's calls as wanted. What the model then still does is about what a
worker would reach that had no work of its own.
"""

from __future__ import annotations

from typing import Any

from benchmarks.agents import Agent
from benchmarks.bench import Bench
from benchmarks.servers import Server


def beside_empty_calls(
    bench: Bench,
    direct: Agent,
    echo: Server,
    kind: str,
    *,
    calls_per_second: float,
    per_request: int = 1,
    batch: int,
    overlap: bool = False,
) -> dict[str, Any]:
    """Run the model for a turn beside empty calls.

    Returns:
        What `direct` answers, and under `offered` the calls a second that were really made: the
        client may not keep up, and then the floor is too high.

    Args:
        bench: The run.
        direct: The model, loaded.
        echo: The server that computes nothing.
        kind: `text` or `image`, of the model's items and of the requests.
        calls_per_second: Rate of the open loop.
        per_request: Contents of each request.
        batch: Items of one forward pass.
        overlap: Whether the next batch is prepared meanwhile.
    """
    seconds = bench.plan.seconds
    direct.start("throughput", kind=kind, batch=batch, overlap=overlap, seconds=seconds)
    asked = bench.open(
        echo, "sentinel", kind, rate=calls_per_second, per_request=per_request, seconds=seconds
    )
    answer = direct.answer()
    if not asked["items"]:
        raise SystemExit(f"no empty call was answered: {asked['failed']}")
    return {**answer, "offered": asked["offered"]}
