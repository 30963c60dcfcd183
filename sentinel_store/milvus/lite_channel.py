"""Call Milvus Lite's service as functions: a gRPC channel to a servicer in this process.

pymilvus speaks to Lite by gRPC, as to any Milvus. But Lite runs in this process: a connection would
write each request and answer to a socket and read it again, in threads that take turns with the
event loop. Through this channel both sides have the same message, and a call runs in the thread
that makes it. So no call ends by its timeout; whoever waits for it may give up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

import grpc

_Metadata = tuple[tuple[str, str | bytes], ...]


class LiteChannel(grpc.Channel):
    """Use from any thread. It has what pymilvus calls: methods with one request and one answer."""

    def __init__(self, servicer: Any) -> None:
        """Call the methods of `servicer`, a `MilvusServiceServicer`."""
        self._servicer = servicer
        self._changed = threading.Condition()
        self._running = 0
        self._is_closed = False

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return _Method(self, getattr(self._servicer, method.rpartition("/")[2]))

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Have no such methods: pymilvus's client calls none."""

    stream_unary = stream_stream = unary_stream

    def call(self, behavior: Callable[[Any, _Context], Any], request: Any, sent: _Metadata) -> Any:
        """Call a method of the servicer.

        Raises:
            grpc.RpcError: It failed, with its code, or with UNKNOWN if it raised without one.
            ValueError: The channel is closed.
        """
        with self._changed:
            if self._is_closed:
                raise ValueError("Milvus Lite is closed")
            self._running += 1
        context = _Context(sent)
        try:
            answer = behavior(request, context)
        except Exception as error:
            # Methods that Lite lacks set one and then raise. pymilvus does not repeat those calls.
            if context.code is not grpc.StatusCode.OK:
                raise _Failure(context.code, context.details) from error
            raise _Failure(grpc.StatusCode.UNKNOWN, f"Milvus Lite failed: {error}") from error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
        if context.code is not grpc.StatusCode.OK:
            raise _Failure(context.code, context.details)
        return answer

    def close(self) -> None:
        """Refuse calls from now on; return when those that run have ended."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._running)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Do nothing: the connection is never lost."""

    def unsubscribe(self, callback: Any) -> None:
        """Do nothing."""

    def __enter__(self) -> LiteChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    """One method, as pymilvus and its interceptors call it."""

    def __init__(self, channel: LiteChannel, behavior: Callable[[Any, _Context], Any]) -> None:
        self._channel = channel
        self._behavior = behavior

    def __call__(self, request: Any, *, metadata: _Metadata | None = None, **_: Any) -> Any:
        return self._channel.call(self._behavior, request, metadata or ())

    def with_call(self, request: Any, **options: Any) -> tuple[Any, None]:
        return self(request, **options), None

    def future(self, request: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(self(request, **options))
        except grpc.RpcError as error:
            done.set_exception(error)
        return done


class _Context:
    """What Lite asks of the context of a call."""

    def __init__(self, sent: _Metadata) -> None:
        self._sent = sent
        self.code, self.details = grpc.StatusCode.OK, ""

    def invocation_metadata(self) -> _Metadata:
        return self._sent

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


class _Failure(grpc.RpcError):
    """A call without an answer."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def result(self) -> NoReturn:  # interceptors ask for it
        raise self
