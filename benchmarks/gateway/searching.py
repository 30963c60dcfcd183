"""A search through the gateway against the same steps called directly: alone, and by many callers.

The steps are one Embed call to the worker and one pymilvus search that asks for the same rows.
Gateway and Milvus are asked for every query in turn, so that drift of the machine cancels.
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
from benchmarks.report import Row, median, median_ratio
from benchmarks.servers import Server
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as embedding_grpc
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_client import SentinelClient

TOP = 20
CALLERS = 32
_CACHED_TEXTS = 64
# What the gateway chooses for the top 20 of an AUTOINDEX (search_server/store/indexes.py).
_EF = 256


def milvus_arguments() -> dict[str, Any]:
    """Return what a search by hand passes to pymilvus to get what the gateway gets."""
    return {
        "limit": TOP,
        "output_fields": ["id", "digest", "image", "text", "fields"],
        "search_params": {"metric_type": "COSINE", "params": {"ef": _EF}},
        "consistency_level": "Session",
        "timeout": 60,
    }


def request_of(collection: str, text: str) -> pb.SearchRequest:
    """Return a search by words."""
    params = pb.SearchParams(collection=collection)
    params.query.content.text = text
    return pb.SearchRequest(params=params, limit=TOP)


@dataclass(frozen=True)
class Filled:
    """A stack whose collection holds random vectors.

    Attributes:
        worker: The worker that embeds queries.
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


Read = list[tuple[str, float, str]]


def read_found(found: Any) -> Read:
    """Return id, score and text of the hits of one search by pymilvus, which decodes them now."""
    return [(hit["id"], hit["distance"], hit["entity"]["text"]) for hit in found[0]]


def read_message(message: pb.SearchResponse) -> Read:
    """Return the same of the hits in one of the gateway's messages."""
    return [(hit.id, hit.score, hit.text) for hit in message.chunk.hits]


class _Gateway:
    """A gateway asked for one text after another."""

    def __init__(self, address: str, collection: str) -> None:
        # Without this option grpc's synchronous client starts a thread for every stream.
        quick = [("SingleThreadedUnaryStream", 1)]
        self._channel = grpc.insecure_channel(address, options=quick)
        self._stub = pb_grpc.SearchServiceStub(self._channel)
        self._collection = collection

    def __call__(self, text: str) -> tuple[Read, pb.SearchSummary]:
        read: Read = []
        for message in self._stub.Search(request_of(self._collection, text), timeout=60):
            read += read_message(message)
        return read, message.summary

    def close(self) -> None:
        self._channel.close()


class _Direct:
    """The steps of a search by hand: an Embed call and a search by pymilvus."""

    def __init__(self, filled: Filled) -> None:
        self._collection = filled.collection
        self._milvus = MilvusClient(filled.milvus)
        self._channel = grpc.insecure_channel(filled.worker.address)
        self._embed = embedding_grpc.EmbeddingServiceStub(self._channel)

    def embed(self, text: str) -> list[float]:
        request = embedding_pb.EmbedRequest(contents=[common.Content(text=text)])
        answer = self._embed.Embed(request, timeout=60)
        vector: list[float] = np.frombuffer(answer.results[0].vector.data, "<f4").tolist()
        return vector

    def search(self, vector: list[float]) -> Read:
        found = self._milvus.search(self._collection, [vector], **milvus_arguments())
        return read_found(found)

    def close(self) -> None:
        self._milvus.close()
        self._channel.close()


def latency(filled: Filled, queries: int) -> list[Row]:
    """Measure single searches: of new texts, and of one that is cached."""
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
            for name in sorted(gateways, reverse=bool(number % 2)):  # neither always comes second
                timed(name, partial(gateways[name], known))
    kept = {name: values[9:] for name, values in times.items()}  # the first ones warm up
    return _latency_rows(kept, {name: median(values[9:]) for name, values in stages.items()})


def _latency_rows(times: dict[str, list[float]], stages: dict[str, float]) -> list[Row]:
    by_hand = [a + b for a, b in zip(times["embed"], times["milvus"], strict=True)]
    new, cached, milvus, bare = (median(times[n]) for n in ("new", "cached", "milvus", "bare"))
    gateway = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    note = f"embed {median(times['embed']):.1f} + Milvus {milvus:.1f}"
    of_pairs = median_ratio(times["new"], by_hand)
    return [
        Row("new text, through the gateway, p50", new, "ms", note=f"its own account: {gateway}"),
        Row("Embed call + Milvus search, called directly, p50", median(by_hand), "ms", note=note),
        Row("cached text, through the gateway, p50", cached, "ms"),
        Row("through a gateway without logic, p50", bare, "ms", note="grpc.aio and pymilvus alone"),
        Row(
            f"new text, top {TOP}: gateway ÷ called directly, p50",
            new / median(by_hand),
            "x",
            at_most=1.15,
            note=f"{len(by_hand)} queries in turn; of pairs {of_pairs:.2f}",
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


def many_callers(filled: Filled, rounds: int, seconds: float) -> list[Row]:
    """Let 32 callers search, of cached texts through the gateway and by pymilvus, in turn."""
    texts = contents.texts(_CACHED_TEXTS, seed=12)
    with contextlib.closing(_Direct(filled)) as direct:
        vectors = [direct.embed(text) for text in texts]
    with contextlib.closing(_Gateway(filled.gateway, filled.collection)) as gateway:
        for text in texts:
            gateway(text)
    kinds = {"gateway": filled.gateway, "pymilvus": filled.milvus, "pymilvus_async": filled.milvus}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    tails: dict[str, list[float]] = {kind: [] for kind in kinds}
    with agent("benchmarks.load.search_callers") as load:
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


def recall(filled: Filled, queries: int) -> list[Row]:
    """Compare the gateway's hits with exact search.

    Queries have a cosine of about 0.9 to a row, as pictures do to their like, or 0.45, since texts
    lie off the pictures; random ones are at home nowhere, and what no model does to its users.
    """
    rng = np.random.default_rng(5)
    rows = filled.vectors[rng.integers(len(filled.vectors), size=queries)]
    noise = rng.normal(size=rows.shape).astype(np.float32) / rows.shape[1] ** 0.5
    asked = {"near a row": rows + 0.5 * noise, "off the rows": rows + 2 * noise, "random": noise}
    shares: dict[str, float] = {}
    with SentinelClient(filled.gateway) as client:
        for name, vectors in asked.items():
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
