"""One access line and one duration per call, measured at its end, streams included."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any

import grpc
from prometheus_client import Histogram

from sentinel_core.calls import REQUEST_ID_KEY, Call, current_call
from sentinel_core.metrics import ServerMetrics

logger = logging.getLogger("sentinel.access")

_OUR_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


class Observer:
    """Logs and measures; also opens the `Call` that the layers below fill in."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._in_flight = metrics.requests_in_flight
        self._durations = metrics.request_duration
        self._errors = metrics.errors
        # Looking a child up by its labels costs as much as observing it. Bounded: methods x codes.
        self._children: dict[tuple[str, str], Histogram] = {}

    def begin(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Open a call; `end` must follow.

        What `end` needs is asked for here: when a caller leaves a stream that waits for it to
        read, the stream is closed only after gRPC has freed the call, and asking that one for
        its peer ends the process (grpcio 1.85.1: a null pointer in `grpc_call_get_peer`).
        """
        request_id = ""
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                request_id = value[:128]
        call = Call(method, request_id) if request_id else Call(method)
        call.started_at = perf_counter()
        left = context.time_remaining()
        if left is not None:
            call.ends_at = call.started_at + left
        call.peer = context.peer()
        current_call.set(call)
        self._in_flight.inc()
        return call

    def end(
        self,
        call: Call,
        context: grpc.aio.ServicerContext[Any, Any],
        error: BaseException | None,
    ) -> None:
        """Count and log a call, by how it ended."""
        now = perf_counter()
        seconds = now - call.started_at
        self._in_flight.dec()
        code = "OK" if error is None else _code(call, context, error, now)
        self._duration(call.method, code).observe(seconds)
        if error is not None:
            self._errors.labels(call.method, call.reason or code).inc()
        level = logging.ERROR if code in _OUR_FAULT else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "method": call.method,
                "code": code,
                "reason": call.reason,
                "ms": round(seconds * 1000, 2),
                "items": call.items,
                "request_id": call.request_id,
                "peer": call.peer,
            }
            # When gRPC has the answer or the status that the caller waits for.
            asyncio.get_running_loop().call_soon(_write_line, level, fields)

    def _duration(self, method: str, code: str) -> Histogram:
        child = self._children.get((method, code))
        if child is None:
            child = self._children[method, code] = self._durations.labels(method, code)
        return child


def _write_line(level: int, fields: dict[str, Any]) -> None:
    # Not `logger.log`, which walks the stack for a line number that is always this one.
    record = logger.makeRecord(logger.name, level, "", 0, "call", (), None, extra=fields)
    logger.handle(record)


def _code(
    call: Call, context: grpc.aio.ServicerContext[Any, Any], error: BaseException, now: float
) -> str:
    """Return how a call ended; `context.code()` knows only what abort() set."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # A deadline and a caller who left both arrive as a cancellation.
        return "DEADLINE_EXCEEDED" if now >= call.ends_at else "CANCELLED"
    status: Any = context.code()
    return status.name if isinstance(status, grpc.StatusCode) else "UNKNOWN"
