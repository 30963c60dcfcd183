"""Run a gateway in this process and time its Search without gRPC and without Milvus's work.

    in_handler.py WORKER_ADDRESS SECONDS vectors|images|fields

For `own_time`, which runs it with the packages of several checkouts; so it imports only what all of
them have. The handler that gRPC would call is called in a loop, with bytes in and bytes out. The
text is cached. Milvus's answer is kept, as plain dictionaries, which are faster to read than
pymilvus's. The collection has no match levels. Prints microseconds for each search, one line for
each 50 searches.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from search_server.app import running_gateway
from search_server.settings import GatewaySettings
from sentinel.common.v1 import content_pb2 as common
from sentinel.search.v1 import collection_service_pb2 as collections_pb
from sentinel.search.v1 import collection_service_pb2_grpc as collections_grpc
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core import interceptors, logging, runtime
from sentinel_store.milvus.connection import MilvusConnection

_SEARCH = "/sentinel.search.v1.SearchService/Search"
_HITS = 20
_AT_ONCE = 50
_START_S = 30.0


class _Context:
    """What a handler asks gRPC for."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._callbacks: list[Any] = []
        self.sent: list[bytes] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-go/1.76.0"), ("x-request-id", "0123456789abcdef"))

    def time_remaining(self) -> float:
        return 10.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4242"

    def add_done_callback(self, callback: Any) -> None:
        self._callbacks.append(callback)

    def set_trailing_metadata(self, metadata: Any) -> None: ...

    async def read(self) -> bytes:
        return self._request

    async def write(self, data: bytes) -> None:
        self.sent.append(data)

    def done(self) -> None:
        for callback in self._callbacks:
            callback(self)


def _keep_handlers() -> dict[str, Any]:
    """Have the interceptor leave each handler that it makes in the result."""
    handlers: dict[str, Any] = {}
    original = interceptors.CallInterceptor.intercept_service

    async def intercept(self: Any, continuation: Any, details: Any) -> Any:
        handlers[details.method] = handler = await original(self, continuation, details)
        return handler

    interceptors.CallInterceptor.intercept_service = intercept  # type: ignore[method-assign, assignment]
    return handlers


def _keep_answers(kind: str) -> None:
    """Have Milvus answer each search with the same rows."""
    fields = {"title": "A dog on a beach", "camera": "Leica M11", "width": 6_000}

    def hit(number: int) -> dict[str, Any]:
        row = {
            "id": f"photo-{number:05d}",
            "digest": f"{number:02x}" * 32,
            "image": "" if kind == "vectors" else f"{number:02x}" * 32,
            "text": "",
            "fields": fields if kind == "fields" else {},
        }
        return {"id": row["id"], "distance": 0.5 - number / 100, "entity": row}

    hits = [hit(number) for number in range(_HITS)]

    async def search(self: Any, collection: str, deadline: Any, **request: Any) -> Any:
        return [hits for _ in request["data"]]

    MilvusConnection.search = search  # type: ignore[method-assign]


async def _call(handler: Any, request: bytes) -> bytes:
    """Answer one search as gRPC would have it done; return the last message."""
    context = _Context(request)
    if handler.request_streaming:  # the interceptor receives and sends
        await handler.stream_stream(None, context)
    else:
        async for message in handler.unary_stream(handler.request_deserializer(request), context):
            await context.write(handler.response_serializer(message))
    context.done()
    return context.sent[-1]


async def _prepare(address: str) -> bytes:
    """Make a collection and search it once, so that the text is cached; return the request."""
    text = common.Content(text="a brown dog runs on the beach")
    request = pb.SearchRequest(params=pb.SearchParams(collection="c", query=pb.Query(content=text)))
    new = collections_pb.CreateCollectionRequest(collection=collections_pb.Collection(name="c"))
    async with grpc.aio.insecure_channel(address) as channel:
        gives_up_at = time.monotonic() + _START_S
        while True:
            try:
                await collections_grpc.CollectionServiceStub(channel).CreateCollection(new)
                break
            except grpc.aio.AioRpcError:  # no worker yet
                if time.monotonic() > gives_up_at:
                    raise
                await asyncio.sleep(0.1)
        async for _ in pb_grpc.SearchServiceStub(channel).Search(request):
            pass
    return request.SerializeToString()


async def _main(worker: str, seconds: float, kind: str) -> None:
    logging.configure("info", "json")  # its access lines are part of a search
    handlers = _keep_handlers()
    _keep_answers(kind)
    with tempfile.TemporaryDirectory() as folder:
        settings = GatewaySettings(
            port=0,
            metrics_port=0,
            workers=worker,
            milvus_uri=str(Path(folder) / "milvus.db"),
            object_store_uri=str(Path(folder) / "objects"),
        )
        async with running_gateway(settings, runtime.Lifecycle()) as server:
            request = await _prepare(server.address)
            handler = handlers[_SEARCH]
            answer = pb.SearchResponse.FromString(await _call(handler, request))
            if len(answer.chunk.hits) != _HITS:
                sys.exit(f"a wrong answer: {answer}")
            ends_at = time.perf_counter() + seconds
            while time.perf_counter() < ends_at:
                start = time.perf_counter()
                for _ in range(_AT_ONCE):
                    await asyncio.create_task(_call(handler, request))  # as gRPC does
                print((time.perf_counter() - start) / _AT_ONCE * 1e6)


if __name__ == "__main__":
    runtime.run(_main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
