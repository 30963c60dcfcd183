"""Measure what each storage of vectors costs and finds: bytes per vector, and recall@20.

    python -m benchmarks.compact [--rows N] [--only synthetic|stamps] [--json FILE]

Recall is against exact search of the float32 vectors in NumPy. The searches are the gateway's own
(`SearchStore`), on a Milvus server 2.3.5 over an object store and, where `python -m
tests.half_milvus` has fetched it, on Milvus Lite 2.5. Bytes per vector are those of the index
files that the server loads into memory. For 16-bit vectors, which Milvus Lite 2.5 keeps in a flat
list, they are computed. Vectors: captioned stamps and their mirror images (Debian's
tuxpaint-stamps-default), searched with the captions, by the built-in model; and synthetic ones of
768 dimensions around 100 centres.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console

from benchmarks import report
from benchmarks.report import Row as Figure
from benchmarks.report import skipped
from benchmarks.retrieval.datasets import read
from embedder_server.in_process import ImageFile, InProcessEmbedder
from embedder_server.settings import EmbedderSettings
from search_server.milvus.search_store import SearchStore
from search_server.types.searches import Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo, IndexKind, VectorIndex, VectorStorage
from sentinel_store.items import Row
from sentinel_store.milvus import indexes
from sentinel_store.values import Consistency, FloatArray, ModelRef
from tests import half_milvus, milvus_server, s3_server

STAMPS = Path("/usr/share/tuxpaint/stamps")
_K, _QUERIES, _CENTRES, _SPREAD = 20, 200, 100, 0.7
_PLAIN = VectorStorage()
_RESCORED = VectorStorage(Element.INT8, rescore=True)
_HALVES = (VectorStorage(Element.FLOAT16), VectorStorage(Element.BFLOAT16))
_BATCH = 500
_BUCKET = "compact"
_RESTART_S = 180.0


@dataclass(frozen=True)
class Vectors:
    """A set of unit vectors, float32 `[n, d]`, and queries `[m, d]`."""

    name: str
    stored: FloatArray
    queries: FloatArray

    def nearest(self) -> list[set[str]]:
        """Return the ids of the true nearest of each query."""
        places = np.argsort(-(self.queries @ self.stored.T), axis=1)[:, :_K]
        return [set(map(str, row)) for row in places]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="synthetic vectors")
    parser.add_argument(
        "--only", choices=("synthetic", "stamps"), help="measure one kind of vectors"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    sets = [] if options.only == "stamps" else [_synthetic(options.rows)]
    if options.only != "synthetic" and STAMPS.is_dir():
        sets.append(asyncio.run(_stamps()))
    with tempfile.TemporaryDirectory() as scratch:
        found: dict[str, Sequence[Figure]] = {
            one.name: list(_measured(one, Path(scratch))) for one in sets
        }
    report.print_report(found, Console(width=140))
    if options.json:
        facts = {"machine": report.machine(), "commit": report.commit()}
        report.write_json(options.json, found, **facts)


def _measured(vectors: Vectors, scratch: Path) -> Iterator[Figure]:
    dimensions = vectors.stored.shape[1]
    yield from _of_server(vectors, scratch / f"server-{dimensions}")
    if not half_milvus.binary().exists():
        yield skipped("float16 and bfloat16", "python -m tests.half_milvus was not run")
        return
    folder = scratch / f"half-{dimensions}"
    folder.mkdir()
    with half_milvus.running(folder) as uri:
        for storage in _HALVES:
            info = asyncio.run(_filled(uri, vectors, IndexKind.FLAT, storage))
            recall, seconds = asyncio.run(_searched(uri, info, vectors))
            note = f"{2 * dimensions} bytes per vector (computed)"
            yield _figure(f"{storage}, FLAT", recall, seconds, note, 0.5)


def _of_server(vectors: Vectors, base: Path) -> Iterator[Figure]:
    """Measure a server that keeps its segments in an object store.

    It is restarted before the searches. Until then it searches the rows as they were written, not
    the index.
    """
    full = 4 * vectors.stored.shape[1]
    base.mkdir()
    with s3_server.running(base) as store:
        store.file_system().mkdir(_BUCKET)
        process, port = milvus_server.start(base / "milvus", store, _BUCKET)
        uri, infos, sizes = f"http://127.0.0.1:{port}", [], []
        try:
            for kind, storage in ((IndexKind.HNSW, _PLAIN), (IndexKind.IVF_SQ8, _RESCORED)):
                before = _index_bytes(store)
                infos.append(asyncio.run(_filled(uri, vectors, kind, storage)))
                sizes.append((_index_bytes(store) - before) / len(vectors.stored))
            process.kill()
            process.wait()
            process = milvus_server.restart(base / "milvus")
            hnsw, compact = infos
            for name, info, size in (
                ("float32, HNSW", hnsw, sizes[0]),
                ("float32, IVF_SQ8", replace(compact, storage=_PLAIN), sizes[1]),
                (f"{_RESCORED}, IVF_SQ8", compact, sizes[1]),
            ):
                recall, seconds = asyncio.run(_searched(uri, info, vectors))
                note = f"{size:.0f} bytes per vector (measured)"
                yield _figure(name, recall, seconds, note, size / full)
        finally:
            process.kill()
            process.wait()


def _figure(name: str, recall: float, seconds: float, size: str, share: float) -> Figure:
    note = f"{size}, {share:.2f} of float32; {1e3 * seconds:.1f} ms a search"
    print(f"{name}: {recall:.4f}", file=sys.stderr, flush=True)
    return Figure(f"{name}: recall@{_K}", recall, "", note=note, detail={"share": share})


async def _filled(
    uri: str, vectors: Vectors, kind: IndexKind, storage: VectorStorage
) -> CollectionInfo:
    """Store the vectors in a new collection, and have its index built."""
    store = SearchStore(uri, "", 4)
    index = indexes.choose_index(VectorIndex(kind), 0, is_lite=False, storage=storage)
    info = CollectionInfo(
        f"{kind}_{storage.element}",
        ModelRef("m", "r", "f"),
        vectors.stored.shape[1],
        {},
        index=index,
        storage=storage,
    )
    try:
        await store.create_collection(info, _deadline())
        for start in range(0, len(vectors.stored), _BATCH):
            part = vectors.stored[start : start + _BATCH]
            rows = [Row(str(start + at), "", "", "", {}, one) for at, one in enumerate(part)]
            await store.upsert(info, rows, _deadline())
        if kind is not IndexKind.FLAT:
            await asyncio.to_thread(milvus_server.wait_for_indexes, uri, info.name, 300)
    finally:
        await store.close()
    return info


async def _searched(uri: str, info: CollectionInfo, vectors: Vectors) -> tuple[float, float]:
    """Return the recall, and the mean seconds of a search."""
    store = SearchStore(uri, "", 4)

    async def ids(query: FloatArray) -> set[str]:
        selection = Selection(info, "", Consistency.SESSION, _deadline())
        [hits] = await store.vectors.search(selection, [query], limit=_K, include_vectors=False)
        return {row.id for row, _ in hits}

    try:
        async with asyncio.timeout(_RESTART_S):
            while True:
                try:
                    if await ids(vectors.queries[0]):
                        break
                except SentinelError:  # the server has just started
                    await asyncio.sleep(1)
        started = time.perf_counter()
        found = [await ids(query) for query in vectors.queries]
        seconds = (time.perf_counter() - started) / len(found)
    finally:
        await store.close()
    shares = [len(a & b) / _K for a, b in zip(found, vectors.nearest(), strict=True)]
    return float(np.mean(shares)), seconds


def _index_bytes(store: s3_server.S3Server) -> int:
    """Return the size of all index files that the server has built."""
    files = store.file_system().find(_BUCKET, detail=True)
    return sum(one["size"] for name, one in files.items() if "/index_files/" in name)


def _deadline() -> Deadline:
    return Deadline.within(120.0)


def _synthetic(count: int) -> Vectors:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(_CENTRES, 768))
    made = [
        centres[rng.integers(_CENTRES, size=n)] + _SPREAD * rng.normal(size=(n, 768))
        for n in (count, _QUERIES)
    ]
    return Vectors("synthetic, 768 dimensions", _unit(made[0]), _unit(made[1]))


async def _stamps() -> Vectors:
    pictures = read(STAMPS).pictures
    embedder = InProcessEmbedder(EmbedderSettings())
    await embedder.start(_fail)
    files = [file for picture in pictures for file in _with_mirror(picture.file)]
    captions = list(dict.fromkeys(text for picture in pictures for text in picture.captions))
    stored = await _embedded(embedder, [ImageFile(file) for file in files])
    queries = await _embedded(embedder, captions[:_QUERIES])
    await embedder.close()
    return Vectors("stamps and their mirror images, 384 dimensions", stored, queries)


async def _embedded(embedder: InProcessEmbedder, contents: Sequence[str | ImageFile]) -> FloatArray:
    vectors = []
    for start in range(0, len(contents), 64):
        results = await embedder.embed(contents[start : start + 64], timeout_s=300)
        vectors += [one.outcome for one in results if isinstance(one.outcome, np.ndarray)]
    return np.stack(vectors)


def _with_mirror(file: Path) -> list[bytes]:
    mirrored = io.BytesIO()
    with Image.open(file, formats=["PNG"]) as image:
        ImageOps.mirror(image.convert("RGBA")).save(mirrored, "PNG")
    return [file.read_bytes(), mirrored.getvalue()]


def _fail(error: BaseException) -> None:
    raise SystemExit(f"the engine ended: {error}")


def _unit(vectors: np.ndarray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


if __name__ == "__main__":
    main()
