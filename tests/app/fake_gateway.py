"""A gateway that does as it is told: refuses, pauses amid the hits. No Milvus, no worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import collection_service_pb2_grpc as collection_grpc
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel.search.v1 import search_service_pb2_grpc as search_grpc

NAME = "album"


@dataclass
class Told:
    """What the fake is to do, and what it saw.

    Attributes:
        refusals: Searches that are refused as by a busy worker.
        retry_after: Seconds that those ask to wait.
        texts: One text hit each.
        pause_at: After so many hits, wait for `go_on`.
        times: When searches came, by the clock of `time.monotonic`.
    """

    refusals: int = 0
    retry_after: float = 1.0
    texts: list[str] = field(default_factory=list)
    pause_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    times: list[float] = field(default_factory=list)


class _Collections(collection_grpc.CollectionServiceServicer):
    def ListCollections(
        self, request: object, context: grpc.ServicerContext
    ) -> collection_pb.ListCollectionsResponse:
        album = collection_pb.Collection(name=NAME, dimensions=4, item_count=9)
        return collection_pb.ListCollectionsResponse(collections=[album])


class _Search(search_grpc.SearchServiceServicer):
    def __init__(self, told: Told) -> None:
        self._told = told

    def Search(
        self, request: object, context: grpc.ServicerContext
    ) -> Iterator[search_pb.SearchResponse]:
        told = self._told
        told.times.append(time.monotonic())
        if told.refusals:
            told.refusals -= 1
            _refuse(context, told.retry_after)
        yield search_pb.SearchResponse(header=search_pb.SearchHeader(collection=NAME))
        for place, text in enumerate(told.texts):
            if place == told.pause_at:
                told.go_on.wait(60)
            hit = search_pb.Hit(id=f"id{place}", rank=place + 1, score=0.5, text=text)
            yield search_pb.SearchResponse(chunk=search_pb.HitChunk(hits=[hit]))
        summary = search_pb.SearchSummary(hit_count=len(told.texts))
        yield search_pb.SearchResponse(summary=summary)


def _refuse(context: grpc.ServicerContext, retry_after: float) -> None:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(retry_after * 1e9))
    for detail in (
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="sentinel"),
        error_details_pb2.RetryInfo(retry_delay=delay),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message)


@contextmanager
def telling(told: Told) -> Iterator[str]:
    """Run it; yield its address."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    collection_grpc.add_CollectionServiceServicer_to_server(_Collections(), server)  # type: ignore[abstract]
    search_grpc.add_SearchServiceServicer_to_server(_Search(told), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        told.go_on.set()
        server.stop(1).wait()
