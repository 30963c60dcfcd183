"""A gateway that answers each search with the same bytes: the floor of grpc.aio in Python."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from benchmarks.servers import write_address
from sentinel_core import runtime


async def _serve(address_file: Path, answer: bytes) -> None:
    async def search(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield answer

    # Without serializers, requests and answers stay bytes.
    methods: dict[str, Any] = {"Search": grpc.unary_stream_rpc_method_handler(search)}
    server = grpc.aio.server()
    server.add_registered_method_handlers("sentinel.search.v1.SearchService", methods)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    write_address(address_file, port)
    await server.wait_for_termination()


if __name__ == "__main__":
    runtime.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
