"""Run the services of the fake on a gRPC server of this process, and give out clients of it.

A server, and not a fake channel or a second client: then every line of the client runs as in
production, and stubs, other processes and other languages can call the fake, too. A fake channel
would need the same services, and besides an imitation of grpc.aio: its calls, their cancellation,
deadlines, metadata and errors. That is more code, and less like a gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from sentinel.embedding.v1 import embedding_service_pb2_grpc
from sentinel.search.v1 import (
    access_service_pb2_grpc,
    collection_service_pb2_grpc,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel_client import _rpcs
from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig, RetryPolicy
from sentinel_client._errors import NotFound, SentinelError
from sentinel_client._names import did_you_mean
from sentinel_client._sync import SentinelClient
from sentinel_client._types import HealthStatus
from sentinel_client.testing import _responses, _status
from sentinel_client.testing._collections import AccessService, CollectionService
from sentinel_client.testing._embedding import EmbeddingService
from sentinel_client.testing._items import ItemService
from sentinel_client.testing._model import HashingModel
from sentinel_client.testing._search import SearchService
from sentinel_client.testing._store import Store

# Streams hold a thread each while they are open.
_THREADS = 16
_METHODS = {
    rpc.path.rpartition("/")[2]
    for rpc in vars(_rpcs).values()
    if isinstance(rpc, _rpcs.Rpc) and rpc is not _rpcs.HEALTH_CHECK
}


@dataclass(slots=True)
class _Failure:
    error: SentinelError
    method: str
    times: int


class FakeSentinel:
    """A gateway in this process, for tests of code that uses a client.

        with FakeSentinel() as client:
            client.create_collection("photos")
            client.upsert([Item(id="1", text="a dog on the beach")], collection="photos")
            assert client.search("beach", collection="photos")[0].id == "1"

    `with` returns a `SentinelClient`, `async with` an `AsyncSentinelClient`; the end of the block
    closes it. Other clients and languages can call `address`, without TLS. Stored items stay from
    block to block. Thread-safe. Module docstring: what is like a gateway, and what is not.
    """

    def __init__(
        self,
        *,
        dimensions: int = 128,
        supported_dimensions: Sequence[int] = (),
        config: ClientConfig | None = None,
    ) -> None:
        """Create a gateway without collections; `with` starts it.

        Args:
            dimensions: Length of its vectors, 1 to 4,096.
            supported_dimensions: Shorter lengths that a collection can have.
            config: Of the clients that it gives out. Default: the usual one, but repeated calls
                pause for hundredths of seconds. TLS and keys are left out.
        """
        if not 1 <= dimensions <= 4_096:
            raise ValueError(f"dimensions must be 1 to 4,096, not {dimensions}")
        if not all(1 <= one <= dimensions for one in supported_dimensions):
            raise ValueError(f"supported dimensions must be 1 to {dimensions}")
        config = config or ClientConfig(retry=RetryPolicy(initial_backoff=0.01))
        self._config = replace(config, tls=False, api_key=_no_key)
        self._model = HashingModel(dimensions, supported_dimensions)
        self._store = Store()
        self._failures: deque[_Failure] = deque()
        self._server: grpc.Server | None = None
        self._address = ""
        self._client: SentinelClient | None = None
        self._async_client: AsyncSentinelClient | None = None

    @property
    def address(self) -> str:
        """Where it listens, for example 127.0.0.1:41234; inside `with` only."""
        if self._server is None:
            raise RuntimeError("a FakeSentinel has an address inside `with` only")
        return self._address

    def describe(self, image: bytes, text: str) -> None:
        """Say what an image shows: from now on, it has the vector of this text.

            fake.describe(Path("beach.jpg").read_bytes(), "a dog on the beach")

        Call it before you store the image. Without it, an image is like nothing but itself.
        """
        self._model.describe(image, text)

    def set_match_levels(self, collection: str, fair: float, strong: float) -> None:
        """Say what scores mean in a collection, which a gateway finds out by itself.

            fake.set_match_levels("photos", fair=0.3, strong=0.6)

        From now on, image hits of text queries have a `match`.
        """
        if not -1 <= fair <= strong <= 1:
            raise ValueError(f"-1 <= fair <= strong <= 1 does not hold for {fair} and {strong}")
        with self._store.lock:
            found = self._store.find(collection)
            levels = found.description.match_levels
            levels.fair, levels.strong, levels.item_count = fair, strong, len(found.items)

    def fail_next(self, error: SentinelError, *, times: int = 1, method: str = "") -> None:
        """Fail the next calls with an error; the client repeats some of them (`RetryPolicy`).

            fake.fail_next(Unavailable("NO_HEALTHY_WORKER", "no worker"), times=5, method="Search")

        Args:
            error: What the calls fail with. A `ConnectionFailed` is as if nobody had answered.
            times: How many calls fail, each repetition included.
            method: A name of the contract, for example `SearchPage`; "": all methods.
        """
        if method and method not in _METHODS:
            raise ValueError(
                f"the contract has no method {method!r}{did_you_mean(method, _METHODS)}"
            )
        with self._store.lock:
            self._failures.append(_Failure(error, method, times))

    def __enter__(self) -> SentinelClient:
        self._start()
        self._client = SentinelClient(self._address, config=self._config)
        return self._client

    def __exit__(self, *exc_info: object) -> None:
        if self._client is not None:
            self._client.close()
        self._stop()

    async def __aenter__(self) -> AsyncSentinelClient:
        self._start()
        self._async_client = AsyncSentinelClient(self._address, config=self._config)
        return self._async_client

    async def __aexit__(self, *exc_info: object) -> None:
        if self._async_client is not None:
            await self._async_client.close()
        await asyncio.to_thread(self._stop)

    def _start(self) -> None:
        if self._server is not None:
            raise RuntimeError("this FakeSentinel runs already; create another one")
        most = self._config.max_message_bytes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fake-sentinel")
        server = grpc.server(
            self._threads,
            interceptors=[_Errors(self._check_failures)],
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                ("grpc.so_reuseport", 0),
            ],
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(
            SearchService(self._store, self._model), server
        )
        item_service_pb2_grpc.add_ItemServiceServicer_to_server(
            ItemService(self._store, self._model), server
        )
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            CollectionService(self._store, self._model), server
        )
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            EmbeddingService(self._model), server
        )
        access_service_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(), server)
        server.add_generic_rpc_handlers((_health(),))
        self._address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self._server = server

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
            self._threads.shutdown(wait=False)
            self._server = None

    def _check_failures(self, method: str) -> None:
        """Raise what a call of this method has to fail with, if anything."""
        with self._store.lock:
            for failure in self._failures:
                if failure.method in ("", method):
                    failure.times -= 1
                    if failure.times <= 0:
                        self._failures.remove(failure)
                    raise failure.error


class _Errors(grpc.ServerInterceptor):
    """Fails calls that are told to fail; sends request ids, and the errors that handlers raise."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None:
            return handler
        method = path.rpartition("/")[2]
        shape = "stream" if handler.request_streaming else "unary"
        shape += "_stream" if handler.response_streaming else "_unary"
        answer = getattr(handler, shape)

        def begin(context: grpc.ServicerContext) -> int:
            """Return how large responses may be."""
            if path != _rpcs.HEALTH_CHECK.path:
                self._check(method)
            given = _responses.request_id(context)
            context.set_trailing_metadata(((_responses.REQUEST_ID_KEY, given),))
            return _responses.max_bytes(context)

        def one(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                most = begin(context)
                response = answer(request, context)
                _responses.check_size(response, most)
                return response
            except SentinelError as error:
                _status.abort(context, error)

        def several(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                begin(context)
                yield from answer(request, context)
            except SentinelError as error:
                _status.abort(context, error)

        return getattr(grpc, f"{shape}_rpc_method_handler")(
            several if handler.response_streaming else one,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _health() -> grpc.GenericRpcHandler:
    """Return the handler of health checks: all services serve (see `_rpcs.HEALTH_CHECK`)."""

    def check(request: StringValue, context: grpc.ServicerContext) -> Int32Value:
        if request.value not in ("", *_rpcs.SERVICES):
            _status.abort(context, NotFound("UNKNOWN", "no such service"))
        return Int32Value(value=HealthStatus.SERVING.value)

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=StringValue.FromString,
        response_serializer=Int32Value.SerializeToString,
    )
    service, _, name = _rpcs.HEALTH_CHECK.path.strip("/").partition("/")
    return grpc.method_handlers_generic_handler(service, {name: handler})


def _no_key() -> str:
    """Send no key, whatever the environment says."""
    return ""
