"""Measure a second `sentinel index` of a folder in which nothing changed.

    python -m benchmarks.gateway.second_index [--files 50000] [--runs 3] [--folder FOLDER]

Writes JPEGs of 64 x 48 pixels into folders of 500, indexes them by reference on Milvus Lite, and
runs `sentinel index` again. It prints the seconds of each run (goal: 5 s for 50,000 files) and the
most memory that one used. Then it stops the gateway and reads the same rows by their ids with
pymilvus: the least that asking Milvus Lite costs. Nothing is embedded in a second run, so the
worker of the first one has a fake model, with vectors as long as the built-in model's. Linux only.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from PIL import Image
from pymilvus import DataType, MilvusClient

from tests import processes

_GOAL_S = 5.0
_PER_FOLDER = 500
_COLLECTION = "photos"
_IDS_PER_QUERY = 1_000
_MODEL = {"FAKE_DIMENSIONS": "384"}
_VECTORS = {DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.SPARSE_FLOAT_VECTOR}


@click.command()
@click.option("--files", default=50_000, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Of the second index.")
@click.option("--folder", type=click.Path(path_type=Path), help="For all data. Default: temporary.")
def main(files: int, runs: int, folder: Path | None) -> None:
    """Index a folder, then again without a change; print the seconds, the memory and the floor."""
    with ExitStack() as stack:
        base = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.mkdir(parents=True, exist_ok=True)
        _write(base / "pictures", files)
        milvus = str(base / "milvus.db")
        with ExitStack() as servers:
            model = processes.running(base / "worker", "tests.fakes.worker", environment=_MODEL)
            worker = servers.enter_context(model)
            flags = processes.gateway_flags(base, milvus, worker.address)
            flags += ["--reference-places", f"file://{base}/pictures/"]
            gateway = servers.enter_context(processes.running(base, "search_server", *flags))
            first, _, summary = _index(gateway.address, base)
            click.echo(f"first index of {files:,} files: {first:.0f} s; {json.dumps(summary)}")
            times = list(_again(gateway.address, base, files, runs))
        floor = _read_rows(milvus, files)
    each = ", ".join(f"{one:.2f}" for one in times)
    goal = f" (goal {_GOAL_S:g} s)" if files == 50_000 else ""
    click.echo(f"second index{goal}: {each} s; median {statistics.median(times):.2f} s")
    click.echo(f"the same rows by pymilvus alone, in one process: {floor:.2f} s")


def _write(folder: Path, files: int) -> None:
    """Write different pictures; what a camera would write differs in size, which nobody reads."""
    generator = np.random.default_rng(1)
    for number in range(files):
        path = folder / f"{number // _PER_FOLDER:04d}" / f"picture-{number:06d}.jpg"
        if number % _PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize((64, 48)).save(out, "JPEG")
        path.write_bytes(out.getvalue())
    time.sleep(3)  # `index` reads a file again if it is younger than two seconds


def _again(address: str, base: Path, files: int, runs: int) -> Iterator[float]:
    """Index again and again; yield the seconds of each run."""
    for _ in range(runs):
        seconds, megabytes, summary = _index(address, base)
        if summary["unchanged"] != files:
            raise click.ClickException(f"not all are unchanged: {json.dumps(summary)}")
        click.echo(f"second index: {seconds:.2f} s, at most {megabytes:.0f} MB of memory")
        yield seconds


def _index(address: str, base: Path) -> tuple[float, float, dict[str, object]]:
    """Run `sentinel index`; return its seconds, its most memory in MB, and its summary."""
    command = [sys.executable, "-m", "sentinel_client.cli", "--address", address]
    command += ["index", str(base / "pictures"), "-c", _COLLECTION, "--by-reference", "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(base / "cache")}
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        while process.poll() is None:
            peak = _peak_megabytes(process.pid) or peak
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise click.ClickException(f"sentinel index ended with {process.returncode}")
    return seconds, peak, json.loads(output.splitlines()[-1])


def _peak_megabytes(pid: int) -> float:
    """Return the most memory that a process has used; 0 of one that has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) / 1000 for line in status.splitlines() if "VmHWM" in line)


def _read_rows(milvus: str, files: int) -> float:
    """Return the seconds in which pymilvus reads all rows by their ids, without the vectors."""
    client = MilvusClient(milvus)
    name = max(client.list_collections(), key=lambda one: _count(client, one))
    client.load_collection(name)
    fields = client.describe_collection(name)["fields"]
    columns = [one["name"] for one in fields if one["type"] not in _VECTORS]
    key = next(one["name"] for one in fields if one.get("is_primary"))
    rows = client.query_iterator(name, batch_size=_IDS_PER_QUERY, output_fields=[key])
    ids: list[str] = []
    while batch := rows.next():
        ids += [row[key] for row in batch]
    rows.close()
    if len(ids) != files:
        raise click.ClickException(f"{len(ids):,} rows of {files:,}")
    started = time.perf_counter()
    for start in range(0, files, _IDS_PER_QUERY):
        client.get(name, ids=ids[start : start + _IDS_PER_QUERY], output_fields=columns)
    seconds = time.perf_counter() - started
    client.close()
    return seconds


def _count(client: MilvusClient, name: str) -> int:
    return int(client.get_collection_stats(name)["row_count"])


if __name__ == "__main__":
    main()
