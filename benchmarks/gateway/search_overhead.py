"""Compare searches through the gateway with the same steps called directly.

The steps are an Embed call to the worker and a pymilvus search for the same rows. Every query goes
both ways before the next one, so that a change of the machine's speed affects both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from benchmarks import servers
from benchmarks.load import contents
from benchmarks.load.agents import agent
from benchmarks.load.search_generator import (
    TOP,
    Found,
    milvus_arguments,
    read_found,
    read_message,
    request_of,
)
from benchmarks.report import Row, median, median_ratio
from benchmarks.servers import Server
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as embedding_grpc
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_client import SentinelClient

CALLERS = 32
_CACHED_TEXTS = 64


@dataclass(frozen=True)
class FilledStack:
    """Worker, gateway and Milvus, with a collection of random vectors.

    Attributes:
        worker: It embeds queries.
        gateway: The gateway's `host:port`.
        milvus: URI of the Milvus server.
        collection: Its name.
        vectors: float32 `[n, dimensions]`, L2-normalised; row i has the id `row<i>`.
        scratch: A folder for files.
    """

    worker: Server
    gateway: str
    milvus: str
    collection: str
    vectors: NDArray[np.float32]
    scratch: Path


class _Gateway:
    """Searches through a gateway, one after the other."""

    def __init__(self, address: str, collection: str) -> None:
        # Without this option grpc's synchronous client starts a thread for every stream.
        quick = [("SingleThreadedUnaryStream", 1)]
        self._channel = grpc.insecure_channel(address, options=quick)
        self._stub = pb_grpc.SearchServiceStub(self._channel)
        self._collection = collection

    def __call__(self, text: str) -> tuple[Found, pb.SearchSummary]:
        found: Found = []
        for message in self._stub.Search(request_of(self._collection, text), timeout=60):
            found += read_message(message)
        return found, message.summary

    def close(self) -> None:
        self._channel.close()


class _Direct:
    """The steps of a search called directly: an Embed call and a pymilvus search."""

    def __init__(self, filled: FilledStack) -> None:
        self._collection = filled.collection
        self._milvus = MilvusClient(filled.milvus)
        self._channel = grpc.insecure_channel(filled.worker.address)
        self._embed = embedding_grpc.EmbeddingServiceStub(self._channel)

    def embed(self, text: str) -> list[float]:
        request = embedding_pb.EmbedRequest(contents=[common.Content(text=text)])
        answer = self._embed.Embed(request, timeout=60)
        vector: list[float] = np.frombuffer(answer.results[0].vector.data, "<f4").tolist()
        return vector

    def search(self, vector: list[float]) -> Found:
        found = self._milvus.search(self._collection, [vector], **milvus_arguments())
        return read_found(found)

    def close(self) -> None:
        self._milvus.close()
        self._channel.close()


def latency(filled: FilledStack, queries: int) -> list[Row]:
    """Measure single searches, of new texts and of a cached one."""
    times: dict[str, list[float]] = {
        name: [] for name in ("new", "embed", "milvus", "cached", "bare")
    }
    stages: dict[str, list[float]] = {name: [] for name in ("embed", "vector_search", "total")}
    texts = contents.texts(queries + 10, seed=11)
    known = texts.pop()

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        answer = call()
        times[name].append((time.perf_counter() - start) * 1000)
        return answer

    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(contextlib.closing(_Direct(filled)))
        np.save(file := filled.scratch / "known.npy", direct.embed(known))
        bare = stack.enter_context(
            servers.bare(filled.scratch, "gateway.bare_gateway", filled.milvus, str(file))
        )
        gateways = {
            name: stack.enter_context(contextlib.closing(_Gateway(address, filled.collection)))
            for name, address in (("cached", filled.gateway), ("bare", bare.address))
        }
        for gateway in gateways.values():
            gateway(known)
        for number, text in enumerate(texts):
            _, timings = timed("new", partial(gateways["cached"], text))
            for name, values in stages.items():
                values.append(getattr(timings, name).ToNanoseconds() / 1e6)
            vector = timed("embed", partial(direct.embed, text + " "))
            timed("milvus", partial(direct.search, vector))
            for name in sorted(
                gateways, reverse=bool(number % 2)
            ):  # so that neither always comes second
                timed(name, partial(gateways[name], known))
    kept = {name: values[9:] for name, values in times.items()}  # the first ones warm up
    return _latency_rows(kept, {name: median(values[9:]) for name, values in stages.items()})


def _latency_rows(times: dict[str, list[float]], stages: dict[str, float]) -> list[Row]:
    direct_ms = [a + b for a, b in zip(times["embed"], times["milvus"], strict=True)]
    new, cached, milvus, bare = (median(times[n]) for n in ("new", "cached", "milvus", "bare"))
    gateway = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    note = f"embed {median(times['embed']):.1f} + Milvus {milvus:.1f}"
    of_pairs = median_ratio(times["new"], direct_ms)
    return [
        Row("new text, through the gateway, p50", new, "ms", note=f"its own timings: {gateway}"),
        Row("Embed call + Milvus search, called directly, p50", median(direct_ms), "ms", note=note),
        Row("cached text, through the gateway, p50", cached, "ms"),
        Row("through a gateway without logic, p50", bare, "ms", note="grpc.aio and pymilvus alone"),
        Row(
            f"new text, top {TOP}: gateway ÷ called directly, p50",
            new / median(direct_ms),
            "x",
            at_most=1.15,
            note=f"{len(direct_ms)} queries in turn; of pairs {of_pairs:.2f}",
            detail={**times, "stages_ms": stages},
        ),
        Row(
            f"cached text, top {TOP}: gateway ÷ Milvus called directly, p50",
            cached / milvus,
            "x",
            at_most=1.3,
            note=f"of pairs {median_ratio(times['cached'], times['milvus']):.2f}",
        ),
        Row(
            "... of the gateway without logic",
            bare / milvus,
            "x",
            note=f"of pairs {median_ratio(times['bare'], times['milvus']):.2f}",
        ),
    ]


def many_callers(filled: FilledStack, rounds: int, seconds: float) -> list[Row]:
    """Run 32 callers in turns: cached texts through the gateway, and vectors by pymilvus."""
    texts = contents.texts(_CACHED_TEXTS, seed=12)
    with contextlib.closing(_Direct(filled)) as direct:
        vectors = [direct.embed(text) for text in texts]
    with contextlib.closing(_Gateway(filled.gateway, filled.collection)) as gateway:
        for text in texts:
            gateway(text)
    kinds = {"gateway": filled.gateway, "pymilvus": filled.milvus, "pymilvus_async": filled.milvus}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    tails: dict[str, list[float]] = {kind: [] for kind in kinds}
    with agent("benchmarks.load.search_generator") as load:
        load.call("prepare", texts=texts, vectors=vectors)
        for number in range(rounds + 1):
            for kind, address in kinds.items():
                answer = load.call(
                    "closed", kind=kind, address=address, collection=filled.collection,
                    callers=CALLERS, seconds=seconds,
                )  # fmt: skip
                if number:  # the first round warms up
                    rates[kind].append(answer["rate"])
                    tails[kind].append(answer["p99_ms"])
    rows = [
        Row(f"{kind}, {CALLERS} callers", median(rates[kind]), "searches/s",
            note=f"p99 {median(tails[kind]):.0f} ms")
        for kind in kinds
    ]  # fmt: skip
    best = max(("pymilvus", "pymilvus_async"), key=lambda kind: median(rates[kind]))
    rows.append(
        Row(
            f"cached searches, {CALLERS} callers: gateway ÷ {best}",
            median_ratio(rates["gateway"], rates[best]),
            "x",
            at_least=0.7,
            note=f"{rounds} rounds of {seconds:.0f} s; against the faster of pymilvus's clients",
            detail={"rates": rates},
        )
    )
    return rows


def recall(filled: FilledStack, queries: int) -> list[Row]:
    """Compare the gateway's hits with exact search.

    Queries have a cosine of about 0.9 to a row, like an image to a similar one, or 0.45, like a
    text to an image. Random queries are far from every row; no model makes such queries.
    """
    rng = np.random.default_rng(5)
    rows = filled.vectors[rng.integers(len(filled.vectors), size=queries)]
    noise = rng.normal(size=rows.shape).astype(np.float32) / rows.shape[1] ** 0.5
    queries_by_kind = {
        "near a row": rows + 0.5 * noise,
        "off the rows": rows + 2 * noise,
        "random": noise,
    }
    shares: dict[str, float] = {}
    with SentinelClient(filled.gateway) as client:
        for name, vectors in queries_by_kind.items():
            found = 0
            for vector in vectors:
                scores = filled.vectors @ vector
                exact = {f"row{row}" for row in np.argpartition(-scores, TOP)[:TOP]}
                hits = client.search(vector=vector, collection=filled.collection, limit=TOP)
                found += sum(hit.id in exact for hit in hits)
            shares[name] = found / (len(vectors) * TOP)
    return [
        Row(f"recall@{TOP} against exact search, queries {name}", share, "",
            at_least=None if name == "random" else 0.98, note=f"{queries} queries")
        for name, share in shares.items()
    ]  # fmt: skip
