"""What gRPC by itself takes from a model on the same cores.

The model is called directly in a process of its own while a server that computes nothing (`echo`)
answers as many of the worker's calls as wanted. What the model then still does is about what a
worker would reach that had no work of its own.


A gRPC server that knows its answer: what a call costs before anything is computed.

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

from benchmarks.embedder.context import Bench
from benchmarks.load.agents import Agent
from benchmarks.servers import Server, tell_address
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core import runtime


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

    Returns:
        What `direct` answers, and under `offered` the calls a second that were really made: the
        client may not keep up, and then the floor is too high.

    Args:
        bench: The run.
        direct: The model, loaded.
        echo: The server that computes nothing.
        kind: `text` or `image`, of the model's items and of the requests.
        calls_per_second: Rate of the open loop.
        per_request: Contents of each request.
        batch: Items of one forward pass.
        overlap: Whether the next batch is prepared meanwhile.
    """
    seconds = bench.plan.seconds
    direct.start("throughput", kind=kind, batch=batch, overlap=overlap, seconds=seconds)
    asked = bench.open(
        echo, "sentinel", kind, rate=calls_per_second, per_request=per_request, seconds=seconds
    )
    answer = direct.answer()
    if not asked["items"]:
        raise SystemExit(f"no empty call was answered: {asked['failed']}")
    return {**answer, "offered": asked["offered"]}


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
    runtime.run(_serve(Path(sys.argv[1])))
