"""A text search through the gateway against its limit: model and Milvus called directly.

Side by side in one run and one process's clock, so that the ratio means something on a noisy
machine. Everything is real: worker and gateway as processes, the default model, Milvus Lite or
any Milvus (`--milvus-uri`). Vectors are random directions around random centres; only the
queries are embedded.

    search.py [--rows 1000 10000] [--queries 100] [--milvus-uri URI] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pymilvus import MilvusClient

from benchmarks.report import commit, machine
from benchmarks.servers import sentinel, worker
from embedder_server.models.registry import load_model
from sentinel_client import Item, SentinelClient

WORDS = ["dog", "beach", "red", "car", "child", "street", "coffee", "night", "river", "old"]
TOP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--milvus-uri", help="a Milvus server; default: Milvus Lite")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    results = [measure(rows, arguments.queries, arguments.milvus_uri) for rows in arguments.rows]
    for result in results:
        print_result(result)
    if arguments.json:
        report = {"machine": machine(), "commit": commit(), "results": results}
        arguments.json.write_text(json.dumps(report, indent=2))


def measure(rows: int, queries: int, milvus_uri: str | None) -> dict[str, float]:
    """Return medians in milliseconds; every query goes both ways before the next one."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 10)) for _ in range(queries)]
    with tempfile.TemporaryDirectory() as folder:
        uri = milvus_uri or f"{folder}/milvus.db"
        collection = f"bench_{rows}"
        with servers(Path(folder), uri) as address, SentinelClient(address) as client:
            client.create_collection(collection)
            fill(client, collection, rows, rng)
            time.sleep(2)  # Lite flushes half a second after the last write
            if milvus_uri is None:  # only one process may open a Lite file
                uri = str(shutil.copytree(uri, f"{folder}/copy.db"))
            direct = Direct(uri, collection)
            times: dict[str, list[float]] = {}
            for text in [texts[0], *texts]:  # the first one warms up
                for name, seconds in (*through_gateway(client, collection, text), *direct(text)):
                    times.setdefault(name, []).append(seconds * 1000)
            direct.close()
            if milvus_uri is not None:
                client.delete_collection(collection)
    medians = {name: float(np.median(values[1:])) for name, values in times.items()}
    return {"rows": rows, **medians}


def through_gateway(
    client: SentinelClient, collection: str, text: str
) -> Iterator[tuple[str, float]]:
    """Search once; yield the time that the client saw and the stages that the gateway tells."""
    start = time.perf_counter()
    timings = client.search(text, collection=collection, limit=TOP).timings
    yield "client", time.perf_counter() - start
    for name in ("total", "embed", "embed_queue", "embed_inference", "vector_search"):
        yield f"gateway_{name}", getattr(timings, name)


class Direct:
    """The limit: the same model and the same Milvus, called in this process, without gRPC."""

    def __init__(self, uri: str, collection: str) -> None:
        self._model = load_model("conse-minilm-lite0", "cpu", 2)
        self._client = MilvusClient(uri)
        self._client.load_collection(collection)
        self._collection = collection
        self.close = self._client.close

    def __call__(self, text: str) -> Iterator[tuple[str, float]]:
        """Search once; yield the times of both steps."""
        start = time.perf_counter()
        vector = self._model.embed_texts([self._model.tokenize(text)])[0]
        vector /= np.linalg.norm(vector)
        embedded = time.perf_counter()
        self._client.search(
            self._collection,
            [vector],
            limit=TOP,
            output_fields=["id", "digest", "image", "text", "fields"],
            search_params={"metric_type": "COSINE"},
        )
        yield "direct_embed", embedded - start
        yield "direct_search", time.perf_counter() - embedded


def fill(client: SentinelClient, collection: str, rows: int, rng: np.random.Generator) -> None:
    """Store vectors around 100 centres."""
    centres = rng.normal(size=(100, 384))
    for start in range(0, rows, 256):
        count = min(256, rows - start)
        chosen = centres[rng.integers(100, size=count)]
        vectors = (chosen + 0.7 * rng.normal(size=chosen.shape)).astype(np.float32)
        client.upsert(
            [Item(id=f"row{start + n}", vector=vector) for n, vector in enumerate(vectors)],
            collection=collection,
        )


@contextmanager
def servers(folder: Path, milvus_uri: str) -> Iterator[str]:
    """Run a worker and a gateway; yield the gateway's address once it serves."""
    with worker(folder) as embedder:
        flags = ["--milvus-uri", milvus_uri, "--object-store-uri", f"{folder}/objects"]
        gateway = sentinel(folder, "search_server", "--workers", embedder.address, *flags)
        try:
            with SentinelClient(gateway.address) as client:
                while not client.health().serving:
                    time.sleep(0.1)
            yield gateway.address
        finally:
            gateway.stop()


def print_result(result: dict[str, float]) -> None:
    """Print one size's figures."""
    limit = result["direct_embed"] + result["direct_search"]
    print(f"\n{result['rows']:,} rows, top {TOP}, p50 in ms")
    print(f"  called directly   model {result['direct_embed']:.1f} + Milvus "
          f"{result['direct_search']:.1f} = {limit:.1f}")  # fmt: skip
    print(f"  in the gateway    total {result['gateway_total']:.1f}: embed call "
          f"{result['gateway_embed']:.1f} (queue {result['gateway_embed_queue']:.1f}, inference "
          f"{result['gateway_embed_inference']:.1f}), Milvus call "
          f"{result['gateway_vector_search']:.1f}")  # fmt: skip
    times = result["client"] / limit
    print(f"  seen by a client  {result['client']:.1f}, {times:.2f} times the limit")


if __name__ == "__main__":
    main()
