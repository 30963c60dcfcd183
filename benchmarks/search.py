"""Compare the gateway with the model and Milvus called directly: search and ingest.

    python -m benchmarks.search [--quick] [--only SECTION ...] [--json FILE]

What it measures, what it does not, and how to read it: docs/benchmarks-method.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import random_clip, report
from benchmarks.gateway import access_cost, ingest_overhead, search_overhead
from benchmarks.gateway.embedded_defaults import embedded
from benchmarks.gateway.overload import Crowd, overload
from benchmarks.gateway.search_overhead import FilledStack
from benchmarks.load.agents import agent
from benchmarks.report import Row
from benchmarks.servers import Server, sentinel, worker
from sentinel_client import Item, SentinelClient
from tests import milvus_server

_HERE = Path(__file__).resolve().parent
SECTIONS = ("latency", "callers", "recall", "overload", "access", "ingest", "again", "embedded")
_SEARCH_SECTIONS = {"latency", "callers", "recall"}
# The size of the original system's collection: Flickr30k with 31,796 images.
_ROWS = 31_796
_CENTRES, _SPREAD = 100, 0.7


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rows: int
    queries: int
    rounds: int
    seconds: float
    pictures: int
    folder: int
    embedded_rows: tuple[int, ...]
    overload_seconds: float


FULL = Plan(_ROWS, 300, 5, 6.0, 256, 5_000, (1_000, 10_000, 30_000), 60.0)
QUICK = Plan(3_000, 40, 1, 2.0, 64, 200, (500,), 8.0)


def main() -> None:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = {"machine": report.machine(), "commit": report.commit()}
    path = arguments.json or _HERE / "results" / f"search-{facts['commit']}.json"
    started = time.monotonic()
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for name, measured in measure(plan, set(arguments.only), Path(scratch), arguments.cache):
            rows[name] = measured
            report.print_report({name: measured}, console)
            what = {"quick": arguments.quick, "plan": vars(plan)}
            report.write_json(path, rows, **facts, measured=what)
    console.print(f"{round(time.monotonic() - started)} s; written to {path}")
    missed = [row.name for section in rows.values() for row in section if row.met is False]
    if arguments.strict and missed:
        sys.exit(f"{len(missed)} targets not met")


def measure(
    plan: Plan, only: set[str], scratch: Path, cache: Path
) -> Iterator[tuple[str, list[Row]]]:
    """Measure the selected sections; yield the name and rows of each when it is done."""
    if only - {"embedded"}:
        with milvus_server.running(scratch / "milvus") as milvus:
            if only & _SEARCH_SECTIONS:
                yield from _search_sections(plan, only, scratch, cache, milvus)
            if "overload" in only:
                yield "overload", _overload_section(plan, scratch, milvus)
            if "access" in only:
                yield "access", _access_section(plan, scratch, milvus)
            if only & {"ingest", "again"}:
                yield from _ingest_sections(plan, only, scratch, cache, milvus)
    if "embedded" in only:
        yield (
            "embedded",
            [row for count in plan.embedded_rows for row in _embedded_section(count, plan)],
        )


def _search_sections(
    plan: Plan, only: set[str], scratch: Path, cache: Path, milvus: str
) -> Iterator[tuple[str, list[Row]]]:
    model = random_clip.cached("jina16", cache.resolve())
    with _servers(scratch, milvus, "--model", str(model)) as (embedder, gateway):
        vectors = _fill(gateway, "photos", plan.rows, 768)
        milvus_server.wait_for_indexes(milvus, "photos", timeout_s=600)
        filled = FilledStack(embedder, gateway, milvus, "photos", vectors, scratch)
        if "latency" in only:
            yield "latency", search_overhead.latency(filled, plan.queries)
        if "callers" in only:
            yield "callers", search_overhead.many_callers(filled, plan.rounds, plan.seconds)
        if "recall" in only:
            yield "recall", search_overhead.recall(filled, plan.queries)


def _overload_section(plan: Plan, scratch: Path, milvus: str) -> list[Row]:
    with _servers(scratch, milvus) as (embedder, gateway):
        _fill(gateway, "crowded", plan.rows, 384)
        milvus_server.wait_for_indexes(milvus, "crowded", timeout_s=600)
        crowd = Crowd(gateway, embedder.address, milvus, "crowded", scratch)
        return overload(crowd, seconds=plan.overload_seconds, turn=plan.seconds)


def _access_section(plan: Plan, scratch: Path, milvus: str) -> list[Row]:
    with _servers(scratch, milvus) as (_, gateway):
        _fill(gateway, "guarded", plan.rows, 384)
        milvus_server.wait_for_indexes(milvus, "guarded", timeout_s=600)
        with access_cost.secured(scratch / "secured", milvus, scratch / "objects") as secured:
            return access_cost.access(
                gateway,
                secured,
                "guarded",
                searches=plan.queries,
                rounds=plan.rounds,
                seconds=plan.seconds,
            )


def _ingest_sections(
    plan: Plan, only: set[str], scratch: Path, cache: Path, milvus: str
) -> Iterator[tuple[str, list[Row]]]:
    model = random_clip.cached("base32", cache.resolve())
    with (
        _servers(scratch, milvus, "--model", str(model)) as (embedder, gateway),
        agent("benchmarks.load.embed_generator") as load,
    ):
        if "ingest" in only:
            yield (
                "ingest",
                ingest_overhead.rates(
                    embedder,
                    gateway,
                    milvus,
                    load,
                    model,
                    rounds=plan.rounds,
                    pictures=plan.pictures,
                ),
            )
        if "again" in only:
            yield "again", ingest_overhead.twice(gateway, scratch, plan.folder)


def _embedded_section(rows: int, plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "milvus.db"
        with _servers(Path(folder), str(file)) as (_, gateway):
            _fill(gateway, "photos", rows, 384)
            time.sleep(2)  # Milvus Lite is flushed half a second after the last write
            return embedded(gateway, file, "photos", plan.queries // 3)


def _fill(gateway: str, name: str, rows: int, dimensions: int) -> np.ndarray:
    """Store random vectors around 100 centres; return them, L2-normalised."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(_CENTRES, dimensions))
    vectors = centres[rng.integers(_CENTRES, size=rows)] + _SPREAD * rng.normal(
        size=(rows, dimensions)
    )
    vectors = np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
    items = (Item(id=f"row{number}", vector=vector) for number, vector in enumerate(vectors))
    with SentinelClient(gateway) as client:
        client.create_collection(name)
        stored = sum(ack.stored_count for ack in client.ingest(items, collection=name))
    if stored != rows:
        raise SystemExit(f"{stored} of {rows} rows were stored")
    return vectors


@contextlib.contextmanager
def _servers(folder: Path, milvus_uri: str, *flags: str) -> Iterator[tuple[Server, str]]:
    """Run a worker and a gateway; yield the worker and the gateway's address once both serve."""
    with worker(folder, *flags) as embedder:
        objects = ["--milvus-uri", milvus_uri, "--object-store-uri", f"{folder}/objects"]
        gateway = sentinel(folder, "search_server", "--workers", embedder.address, *objects)
        try:
            with SentinelClient(gateway.address) as client:
                gateway.wait_until(lambda: client.health().serving)
            yield embedder, gateway.address
        finally:
            gateway.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute or two, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure only these"
    )
    parser.add_argument("--cache", type=Path, default=_HERE / ".cache", help="for random weights")
    parser.add_argument("--scratch", type=Path, help="for data; default: the system's folder")
    parser.add_argument("--json", type=Path, help="where to write; default benchmarks/results/")
    parser.add_argument("--strict", action="store_true", help="fail if a target is not met")
    return parser.parse_args()


if __name__ == "__main__":
    main()
