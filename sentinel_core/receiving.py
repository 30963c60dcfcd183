"""Receive the messages of requests: bounded in bytes, in time, and in how many arrive at once.

gRPC does not tell how much of a message has arrived, only when it is whole. So each message that is
being received counts as the largest one. Most messages arrive at once: a few places, the fast lane,
serve all of them. What takes longer moves to the slow lane, or is refused if that is full. So
callers that send slowly, or stop, never keep others waiting for longer than a moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from sentinel_core.calls import Call, Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SentinelError,
)
from sentinel_core.memory import MemoryBudget
from sentinel_core.wire import SMALL_BYTES, MessagePlan, has_more_parts

if TYPE_CHECKING:  # generic only in its type stubs
    Context = grpc.aio.ServicerContext[Any, Any]

# Parts of the memory budget that the lanes may fill.
_FAST = 1 / 8
_SLOW = 3 / 16
_STREAMS = 1 / 8
_FAST_S = 0.1
_LATE_S = 0.01
_MOST_EXCUSES = 10
# For one message: 60 MB at 1 MB/s. Who takes more than _PATIENCE_S may lose the place to others.
_LONGEST_S = 60.0
_PATIENCE_S = 10.0
_RETRY_AFTER_S = 1.0
# Between the messages of a stream.
_IDLE_S = 600.0
# What comes besides messages: this with a call, this with a message, and a little for frames.
_HEADERS_BYTES = 1024
_FRAME_BYTES = 64
_ON_THE_WIRE = 1.02
_PER_SENT_BYTE = 1 / 500
# A message as it came, parsed, as our values, as messages of the next hop, and as they are sent.
_COPIES = 6
# What needs no share; the count of calls bounds it.
_NEGLIGIBLE_BYTES = 16 * 1024
_SHARE_WAIT_S = 5.0
# The most fields and elements of a message; 256 items with 64 fields each have less.
_MAX_PARTS = 100_000
# Larger ones are counted and parsed in a thread.
_IN_LOOP_BYTES = 1024 * 1024


class Inflow:
    """What came over each connection in whole messages, and the streams that wait for more.

    gRPC's names of the connections' peers are the keys. `ConnectionGuard` compares this with what
    the system has counted.

    Attributes:
        stream_bytes: What messages of streams may hold together before they are whole.
    """

    def __init__(self, stream_bytes: int) -> None:
        self.stream_bytes = stream_bytes
        self._waiting: dict[str, set[_Waiting]] = {}
        self._expected: dict[str, float] = {}

    def expect(self, peer: str, size: float) -> None:
        """Note bytes that came with a call or as a whole message."""
        self._expected[peer] = self._expected.get(peer, 0.0) + size

    def expected(self, peer: str) -> float:
        """Return all bytes that `expect` has noted of a peer."""
        return self._expected.get(peer, 0.0)

    def waiting(self) -> list[str]:
        """Return the peers with streams that wait for a message."""
        return list(self._waiting)

    def forget(self, has_left: Callable[[str], bool]) -> None:
        """Forget the peers that are not connected any more."""
        for peer in [peer for peer in self._expected if has_left(peer)]:
            del self._expected[peer]

    def end_streams(self, peer: str, error: SentinelError) -> None:
        """End the waiting streams of a peer with an error."""
        for waiting in self._waiting.get(peer, ()):
            waiting.end(error)

    def add(self, peer: str, waiting: _Waiting) -> None:
        """Note a stream that waits."""
        self._waiting.setdefault(peer, set()).add(waiting)

    def remove(self, peer: str, waiting: _Waiting) -> None:
        """Note that it does not wait any more."""
        streams = self._waiting[peer]
        streams.remove(waiting)
        if not streams:
            del self._waiting[peer]


class _Waiting:
    """A stream that waits for its next message."""

    def __init__(self) -> None:
        self.limit = asyncio.timeout(_IDLE_S)
        self.error: SentinelError = DeadlineExceeded(
            "STREAM_STALLED",
            f"no message came within {_IDLE_S:.0f} s; open a new stream when there is more",
        )

    def end(self, error: SentinelError) -> None:
        self.error = error
        self.limit.reschedule(asyncio.get_running_loop().time())


@dataclass(frozen=True, slots=True)
class Receivers:
    """How a server receives: our methods have two lanes, gRPC's own (health) have one place.

    So health checks never wait behind our calls.
    """

    ours: MessageReceiver
    standard: MessageReceiver
    inflow: Inflow

    @classmethod
    def within(cls, memory: MemoryBudget, largest: int) -> Receivers:
        """Return receivers that fill their parts of a budget if every message does.

        Args:
            memory: Loses these parts.
            largest: Bytes of the largest message.
        """
        fast = max(1, int(memory.limit * _FAST) // largest)
        slow = max(1, int(memory.limit * _SLOW) // largest)
        inflow = Inflow(max(largest, int(memory.limit * _STREAMS)))
        memory.set_aside((fast + slow + 1) * largest + inflow.stream_bytes)
        return cls(
            MessageReceiver(memory, inflow, fast=fast, slow=slow),
            MessageReceiver(memory, inflow, fast=1, slow=0),
            inflow,
        )


class MessageReceiver:
    """Reads messages of calls from their contexts. Use inside one event loop."""

    def __init__(self, memory: MemoryBudget, inflow: Inflow, *, fast: int, slow: int) -> None:
        """Have that many places in each lane; without a slow lane, slow callers are refused."""
        self._memory = memory
        self._inflow = inflow
        self._fast = asyncio.Semaphore(fast)
        self._slow = slow
        self._slow_of_peer = max(1, slow // 2)
        self._in_slow: list[_Reading] = []

    async def first(self, context: Context, call: Call) -> bytes | None:
        """Return the first message of a call, and give the call its share of the memory.

        None: the caller has ended the call without a message.

        Raises:
            ResourceExhausted: MEMORY_EXHAUSTED, for the message or for the work on it.
            DeadlineExceeded: STREAM_STALLED, it takes too long.
        """
        self._inflow.expect(call.peer, _HEADERS_BYTES + call.header_bytes)
        await self._fast.acquire()
        reading = _Reading(self, call.peer)
        try:
            return await reading.message(context, call)
        finally:
            self._leave(reading)

    async def next(self, context: Context, call: Call) -> bytes | None:
        """Return a further message of a stream, which may be idle before; else as `first`."""
        waiting = _Waiting()
        self._inflow.add(call.peer, waiting)
        try:
            async with waiting.limit:
                data: Any = await context.read()
        except TimeoutError:
            raise waiting.error from None
        finally:
            self._inflow.remove(call.peer, waiting)
        return await self.with_share(data, call)

    def note_sent(self, call: Call, size: int) -> None:
        """Note a response, for which the caller's transport answers with a few bytes."""
        self._inflow.expect(call.peer, _PER_SENT_BYTE * size)

    async def with_share(self, data: Any, call: Call) -> bytes | None:
        """Give `call` the memory that work on `data` needs; return `data`, or None for EOF."""
        if data is grpc.aio.EOF:
            return None
        self._inflow.expect(call.peer, _ON_THE_WIRE * len(data) + _FRAME_BYTES)
        if len(data) > _NEGLIGIBLE_BYTES:
            self._memory.note_freed(len(data))  # gRPC has had it, too
            call.share = await self._memory.take(
                _COPIES * len(data), Deadline.within(_SHARE_WAIT_S)
            )
        message: bytes = data
        return message

    def _leave(self, reading: _Reading) -> None:
        if reading.is_slow:
            self._in_slow.remove(reading)
        else:
            self._fast.release()

    def slow_down(self, reading: _Reading) -> bool:
        """Move a reading to the slow lane; return False if it is full."""
        of_peer = Counter(other.peer for other in self._in_slow)[reading.peer]
        if len(self._in_slow) >= self._slow or of_peer >= self._slow_of_peer:
            oldest = next(
                (
                    other
                    for other in self._in_slow  # in the order of their arrival
                    if of_peer < self._slow_of_peer or other.peer == reading.peer
                ),
                None,
            )
            if oldest is None or not oldest.give_way():
                return False
        reading.is_slow = True
        self._in_slow.append(reading)
        self._fast.release()
        return True


class _Reading:
    """One message on its way."""

    __slots__ = (
        "_error",
        "_excuses",
        "_limit",
        "_loop",
        "_receiver",
        "_since",
        "_timer",
        "is_slow",
        "peer",
    )

    def __init__(self, receiver: MessageReceiver, peer: str) -> None:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._limit = asyncio.timeout(None)
        self._error: Exception | None = None
        self._excuses = _MOST_EXCUSES
        self._timer = self._loop.call_later(_FAST_S, self._on_slow, self._since + _FAST_S)
        self.peer = peer
        self.is_slow = False

    async def message(self, context: Context, call: Call) -> bytes | None:
        try:
            async with self._limit:
                return await self._receiver.with_share(await context.read(), call)
        except TimeoutError:
            if self._error is None:
                raise
            raise self._error from None
        finally:
            self._timer.cancel()

    def _on_slow(self, due: float) -> None:
        now = self._loop.time()
        if now - due > _LATE_S and self._excuses:
            # We are late ourselves: the message may be here, and nobody has had time to look.
            self._excuses -= 1
            self._timer = self._loop.call_later(_FAST_S, self._on_slow, now + _FAST_S)
        elif self._receiver.slow_down(self):
            self._end_at(self._since + _LONGEST_S, _stalled())
        else:
            error = ResourceExhausted(
                "MEMORY_EXHAUSTED",
                "others are sending large messages, and this process has no memory to receive "
                "this one meanwhile; retry later",
                retry_after_s=_RETRY_AFTER_S,
            )
            self._end_at(self._loop.time(), error)

    def give_way(self) -> bool:
        """End this reading for another one, if it has had its time."""
        if self._loop.time() - self._since < _PATIENCE_S:
            return False
        self._end_at(self._loop.time(), _stalled())
        return True

    def _end_at(self, when: float, error: Exception) -> None:
        self._error = error
        self._limit.reschedule(when)


def _stalled() -> DeadlineExceeded:
    return DeadlineExceeded(
        "STREAM_STALLED",
        f"the message was not sent within {_LONGEST_S:.0f} s, or within {_PATIENCE_S:.0f} s while "
        "others waited; send smaller messages",
    )


class MessageParser:
    """Turns the bytes of one method's requests into messages."""

    def __init__(self, path: str, deserialize: Callable[[bytes], Any], max_bytes: int) -> None:
        """Parse requests of the method with this path, such as `/package.Service/Method`."""
        name = path.strip("/").replace("/", ".")
        method = descriptor_pool.Default().FindMethodByName(name)
        self._plan = MessagePlan(method.input_type)
        self._deserialize = deserialize
        self._max_bytes = max_bytes

    async def parse(self, data: bytes) -> Any:
        """Return the message; larger ones are parsed in a thread.

        Raises:
            InvalidArgument: REQUEST_MALFORMED or BATCH_TOO_LARGE.
        """
        if len(data) > self._max_bytes:
            raise InvalidArgument(
                "BATCH_TOO_LARGE",
                f"a request of this method has at most {self._max_bytes} bytes, not {len(data)}; "
                "send less in one request",
                limit=self._max_bytes,
            )
        if len(data) > _IN_LOOP_BYTES:
            return await asyncio.to_thread(self._parsed, data)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Any:
        if len(data) > SMALL_BYTES and has_more_parts(data, self._plan, _MAX_PARTS):
            raise InvalidArgument(
                "BATCH_TOO_LARGE",
                f"the request has more than {_MAX_PARTS} fields and elements; send less in one "
                "request",
                limit=_MAX_PARTS,
            )
        try:
            return self._deserialize(data)
        except DecodeError:
            raise InvalidArgument(
                "REQUEST_MALFORMED",
                "the request is not a message of this method, or is nested more than 100 deep; "
                "compare the client's stubs with the server's protos",
            ) from None
