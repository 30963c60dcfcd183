"""Observe each call from its begin to its end: access lines, durations, and what it sends back.

Every call sends its `x-request-id` back in its trailers, also a refused one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc

from sentinel_core.access import audit
from sentinel_core.calls import REQUEST_ID_KEY, Call, current_call
from sentinel_core.load_report import LOAD_REPORT_KEY
from sentinel_core.metrics import ServerMetrics
from sentinel_core.responses import MAX_RESPONSE_KEY

access_logger = logging.getLogger("sentinel.access")

_OUR_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
# Handlers keep to the limit of their method themselves, and then know in which stage they were.
_AFTER_HANDLER_S = 0.5
# Who has not read the answer so long after the call's end loses the connection.
ANSWER_GRACE_S = 15.0
_MAX_REQUEST_ID = 128

Trailers = tuple[tuple[str, str | bytes], ...]

if TYPE_CHECKING:  # generic only in its type stubs
    Context = grpc.aio.ServicerContext[Any, Any]


class Observer:
    """Opens a `Call` for each call, and closes it.

    Attributes:
        open_calls: Those that gRPC has not done with; their handlers may have ended.
    """

    def __init__(self) -> None:
        self.open_calls: set[Call] = set()

    def begin(self, method: str, seconds: float, context: Context) -> Call:
        """Open a call that may take `seconds`; `end` must follow.

        Reads everything that `end` needs from the context now: when a caller leaves a stream that
        waits for it to read, the stream is closed only after gRPC has freed the call. Asking a
        freed call for its peer ends the process (grpcio 1.85.1: a null pointer in
        `grpc_call_get_peer`).
        """
        request_id, asks_for_bytes, header_bytes = "", "", 0
        for key, value in context.invocation_metadata() or ():
            header_bytes += len(key) + len(value)
            if not isinstance(value, str):
                continue
            if key == REQUEST_ID_KEY and value.isprintable() and value.isascii():
                request_id = value[:_MAX_REQUEST_ID]
            elif key == MAX_RESPONSE_KEY:
                asks_for_bytes = value
        call = Call(method, request_id) if request_id else Call(method)
        call.asks_for_bytes = asks_for_bytes
        call.header_bytes = header_bytes
        call.started_at = perf_counter()
        left = context.time_remaining()
        most = seconds + _AFTER_HANDLER_S
        call.ends_at = call.started_at + (most if left is None else min(left, most))
        call.answer_by = call.ends_at + ANSWER_GRACE_S
        call.peer = context.peer()
        self.open_calls.add(call)
        # The stubs demand a class, and not a function.
        context.add_done_callback(lambda _: self.open_calls.discard(call))  # type: ignore[arg-type]
        current_call.set(call)
        return call

    def trailers(self, call: Call) -> Trailers:
        """Return what a call sends back at its end, however it ends."""
        return ((REQUEST_ID_KEY, call.request_id),)

    def end(self, call: Call, context: Context, error: BaseException | None) -> None:
        """Close a call; `error` is how its handler ended."""


class CallLog(Observer):
    """Writes one access line and one duration per call, at its end."""

    def __init__(self, metrics: ServerMetrics) -> None:
        super().__init__()
        self._in_flight = 0
        metrics.requests_in_flight.set_function(lambda: self._in_flight)
        self._errors = metrics.errors
        self._load = metrics.load
        # Looking a child up by its labels costs as much as observing it. Bounded: methods x codes.
        self._duration = cache(metrics.request_duration.labels)

    def begin(self, method: str, seconds: float, context: Context) -> Call:
        self._in_flight += 1
        return super().begin(method, seconds, context)

    def trailers(self, call: Call) -> Trailers:
        return (*super().trailers(call), (LOAD_REPORT_KEY, self._load.report()))

    def end(self, call: Call, context: Context, error: BaseException | None) -> None:
        now = perf_counter()
        seconds = now - call.started_at
        self._in_flight -= 1
        code = "OK" if error is None else _code(call, context, error, now)
        self._duration(call.method, code).observe(seconds)
        self._load.note(code)
        if error is not None:
            self._errors.labels(call.method, call.reason or code).inc()
        audit.note(call, code)
        level = logging.ERROR if code in _OUR_FAULT else logging.INFO
        if access_logger.isEnabledFor(level):
            fields = {
                "method": call.method,
                "code": code,
                "reason": call.reason,
                "ms": round(seconds * 1000, 2),
                "items": call.items,
                "request_id": call.request_id,
                "peer": call.peer,
                "who": call.caller.id,
            }
            # After gRPC has taken the answer or status that the caller waits for.
            asyncio.get_running_loop().call_soon(access_logger.handle, _Line(level, fields))


class _Line(logging.LogRecord):
    """An access line: a record that looks up no place in the code, no thread and no process.

    They are the same for all lines, and looking them up costs more than the rest of the line.
    """

    _COMMON = vars(logging.makeLogRecord({"name": access_logger.name, "msg": "call"}))

    def __init__(self, level: int, fields: Mapping[str, Any]) -> None:
        now = time.time()
        self.__dict__.update(
            self._COMMON,
            levelno=level,
            levelname=logging.getLevelName(level),
            created=now,
            msecs=now % 1 * 1000,
            **fields,
        )


def _code(call: Call, context: Context, error: BaseException, now: float) -> str:
    """Return how a call ended; `context.code()` knows only what abort() set."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # An expired deadline and a caller who left both arrive as a cancellation.
        return "DEADLINE_EXCEEDED" if now >= call.ends_at else "CANCELLED"
    status: Any = context.code()
    return status.name if isinstance(status, grpc.StatusCode) else "UNKNOWN"
