"""A gRPC server that knows its answer: what a call costs before anything is computed.

It offers the worker's Embed on grpc.aio and the same event loop, without interceptors, and sends
a prepared answer, of the size of the worker's, whatever it is asked.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from benchmarks.servers import tell_address
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core import loop

_DIMENSIONS = 512


def _result() -> pb.EmbedResult:
    vector = common.Vector(
        data=os.urandom(4 * _DIMENSIONS),
        element_type=common.ELEMENT_TYPE_FLOAT32,
        dimensions=_DIMENSIONS,
    )
    return pb.EmbedResult(vector=vector)


async def _serve(address_file: Path) -> None:
    result = _result()

    @cache
    def answer(count: int) -> bytes:
        return pb.EmbedResponse(results=[result] * count).SerializeToString()

    async def embed(request: pb.EmbedRequest, context: Any) -> bytes:
        return answer(len(request.contents))

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        embed, request_deserializer=pb.EmbedRequest.FromString
    )
    service = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Embed": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tell_address(address_file, port)
    await server.wait_for_termination()


if __name__ == "__main__":
    loop.run(_serve(Path(sys.argv[1])))
