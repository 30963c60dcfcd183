"""A gateway without logic: the minimum cost of a search through grpc.aio and pymilvus.

It offers the gateway's Search on the same event loop, without interceptors. It always searches for
the same vector and sends all hits in one message.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pymilvus import AsyncMilvusClient

from benchmarks.load.search_generator import milvus_arguments, read_found
from benchmarks.servers import write_address
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core import runtime


class _Search(pb_grpc.SearchServiceServicer):
    def __init__(self, milvus: AsyncMilvusClient, vector: list[float]) -> None:
        self._milvus = milvus
        self._vector = vector

    async def Search(
        self, request: pb.SearchRequest, context: Any
    ) -> AsyncIterator[pb.SearchResponse]:
        arguments = milvus_arguments() | {"timeout": None}  # as the gateway does
        found = await self._milvus.search(request.params.collection, [self._vector], **arguments)
        response = pb.SearchResponse()
        for place, (item_id, score, text) in enumerate(read_found(found), 1):
            response.chunk.hits.add(id=item_id, rank=place, score=score, text=text)
        response.summary.hit_count = len(response.chunk.hits)
        yield response


async def _serve(address_file: Path, milvus_uri: str, vector_file: Path) -> None:
    async with AsyncMilvusClient(milvus_uri, dedicated=True) as milvus:
        server = grpc.aio.server()
        search = _Search(milvus, np.load(vector_file).tolist())  # type: ignore[abstract]
        pb_grpc.add_SearchServiceServicer_to_server(search, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        write_address(address_file, port)
        await server.wait_for_termination()


if __name__ == "__main__":
    runtime.run(_serve(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
