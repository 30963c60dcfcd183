"""One access line and one duration per call, measured at its end, streams included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import grpc

from sentinel_core.calls import REQUEST_ID_KEY, Call, current_call
from sentinel_core.interceptors.base import AroundInterceptor
from sentinel_core.metrics import ServerMetrics

logger = logging.getLogger("sentinel.access")

_OUR_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


class ObserveInterceptor(AroundInterceptor):
    """Logs and measures; also opens the `Call` that the layers below fill in."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    @asynccontextmanager
    async def around(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[None]:
        call = _open_call(method, context)
        start = perf_counter()
        code = "OK"
        try:
            with self._metrics.requests_in_flight.track_inprogress():
                yield
        except asyncio.CancelledError:
            # A deadline and a caller who left both arrive as a cancellation.
            left = context.time_remaining()
            code = "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"
            raise
        except BaseException:
            status: Any = context.code()  # what abort() set
            code = status.name if isinstance(status, grpc.StatusCode) else "UNKNOWN"
            raise
        finally:
            self._finish(call, code, perf_counter() - start, context.peer())

    def _finish(self, call: Call, code: str, seconds: float, peer: str) -> None:
        self._metrics.request_duration.labels(call.method, code).observe(seconds)
        logger.log(
            logging.ERROR if code in _OUR_FAULT else logging.INFO,
            "call",
            extra={
                "method": call.method,
                "code": code,
                "reason": call.reason,
                "ms": round(seconds * 1000, 2),
                "items": call.items,
                "request_id": call.request_id,
                "peer": peer,
            },
        )


def _open_call(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
    call = Call(method)
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value:
            call.request_id = value[:128]
    current_call.set(call)
    return call
