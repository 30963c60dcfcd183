"""Measure texts and images per second: Sentinel, its limit, the original system, a peer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from benchmarks.embedder.context import CALLERS, Bench
from benchmarks.embedder.empty_calls import beside_empty_calls
from benchmarks.load.agents import Agent, agent
from benchmarks.peers.infinity import infinity
from benchmarks.report import Row, median, median_ratio, skipped
from benchmarks.servers import Server, bare, gpu_utilisation
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc

KINDS = ("text", "image")
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_GPU_BATCHES = (*_BATCHES, 128, 256)
_TARGETS: dict[str, dict[str, float]] = {
    "limit": {"text": 0.9, "image": 0.9},
    "original": {"text": 6, "image": 3},
    "infinity": {"text": 4, "image": 3},
}
_NAMES = {
    "limit": "limit: same runtime in-process",
    "beside": "limit beside as many empty gRPC calls",
    "original": "original: torch eager, one by one",
    "infinity": f"infinity, {CALLERS} callers",
    "infinity_32": "infinity, 2 callers, requests of 32",
    "sentinel": f"Sentinel, {CALLERS} callers",
    "sentinel_32": "Sentinel, 2 callers, requests of 32",
}


def model_of(server: Server) -> pb.Model:
    """Return a worker's description of its model."""
    with grpc.insecure_channel(server.address) as channel:
        return pb_grpc.EmbeddingServiceStub(channel).GetModel(pb.GetModelRequest()).model


@contextlib.contextmanager
def direct_model(bench: Bench, server: Server) -> Iterator[Agent]:
    """Load the worker's model in a separate process, on the runtime that the worker chose."""
    model = model_of(server)
    choice = bench.choice
    with agent("benchmarks.embedder.in_process") as direct:
        loaded = direct.call(
            "load",
            model=choice.model,
            device=choice.device,
            threads=choice.threads,
            runtime=choice.runtime,
        )
        bench.say(f"the worker runs {model.runtime} {model.dtype} {model.runtime_choice}")
        if (loaded["runtime"], loaded["dtype"]) != (model.runtime, model.dtype):
            raise SystemExit(f"the limit would run on {loaded}, which is not the worker's runtime")
        yield direct


def batch_sizes(bench: Bench) -> tuple[int, ...]:
    """Return the batch sizes to try on the device."""
    return _GPU_BATCHES if bench.choice.device.startswith("cuda") else _BATCHES


def sweep(bench: Bench, direct: Agent) -> dict[str, dict[str, Any]]:
    """Find the batch size, with or without overlap, at which the direct model is fastest."""
    best = {}
    batches = batch_sizes(bench)
    for kind in KINDS:
        rates = {}
        for batch in batches:
            for overlap in (False, True):
                settings = {"kind": kind, "batch": batch, "overlap": overlap}
                direct.call("throughput", seconds=0.0, **settings)
                answer = direct.call("throughput", seconds=bench.plan.seconds / 4, **settings)
                rates[batch, overlap] = answer["rate"]
        batch, overlap = max(rates, key=lambda key: rates[key])
        table = {f"{size}{' overlap' if over else ''}": r for (size, over), r in rates.items()}
        best[kind] = {"batch": batch, "overlap": overlap, "sweep": table}
        tried = ", ".join(f"{name}: {rate:.0f}" for name, rate in table.items())
        bench.say(f"{kind}s/s in-process by batch size: {tried}")
    return best


def throughput(bench: Bench, server: Server, direct: Agent) -> list[Row]:
    """Run the systems in turns; compare them within each round."""
    best = sweep(bench, direct)
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(bare(bench.scratch, "embedder.empty_calls"))
        rates: dict[str, float] = {}

        def sentinel(kind: str) -> dict[str, Any]:
            answer = through_worker(bench, server, kind, CALLERS, 1)
            rates[kind] = answer["rate"]
            return answer

        systems: dict[str, Callable[[str], dict[str, Any]]] = {
            "limit": lambda kind: direct.call(
                "throughput",
                kind=kind,
                batch=best[kind]["batch"],
                overlap=best[kind]["overlap"],
                seconds=bench.plan.seconds,
            ),
            "sentinel": sentinel,
            "beside": lambda kind: beside_empty_calls(
                bench,
                direct,
                echo,
                kind,
                calls_per_second=rates[kind],
                batch=best[kind]["batch"],
                overlap=best[kind]["overlap"],
            ),
            "sentinel_32": lambda kind: through_worker(bench, server, kind, 2, 32),
        }
        skip_reasons = _add_original(bench, stack, systems) | _add_infinity(bench, stack, systems)
        answers = _rounds(bench, systems)
    stages = {
        kind: {
            stage: direct.call(
                stage, kind=kind, batch=best[kind]["batch"], seconds=bench.plan.seconds / 2
            )["rate"]
            for stage in ("tower", "prepare")
        }
        for kind in KINDS
    }
    return [
        *(row for kind in KINDS for row in _rates(kind, answers, best[kind], stages[kind])),
        *_ratios(answers, skip_reasons),
    ]


def through_worker(
    bench: Bench, server: Server, kind: str, callers: int, per_request: int
) -> dict[str, Any]:
    """Run a closed loop of calls to the worker for one turn."""
    before = server.cpu_seconds()
    with gpu_utilisation(bench.choice.device) as gpu:
        answer = bench.closed(
            server,
            "sentinel",
            kind,
            callers=callers,
            per_request=per_request,
            seconds=bench.plan.seconds,
        )
    answer["worker_cpu_seconds"] = server.cpu_seconds() - before
    if gpu:
        answer["gpu_percent"] = median(gpu)
    return answer


def _add_original(
    bench: Bench, stack: contextlib.ExitStack, systems: dict[str, Any]
) -> dict[str, str]:
    if bench.choice.folder is None:
        return {"original": "not a transformers model"}
    original = stack.enter_context(agent("benchmarks.peers.original"))
    original.call("load", folder=str(bench.choice.folder), device=bench.choice.device)
    systems["original"] = lambda kind: original.call(
        "throughput", kind=kind, seconds=bench.plan.seconds
    )
    return {}


def _add_infinity(
    bench: Bench, stack: contextlib.ExitStack, systems: dict[str, Any]
) -> dict[str, str]:
    folder, venv = bench.choice.folder, bench.choice.infinity_venv
    if folder is None:
        return {"infinity": "not a transformers model"}
    if not (venv / "bin/infinity_emb").exists():
        return {"infinity": f"not installed in {venv}, see docs/benchmarks-method.md"}
    bench.say("starting infinity")
    peer = stack.enter_context(infinity(bench.scratch, venv, folder, bench.choice.device))

    def call(kind: str, callers: int, per_request: int) -> dict[str, Any]:
        seconds = bench.plan.seconds
        return bench.closed(
            peer, "infinity", kind, callers=callers, per_request=per_request, seconds=seconds
        )

    systems["infinity"] = lambda kind: call(kind, CALLERS, 1)
    systems["infinity_32"] = lambda kind: call(kind, 2, 32)
    return {}


def _rounds(
    bench: Bench, systems: dict[str, Callable[[str], dict[str, Any]]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the answers of each system and kind by round, without the first round."""
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {kind: [] for kind in KINDS} for name in systems
    }
    for number in range(bench.plan.rounds + 1):
        for kind in KINDS:
            for name, measure in systems.items():
                answer = measure(kind)
                answer.pop("latencies_ms", None)
                if answer.get("failed") or answer.get("item_errors"):
                    raise SystemExit(f"{_NAMES[name]}: {kind} failed: {answer}")
                answers[name][kind].append(answer)
        bench.say(f"throughput: round {number} of {bench.plan.rounds}" if number else "warm")
    return {
        name: {kind: every[1:] for kind, every in kinds.items()} for name, kinds in answers.items()
    }


def _rates(
    kind: str,
    answers: dict[str, dict[str, list[dict[str, Any]]]],
    best: dict[str, Any],
    stages: dict[str, float],
) -> list[Row]:
    rows = []
    for name, label in _NAMES.items():
        if name in answers:
            rounds = answers[name][kind]
            detail = {"rounds": rounds, **(best if name == "limit" else {})}
            note = _cpu_note(rounds)
            if name == "limit":
                note = f"best batch {best['batch']}{', overlapping' if best['overlap'] else ''}"
            if name == "beside":
                limits = [answer["rate"] for answer in answers["limit"][kind]]
                share = median_ratio([answer["rate"] for answer in rounds], limits)
                calls = median([answer["offered"] for answer in rounds])
                note = f"{share:.2f} of it beside {calls:.0f} calls/s: the floor of the ratio"
            rate = median([answer["rate"] for answer in rounds])
            rows.append(Row(f"{kind}: {label}", rate, "items/s", note=note, detail=detail))
    prepare = "tokenizing" if kind == "text" else "decoding and preprocessing"
    rows.append(Row(f"{kind}: tower alone", stages["tower"], "items/s"))
    rows.append(Row(f"{kind}: {prepare} alone", stages["prepare"], "items/s"))
    return rows


def _cpu_note(rounds: list[dict[str, Any]]) -> str:
    if "worker_cpu_seconds" not in rounds[0]:
        return ""
    client = median([answer["cpu_seconds"] / answer["seconds"] for answer in rounds])
    server = median([answer["worker_cpu_seconds"] / answer["seconds"] for answer in rounds])
    return f"cores busy: worker {server:.2f}, client {client:.2f}{gpu_note(rounds)}"


def gpu_note(rounds: list[dict[str, Any]]) -> str:
    """Return the GPU's utilisation in turns of `through_worker`; empty without a GPU."""
    if "gpu_percent" not in rounds[0]:
        return ""
    return f"; GPU {median([answer['gpu_percent'] for answer in rounds]):.0f} %"


def _ratios(
    answers: dict[str, dict[str, list[dict[str, Any]]]], skip_reasons: dict[str, str]
) -> list[Row]:
    rows = []
    for other, targets in _TARGETS.items():
        for kind, target in targets.items():
            name = f"{kind}: Sentinel, {CALLERS} callers ÷ {_NAMES[other].partition(':')[0]}"
            if other in skip_reasons:
                rows.append(skipped(name, skip_reasons[other]))
                continue
            above, below = ([a["rate"] for a in answers[s][kind]] for s in ("sentinel", other))
            ratios = [a / b for a, b in zip(above, below, strict=True)]
            best = max(above) / max(below)
            note = f"rounds {min(ratios):.2f} to {max(ratios):.2f}; best ÷ best {best:.2f}"
            value = median_ratio(above, below)
            detail = {"ratios": ratios}
            rows.append(Row(name, value, "x", at_least=target, note=note, detail=detail))
    return rows
