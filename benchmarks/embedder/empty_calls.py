"""Measure what gRPC alone costs: calls to a server that returns a prepared answer.

`beside_empty_calls` runs the model in its process while such calls are made, as many as the worker
answered. The result is about the rate of a worker without any work of its own.

As a program, this is the server: Embed on grpc.aio and the worker's event loop, without
interceptors. Answers have the size of the worker's.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from benchmarks.embedder.context import Bench
from benchmarks.load.agents import Agent
from benchmarks.servers import Server, write_address
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core import runtime

_DIMENSIONS = 512


def beside_empty_calls(
    bench: Bench,
    direct: Agent,
    echo: Server,
    kind: str,
    *,
    calls_per_second: float,
    per_request: int = 1,
    batch: int,
    overlap: bool = False,
) -> dict[str, Any]:
    """Run the model for a turn beside empty calls.

    Args:
        bench: The run.
        direct: The loaded model.
        echo: The server of this module.
        kind: `text` or `image`, of the model's items and of the requests.
        calls_per_second: Rate of the open loop.
        per_request: Contents of each request.
        batch: Items of one forward pass.
        overlap: Whether to prepare the next batch during a pass.

    Returns:
        The answer of `direct`, and as `offered` the calls a second that were made. If the client
        was too slow for `calls_per_second`, the measured floor is too high.
    """
    seconds = bench.plan.seconds
    direct.start("throughput", kind=kind, batch=batch, overlap=overlap, seconds=seconds)
    calls = bench.open(
        echo, "sentinel", kind, rate=calls_per_second, per_request=per_request, seconds=seconds
    )
    answer = direct.answer()
    if not calls["items"]:
        raise SystemExit(f"no empty call was answered: {calls['failed']}")
    return {**answer, "offered": calls["offered"]}


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
    write_address(address_file, port)
    await server.wait_for_termination()


if __name__ == "__main__":
    runtime.run(_serve(Path(sys.argv[1])))
