"""Compare a text search with the embedded defaults with the model and Milvus Lite called directly.

This is what a laptop runs: the default model and a file of Milvus Lite, by number of rows. Only one
process can open that file, so the direct calls use a copy of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pymilvus import MilvusClient

from benchmarks.load import contents
from benchmarks.load.search_generator import TOP
from benchmarks.report import Row, median
from embedder_server.models.base import ModelChoice
from embedder_server.models.registry import load_model
from sentinel_client import SentinelClient

_MODEL = "conse-minilm-lite0"


def embedded(gateway: str, milvus_file: Path, collection: str, queries: int) -> list[Row]:
    """Measure searches of a filled collection; every query goes both ways before the next one."""
    copy = shutil.copytree(milvus_file, milvus_file.with_name(f"{collection}.db"))
    direct = _Direct(str(copy), collection)
    times: dict[str, list[float]] = {}
    with SentinelClient(gateway) as client:
        rows = client.get_collection(collection).item_count or 0
        for text in contents.texts(queries + 1, seed=14):
            for name, seconds in (*_search(client, collection, text), *direct(text)):
                times.setdefault(name, []).append(seconds * 1000)
    direct.close()
    return _rows(rows, {name: median(values[1:]) for name, values in times.items()})


def _rows(count: int, p50: dict[str, float]) -> list[Row]:
    limit = p50["direct_embed"] + p50["direct_search"]
    gateway = f"embed {p50['embed']:.1f}, Milvus {p50['vector_search']:.1f}"
    direct = f"embed {p50['direct_embed']:.1f} + Milvus Lite {p50['direct_search']:.1f}"
    return [
        Row(f"{count:,} rows: as the client sees it, p50", p50["client"], "ms"),
        Row(f"{count:,} rows: in the gateway, p50", p50["total"], "ms", note=gateway),
        Row(f"{count:,} rows: model and Milvus Lite in one process", limit, "ms", note=direct),
        Row(f"{count:,} rows: client ÷ that", p50["client"] / limit, "x"),
    ]


def _search(client: SentinelClient, collection: str, text: str) -> Iterator[tuple[str, float]]:
    """Search once; yield the client's time and the stages that the gateway reports."""
    start = time.perf_counter()
    timings = client.search(text, collection=collection, limit=TOP).timings
    yield "client", time.perf_counter() - start
    for name in ("total", "embed", "vector_search"):
        yield name, getattr(timings, name)


class _Direct:
    """The same model and Milvus Lite, called in this process without gRPC."""

    def __init__(self, uri: str, collection: str) -> None:
        self._model = load_model(ModelChoice(_MODEL, "cpu", 2))
        self._client = MilvusClient(uri)
        self._client.load_collection(collection)
        self._collection = collection
        self.close = self._client.close

    def __call__(self, text: str) -> Iterator[tuple[str, float]]:
        """Search once; yield the times of both steps."""
        start = time.perf_counter()
        vector = self._model.embed_texts([self._model.tokenize(text)])[0]
        vector /= np.linalg.norm(vector)
        done = time.perf_counter()
        self._client.search(
            self._collection,
            [vector],
            limit=TOP,
            output_fields=["id", "digest", "image", "text", "fields"],
            search_params={"metric_type": "COSINE"},
        )
        yield "direct_embed", done - start
        yield "direct_search", time.perf_counter() - done
