"""Stands before a real Milvus server, passes every call on, and keeps the answers of some back."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

_CALL_TIMEOUT_S = 60.0


@dataclass
class Held:
    """Calls of one name whose answers are kept back until the caller leaves, or `release`.

    Attributes:
        name: Theirs in Milvus's service, for example "Search".
        begun: Is set once one has come.
        left: Is set once the caller of one has left.
    """

    name: str
    begun: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    _over: list[threading.Event] = field(default_factory=list)
    _released: bool = False

    def release(self) -> None:
        """Let all of them go on, and those that come later."""
        self._released = True
        for over in self._over:
            over.set()

    def hold(self, context: grpc.ServicerContext) -> None:
        over = threading.Event()
        self._over.append(over)
        if context.add_callback(over.set):
            self.begun.set()
            if not self._released:
                over.wait(_CALL_TIMEOUT_S)
        if not context.is_active():  # cancelled, or its deadline is over
            self.left.set()


class MilvusFront(grpc.GenericRpcHandler):
    """Passes calls on.

    Attributes:
        uri: Where it listens.
        counts: Calls that have come, by name.
        ends: When the time of each call is over, on the monotonic clock, by name.
    """

    def __init__(self, milvus_uri: str) -> None:
        self.uri = ""
        self.counts: Counter[str] = Counter()
        self.ends: dict[str, list[float]] = defaultdict(list)
        self._failing: tuple[str, float] = ("", 0.0)
        self._held: Held | None = None
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._milvus = grpc.insecure_channel(milvus_uri.removeprefix("http://"), options=options)

    @contextmanager
    def holding(self, name: str) -> Iterator[Held]:
        """Keep back the answers of calls that come during the block."""
        self._held = held = Held(name)
        try:
            yield held
        finally:
            self._held = None

    @contextmanager
    def failing(self, name: str, seconds: float) -> Iterator[None]:
        """Let calls that come during the block fail after this time; a client may repeat them."""
        self._failing = name, seconds
        try:
            yield
        finally:
            self._failing = "", 0.0

    def changed(self, name: str, request: bytes, answer: bytes) -> bytes:
        """Return what the caller gets for Milvus's answer to the call `name`."""
        return answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method: str = handler_call_details.method  # type: ignore[attr-defined]

        def pass_on(request: bytes, context: grpc.ServicerContext) -> bytes:
            name = method.rpartition("/")[2]
            self.counts[name] += 1
            left_s = context.time_remaining()
            self.ends[name].append(math.inf if left_s is None else time.monotonic() + left_s)
            if name == self._failing[0]:
                time.sleep(self._failing[1])
                context.abort(grpc.StatusCode.UNAVAILABLE, "not just now")
            held = self._held
            if held is not None and method.endswith(f"/{held.name}"):
                held.hold(context)
            metadata = [
                (key, value)
                for key, value in context.invocation_metadata()
                if not key.startswith(("grpc-", "user-agent"))
            ]
            try:
                answer: bytes = self._milvus.unary_unary(method)(
                    request, timeout=_CALL_TIMEOUT_S, metadata=metadata
                )
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            return self.changed(name, request, answer)

        return grpc.unary_unary_rpc_method_handler(pass_on)


@contextmanager
def before(milvus_uri: str, kind: type[MilvusFront] = MilvusFront) -> Iterator[MilvusFront]:
    """Run one before a Milvus server for the length of a block."""
    front = kind(milvus_uri)
    server = grpc.server(ThreadPoolExecutor(32), handlers=(front,))
    port = server.add_insecure_port("127.0.0.1:0")
    front.uri = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield front
    finally:
        server.stop(None).wait()
