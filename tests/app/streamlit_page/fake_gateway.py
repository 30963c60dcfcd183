"""A gateway that refuses searches and pauses among hits on request. No Milvus, no worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
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
from tests import secure

NAME = "album"


@dataclass
class Script:
    """What the fake gateway does, and the searches that it got.

    Attributes:
        refusals: Seconds to wait of each search that is refused, as by a busy worker, in order.
        texts: Texts of the hits of all later searches.
        pause_at: Number of hits after which it waits for `resume`.
        message: Message of the refusals.
        times: When searches came, by the clock of `time.monotonic`.
    """

    refusals: Sequence[float] = ()
    texts: Sequence[str] = ()
    pause_at: int | None = None
    resume: threading.Event = field(default_factory=threading.Event)
    message: str = "the queue is full"
    times: list[float] = field(default_factory=list)


@dataclass
class FakeGateway:
    """A running fake; set `script` before a search."""

    address: str = ""
    script: Script = field(default_factory=Script)


class _Collections(collection_grpc.CollectionServiceServicer):
    def ListCollections(
        self, request: object, context: grpc.ServicerContext
    ) -> collection_pb.ListCollectionsResponse:
        album = collection_pb.Collection(name=NAME, dimensions=4, item_count=9)
        return collection_pb.ListCollectionsResponse(collections=[album])


class _Search(search_grpc.SearchServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    def Search(
        self, request: object, context: grpc.ServicerContext
    ) -> Iterator[search_pb.SearchResponse]:
        script = self._gateway.script
        script.times.append(time.monotonic())
        if len(script.times) <= len(script.refusals):
            _refuse(context, script.refusals[len(script.times) - 1], script.message)
        yield search_pb.SearchResponse(header=search_pb.SearchHeader(collection=NAME))
        for place, text in enumerate(script.texts):
            if place == script.pause_at:
                script.resume.wait(200)
            hit = search_pb.Hit(id=f"id{place}", rank=place + 1, score=0.5, text=text)
            yield search_pb.SearchResponse(chunk=search_pb.HitChunk(hits=[hit]))
        summary = search_pb.SearchSummary(hit_count=len(script.texts))
        yield search_pb.SearchResponse(summary=summary)


def _refuse(context: grpc.ServicerContext, retry_after: float, message: str) -> None:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=message)
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
def running_fake_gateway() -> Iterator[FakeGateway]:
    """Run a fake gateway on a free port."""
    gateway = FakeGateway()
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=secure.interceptors())
    collection_grpc.add_CollectionServiceServicer_to_server(_Collections(), server)  # type: ignore[abstract]
    search_grpc.add_SearchServiceServicer_to_server(_Search(gateway), server)  # type: ignore[abstract]
    gateway.address = f"127.0.0.1:{secure.listen(server, '127.0.0.1:0')}"
    server.start()
    try:
        yield gateway
    finally:
        gateway.script.resume.set()
        server.stop(1).wait()
