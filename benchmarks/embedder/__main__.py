"""Compare the embedder worker with its limit, the original system and a peer, in one run.

    python -m benchmarks.embedder [--quick] [--only SECTION ...] [--json FILE]

What it measures, what it does not, and how to read it: docs/benchmarks-method.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import random_clip, report
from benchmarks.embedder import decoding, latency, networks, stress, throughput
from benchmarks.embedder.context import FULL, QUICK, Bench, Choice
from benchmarks.load.agents import agent
from benchmarks.report import Row

_HERE = Path(__file__).resolve().parents[1]
_RANDOM = "random-clip"
SECTIONS = (
    "throughput",
    "towers",
    "latency",
    "priority",
    "overload",
    "memory",
    "starts",
    "decoding",
)


def main() -> None:
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = {"machine": report.machine(), "commit": report.commit()}
    if os.getloadavg()[0] > 0.5:
        console.print(f"[yellow]load average {os.getloadavg()[0]:.1f}: others use this machine[/]")
    started = time.monotonic()
    what = {"model": arguments.model, "size": arguments.size, "quick": arguments.quick}
    what |= {"device": arguments.device, "threads": arguments.threads}
    what |= {"runtime": arguments.runtime, "flags": arguments.flag}
    path = arguments.json or _HERE / "results" / f"embedder-{facts['commit']}.json"
    with tempfile.TemporaryDirectory() as scratch, agent("benchmarks.load.embed_generator") as load:
        plan = QUICK if arguments.quick else FULL
        bench = Bench(plan, _choice(arguments), Path(scratch), load, console)
        rows: dict[str, list[Row]] = {}
        for name, measured in measure(bench, arguments.only):
            rows[name] = measured
            # After each section, so that a later failure does not lose it.
            report.print_report({name: measured}, console)
            report.write_json(path, rows, **facts, measured=what, seconds=_since(started))
    console.print(f"{_since(started)} s; written to {path}")
    if arguments.quick:
        console.print("[yellow]--quick: enough to see that it works, too short for figures[/]")
    missed = [row.name for section in rows.values() for row in section if row.met is False]
    if arguments.strict and missed:
        sys.exit(f"{len(missed)} targets not met")


def measure(bench: Bench, only: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """Measure the selected sections; yield the name and rows of each when it is done."""
    if {"throughput", "towers", "latency", "priority"} & set(only):
        with bench.worker() as server:
            if {"throughput", "towers", "latency"} & set(only):
                with throughput.direct_model(bench, server) as direct:
                    if "throughput" in only:
                        yield "throughput", throughput.throughput(bench, server, direct)
                    if "towers" in only:
                        yield "towers", networks.compare_networks(bench, server, direct)
                    if "latency" in only:
                        yield "latency", latency.lone_text(bench, server, direct)
            if "priority" in only:
                yield "priority", latency.priority(bench, server)
    alone: dict[str, Callable[[Bench], list[Row]]] = {
        "overload": stress.overload,
        "memory": stress.memory,
        "starts": stress.starts,
        "decoding": decoding.decoding,
    }
    for name, section in alone.items():
        if name in only:
            yield name, section(bench)


def _since(started: float) -> int:
    return round(time.monotonic() - started)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure only these"
    )
    parser.add_argument(
        "--model", default=_RANDOM,
        help=f"as of a worker's --model; default {_RANDOM}: CLIP with random weights",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=random_clip.SHAPES, default="base32", help=f"of {_RANDOM}"
    )
    parser.add_argument("--device", default="cpu", help="for every system: cpu or cuda:N")
    parser.add_argument("--runtime", default="auto", help="of worker and limit; default auto")
    parser.add_argument("--threads", type=int, default=0, help="of a forward pass; 0: all cores")
    parser.add_argument(
        "--flag", action="append", default=[], metavar="=--NAME=VALUE",
        help="a further flag of the worker, for example --flag=--decode-processes=4",
    )  # fmt: skip
    parser.add_argument(
        "--infinity-venv", type=Path, default=_HERE / ".infinity-venv",
        help="where infinity-emb is installed; if it is not, it is skipped",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, default=_HERE / ".cache", help="for random weights")
    parser.add_argument("--json", type=Path, help="where to write; default benchmarks/results/")
    parser.add_argument("--strict", action="store_true", help="fail if a target is not met")
    return parser.parse_args()


def _choice(arguments: argparse.Namespace) -> Choice:
    model = arguments.model
    if model == _RANDOM:
        model = str(random_clip.cached(arguments.size, arguments.cache.resolve()))
    elif Path(model).is_dir():
        model = str(Path(model).resolve())  # workers run in another folder
    return Choice(
        model=model,
        folder=Path(model) if (Path(model) / "config.json").exists() else None,
        runtime=arguments.runtime,
        flags=tuple(arguments.flag),
        threads=arguments.threads,
        device=arguments.device,
        infinity_venv=arguments.infinity_venv.resolve(),
    )


if __name__ == "__main__":
    main()
