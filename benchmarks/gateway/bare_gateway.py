"""A gateway without logic: the minimum cost of a search through grpc.aio and pymilvus.

It offers the gateway's Search on the same event loop, without interceptors, and sends all hits in
one message. It always searches for the same vector. With a worker and a limit, it embeds the text
there, and refuses searches while it has as many in work: the minimum cost of a refusal.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pymilvus import AsyncMilvusClient

from benchmarks.load.search_generator import milvus_arguments, read_found
from benchmarks.servers import write_address
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as embedding_pb_grpc
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core import runtime

_Embed = Callable[[pb.SearchRequest], Awaitable[list[float]]]


class _Search(pb_grpc.SearchServiceServicer):
    def __init__(self, milvus: AsyncMilvusClient, embed: _Embed) -> None:
        self._milvus = milvus
        self._embed = embed

    async def Search(
        self, request: pb.SearchRequest, context: Any
    ) -> AsyncIterator[pb.SearchResponse]:
        arguments = milvus_arguments() | {"timeout": None}  # as the gateway does
        vector = await self._embed(request)
        found = await self._milvus.search(request.params.collection, [vector], **arguments)
        response = pb.SearchResponse()
        for place, (item_id, score, text) in enumerate(read_found(found), 1):
            response.chunk.hits.add(id=item_id, rank=place, score=score, text=text)
        response.summary.hit_count = len(response.chunk.hits)
        yield response


class _Limited(_Search):
    def __init__(self, milvus: AsyncMilvusClient, embed: _Embed, most: int) -> None:
        super().__init__(milvus, embed)
        self._most = most
        self._in_work = 0

    async def Search(
        self, request: pb.SearchRequest, context: Any
    ) -> AsyncIterator[pb.SearchResponse]:
        if self._in_work >= self._most:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        self._in_work += 1
        try:
            async for response in super().Search(request, context):
                yield response
        finally:
            self._in_work -= 1


def _through(worker: str) -> _Embed:
    stub = embedding_pb_grpc.EmbeddingServiceStub(grpc.aio.insecure_channel(worker))

    async def embed(request: pb.SearchRequest) -> list[float]:
        contents = [request.params.query.content]
        answer = await stub.Embed(embedding_pb.EmbedRequest(contents=contents))
        vector: list[float] = np.frombuffer(answer.results[0].vector.data, dtype="<f4").tolist()
        return vector

    return embed


def _same(file: str) -> _Embed:
    vector: list[float] = np.load(file).tolist()

    async def embed(_: pb.SearchRequest) -> list[float]:
        return vector

    return embed


async def _serve(address_file: Path, milvus_uri: str, source: str, most: int = 0) -> None:
    """Serve; `source` is a file with a vector, or with `most` the address of a worker."""
    async with AsyncMilvusClient(milvus_uri, dedicated=True) as milvus:
        server = grpc.aio.server()
        search: _Search
        if most:
            search = _Limited(milvus, _through(source), most)  # type: ignore[abstract]
        else:
            search = _Search(milvus, _same(source))  # type: ignore[abstract]
        pb_grpc.add_SearchServiceServicer_to_server(search, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        write_address(address_file, port)
        await server.wait_for_termination()


if __name__ == "__main__":
    _, address_file, milvus_uri, source, *most = sys.argv
    runtime.run(_serve(Path(address_file), milvus_uri, source, *map(int, most)))
