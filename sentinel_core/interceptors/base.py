"""One way to wrap a call, whatever its shape: an async context manager around it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import grpc

# Health and reflection are for machines and must answer whatever we are doing.
_OUR_METHODS = "/sentinel."

_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Runs every call of our own services inside `around`.

    For a response stream the block is open until the stream ends, so what an iteration raises
    passes through it like what a unary handler raises.
    """

    @abstractmethod
    def around(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AbstractAsyncContextManager[None]:
        """Return the context manager that one call runs in."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(_OUR_METHODS):
            return cast("grpc.RpcMethodHandler[Any, Any] | None", handler)
        shape = (handler.request_streaming, handler.response_streaming)
        inner = next(
            behaviour
            for behaviour in (
                handler.unary_unary,
                handler.unary_stream,
                handler.stream_unary,
                handler.stream_stream,
            )
            if behaviour is not None
        )

        async def unary(request: Any, context: Any) -> Any:
            async with self.around(method, context):
                return await inner(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self.around(method, context):
                async for response in inner(request, context):
                    yield response

        return _HANDLERS[shape](
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
