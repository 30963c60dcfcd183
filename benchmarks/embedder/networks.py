"""Compare the networks alone in the worker's runtime and in plain torch, by batch size."""

from __future__ import annotations

from typing import Any

from benchmarks.embedder.context import CALLERS, Bench
from benchmarks.embedder.throughput import KINDS, batch_sizes, gpu_note, model_of, through_worker
from benchmarks.load.agents import Agent, agent
from benchmarks.report import Row, skipped
from benchmarks.servers import Server


def compare_networks(bench: Bench, server: Server, direct: Agent) -> list[Row]:
    """Call both with prepared items, in turns, at every batch size, in the worker's precision."""
    if bench.choice.folder is None:
        return [skipped("tower ÷ raw torch call", "not a transformers model")]
    dtype = model_of(server).dtype
    if dtype == "int8":  # torch has no int8 networks of these models
        dtype = "float32"
    rows = []
    with agent("benchmarks.peers.original") as raw:
        raw.call("load", folder=str(bench.choice.folder), device=bench.choice.device, dtype=dtype)
        for kind in KINDS:
            ours, torchs = {}, {}
            for batch in batch_sizes(bench):
                settings = {"kind": kind, "batch": batch, "seconds": bench.plan.seconds / 4}
                ours[batch] = direct.call("tower", **settings)["rate"]
                torchs[batch] = raw.call("tower", **settings)["rate"]
            sentinel = through_worker(bench, server, kind, CALLERS, 1)
            sentinel.pop("latencies_ms", None)
            rows += _rows(kind, ours, torchs, sentinel, dtype)
            bench.say(f"towers: {kind}s done")
    return rows


def _rows(
    kind: str,
    ours: dict[int, float],
    torchs: dict[int, float],
    sentinel: dict[str, Any],
    dtype: str,
) -> list[Row]:
    ratios = {batch: ours[batch] / torchs[batch] for batch in ours}
    most = max(torchs, key=lambda batch: torchs[batch])
    best = max(ours, key=lambda batch: ours[batch])
    return [
        Row(
            f"{kind}: tower alone", ours[best], "items/s", note=_by_batch(ours, ".0f"),
            detail={"best_batch": best, "by_batch": ours},
        ),
        Row(
            f"{kind}: raw torch call, {dtype}", torchs[most], "items/s",
            note=_by_batch(torchs, ".0f"), detail={"best_batch": most, "by_batch": torchs},
        ),
        Row(
            f"{kind}: tower ÷ raw torch call, best of each", ours[best] / torchs[most], "x",
            note=_by_batch(ratios, ".2f"), detail={"by_batch": ratios},
        ),
        Row(
            f"{kind}: Sentinel, {CALLERS} callers ÷ raw torch call at its best",
            sentinel["rate"] / torchs[most], "x", detail=sentinel,
            note="tokens or JPEGs and gRPC included, against prepared items in memory"
            + gpu_note([sentinel]),
        ),
    ]  # fmt: skip


def _by_batch(values: dict[int, float], form: str) -> str:
    return "by batch size " + ", ".join(f"{batch}: {v:{form}}" for batch, v in values.items())
