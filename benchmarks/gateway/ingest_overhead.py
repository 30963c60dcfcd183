"""Compare ingest through the gateway with the worker's own bulk rate and the original system.

Every turn sends new images over one `ingest` stream of the Python client with its defaults. The
worker's own rate is the rate of bulk Embed requests, with nothing stored. The original system is
torch, eager, with one call and one Milvus insert for each image.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import contents
from benchmarks.load.agents import Agent, agent
from benchmarks.report import Row, median, median_ratio, skipped
from benchmarks.servers import Server
from search_server.settings import GatewaySettings
from sentinel_client import Item, SentinelClient

_BULK_CALLERS, _PER_REQUEST = 2, 32
_ORIGINAL_SECONDS = 10.0
_THUMBNAIL_SIDE: int = GatewaySettings.model_fields["thumbnail_side"].default
_NAMES = {
    "gateway": "stored through the gateway",
    "worker": f"embedded by the worker, {_BULK_CALLERS} callers, requests of {_PER_REQUEST}",
    "worker_thumbnails": "the same, with thumbnails",
    "original": "original: torch eager, one insert for each",
}


def rates(
    worker: Server,
    gateway: str,
    milvus: str,
    load: Agent,
    folder: Path | None,
    *,
    rounds: int,
    pictures: int,
) -> list[Row]:
    """Measure images per second of gateway, worker and original system, in turns.

    Args:
        worker: The gateway's worker.
        gateway: `host:port` of the gateway.
        milvus: URI of the gateway's Milvus.
        load: A load generator.
        folder: The model in transformers' format; None skips the original system.
        rounds: Turns that count.
        pictures: Number of images in a turn of the gateway.
    """
    fresh = iter(contents.jpegs(pictures * (rounds + 1), seed=21))
    measured: dict[str, list[float]] = {name: [] for name in _NAMES}
    with SentinelClient(gateway) as client, agent("benchmarks.peers.original") as original:
        client.create_collection("ingest")
        if folder is not None:
            original.call("load", folder=str(folder), device="cpu")
        for number in range(rounds + 1):
            seconds = _ingest(client, fresh, pictures)
            turns = {"gateway": pictures / seconds}
            for name, side in (("worker", 0), ("worker_thumbnails", _THUMBNAIL_SIDE)):
                requests = {"content": "image", "per_request": _PER_REQUEST, "priority": "bulk"}
                bulk = load.call(
                    "closed", kind="sentinel", address=worker.address, callers=_BULK_CALLERS,
                    requests={**requests, "thumbnail_side": side}, seconds=seconds,
                )  # fmt: skip
                turns[name] = bulk["rate"]
            if number:  # the first round warms up
                for name, rate in turns.items():
                    measured[name].append(rate)
            if folder is not None and number:
                answer = original.call("store", milvus_uri=milvus, seconds=_ORIGINAL_SECONDS)
                measured["original"].append(answer["rate"])
        client.delete_collection("ingest")
    return _rate_rows(measured, pictures)


def _ingest(client: SentinelClient, fresh: Iterator[bytes], pictures: int) -> float:
    items = [Item(image=next(fresh)) for _ in range(pictures)]
    start = time.perf_counter()
    acks = list(client.ingest(items, collection="ingest"))
    seconds = time.perf_counter() - start
    # A few of the images are equal, and count as unchanged.
    if (there := sum(ack.stored_count + ack.unchanged_count for ack in acks)) != pictures:
        raise SystemExit(f"{there} of {pictures} images were stored")
    return seconds


def _rate_rows(measured: dict[str, list[float]], pictures: int) -> list[Row]:
    rows = [
        Row(_NAMES[name], median(values), "images/s", note=f"turns of {pictures} stored")
        for name, values in measured.items()
        if values
    ]
    for other, called, least in (
        ("worker", "the worker's own bulk rate", 0.9),
        ("worker_thumbnails", "the same with thumbnails, as storing asks for them", None),
        ("original", "the original system's way", 5.0),
    ):
        name = f"ingest ÷ {called}"
        if not measured[other]:
            rows.append(skipped(name, "not a transformers model"))
            continue
        ratios = [a / b for a, b in zip(measured["gateway"], measured[other], strict=True)]
        note = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
        value = median_ratio(measured["gateway"], measured[other])
        rows.append(Row(name, value, "x", at_least=least, note=note, detail={"ratios": ratios}))
    return rows


def twice(gateway: str, scratch: Path, pictures: int) -> list[Row]:
    """Run `sentinel index` on a folder three times: new, again, and without its journal."""
    photos = scratch / "photos"
    photos.mkdir()
    files = contents.jpegs(pictures, seed=22)
    for number, data in enumerate(files):
        (photos / f"{number:05}.jpg").write_bytes(data)

    def index(home: str) -> float:
        # The journal is in the home folder. Use a new one instead of the caller's.
        environment = {name: value for name, value in os.environ.items() if "XDG_" not in name}
        environment["HOME"] = str(scratch / home)
        command = [sys.executable, "-m", "sentinel_client.cli", "--address", gateway]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "index", str(photos), "-c", "twice"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"sentinel index: {done.stdout[-500:]}{done.stderr[-500:]}")
        return time.perf_counter() - start

    first, second, elsewhere = index("one"), index("one"), index("two")
    with SentinelClient(gateway) as client:
        if (count := client.get_collection("twice").item_count) != len(set(files)):
            raise SystemExit(f"{count} of {len(set(files))} images are in the collection")
        client.delete_collection("twice")
    note = f"first {first:.1f} s, second {second:.2f} s"
    return [
        Row(f"{pictures:,} pictures imported again ÷ the first time", second / first, "x",
            at_most=0.05, note=note),
        Row("the same from a machine that has no journal of it", elsewhere / first, "x",
            note=f"{elsewhere:.2f} s: every file is read and looked up"),
    ]  # fmt: skip
