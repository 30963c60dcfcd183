"""Whom the load generator asks, and how: Sentinel over gRPC, infinity over HTTP.

Requests are built and serialised beforehand, so that the client costs as little as possible of
the machine that it shares with the server. Sentinel's answers are parsed; infinity's are only
read and their status checked, which is to its advantage.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import grpc
import numpy as np

from benchmarks.load import contents
from sentinel.common.v1 import content_pb2 as common
from sentinel.embedding.v1 import embedding_service_pb2 as pb

_CALL_TIMEOUT_S = 60.0
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_TEXTS = 2048
_IMAGES = 128
_PRIORITIES = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "bulk": pb.PRIORITY_BULK,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call gave.

    Attributes:
        code: `OK`, or the status.
        items: Vectors in the answer.
        item_errors: Contents that failed by themselves.
        timings_ms: The server's own account; may be empty.
    """

    code: str
    items: int = 0
    item_errors: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)


Send = Callable[[bytes], Awaitable[Outcome]]


class Target(Protocol):
    """A server to ask."""

    def payloads(self, content: str, per_request: int, priority: str) -> list[bytes]:
        """Return requests, ready to be sent, to go round in."""
        ...

    async def sends(self, callers: int) -> list[Send]:
        """Return a function for each caller that sends one request and waits for the answer."""
        ...


def target_for(kind: str, address: str) -> Target:
    """Return the target at a loopback address.

    Raises:
        ValueError: It is not on this machine.
    """
    host = address.rpartition(":")[0].strip("[]")
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"load goes to loopback addresses only, not to {address}")
    targets: dict[str, Callable[[str], Target]] = {
        "sentinel": SentinelTarget,
        "infinity": InfinityTarget,
    }
    return targets[kind](address)


class SentinelTarget:
    """A worker's EmbeddingService; all callers share one HTTP/2 connection."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._embed: Any = None
        self._blocking: Any = None

    def payloads(
        self,
        content: str,
        per_request: int = 1,
        priority: str = "interactive",
        thumbnail_side: int = 0,
    ) -> list[bytes]:
        return _sentinel_payloads(content, per_request, priority, thumbnail_side)

    async def sends(self, callers: int) -> list[Send]:
        if self._embed is None:  # a channel belongs to the loop that it is made in
            channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
            await channel.channel_ready()
            self._embed = _embed_method(channel)
        return [self._send] * callers

    async def _send(self, payload: bytes) -> Outcome:
        try:
            response = await self._embed(payload, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return Outcome(error.code().name)
        return _outcome(response)

    def send_and_wait(self, payload: bytes) -> Outcome:
        """Ask with gRPC's blocking stub, over a connection of its own."""
        if self._blocking is None:
            channel = grpc.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
            grpc.channel_ready_future(channel).result(_CALL_TIMEOUT_S)
            self._blocking = _embed_method(channel)
        return _outcome(self._blocking(payload, timeout=_CALL_TIMEOUT_S))


def _embed_method(channel: Any) -> Any:
    service = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
    return channel.unary_unary(
        f"/{service}/Embed", response_deserializer=pb.EmbedResponse.FromString
    )


def _outcome(response: pb.EmbedResponse) -> Outcome:
    timings = response.timings
    errors = sum(result.WhichOneof("outcome") == "error" for result in response.results)
    return Outcome(
        "OK",
        len(response.results) - errors,
        errors,
        {
            "total": timings.total.ToNanoseconds() / 1e6,
            "decode": timings.decode.ToNanoseconds() / 1e6,
            "preprocess": timings.preprocess.ToNanoseconds() / 1e6,
            "queue": timings.queue.ToNanoseconds() / 1e6,
            "inference": timings.inference.ToNanoseconds() / 1e6,
            "batch_size": timings.batch_size,
        },
    )


@cache
def _sentinel_payloads(
    content: str, per_request: int, priority: str, thumbnail_side: int
) -> list[bytes]:
    options = pb.EmbedOptions(priority=_PRIORITIES[priority], thumbnail_side=thumbnail_side)
    if content == "mixed":
        groups = _mixed_groups()
    else:
        groups = _groups(_text_contents() if content == "text" else _image_contents(), per_request)
    requests = [pb.EmbedRequest(contents=group, options=options) for group in groups]
    return [request.SerializeToString() for request in requests]


def _text_contents() -> list[common.Content]:
    return [common.Content(text=text) for text in contents.texts(_TEXTS)]


def _image_contents(side: int = contents.SIDE, count: int = _IMAGES) -> list[common.Content]:
    return [_image(data) for data in contents.jpegs(count, side)]


def _image(data: bytes) -> common.Content:
    return common.Content(image=common.Image(data=data))


def _groups(items: list[Any], size: int) -> list[list[Any]]:
    return [items[first : first + size] for first in range(0, len(items) - size + 1, size)]


def _mixed_groups(count: int = 1000, seed: int = 7) -> list[list[common.Content]]:
    """Return what a worker meets in a day: mostly texts, some images, batches, broken files."""
    rng = np.random.default_rng(seed)
    texts = [
        common.Content(text=contents.texts(1, int(words), seed=index)[0])
        for index, words in enumerate(rng.integers(3, 60, size=400))
    ]
    images = _image_contents()
    odd_sizes = [
        content for side in (64, 200, 640, 1280) for content in _image_contents(side, count=6)
    ]
    broken = [_image(content.image.data[:500]) for content in images[:8]] + [_image(b"no image")]

    def some(pool: list[common.Content], number: int = 1) -> list[common.Content]:
        return [pool[index] for index in rng.integers(len(pool), size=number)]

    kinds: list[Callable[[], list[common.Content]]] = [
        lambda: some(texts),
        lambda: some(texts, 8),
        lambda: some(images),
        lambda: some(odd_sizes),
        lambda: some(texts, 2) + some(images),
        lambda: some(broken) + some(texts),
    ]
    chosen = rng.choice(len(kinds), size=count, p=[0.76, 0.05, 0.1, 0.04, 0.03, 0.02])
    return [kinds[kind]() for kind in chosen]


class InfinityTarget:
    """infinity's /embeddings; every caller has a connection of its own."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._connections: list[_Connection] = []

    def payloads(
        self, content: str, per_request: int = 1, priority: str = "interactive"
    ) -> list[bytes]:
        del priority  # it has none
        return _infinity_payloads(content, per_request)

    async def sends(self, callers: int) -> list[Send]:
        for connection in self._connections:  # the server drops those that were idle for 5 s
            connection.close()
        self._connections = [
            _Connection(*await asyncio.open_connection(self._host, self._port, limit=2**22))
            for _ in range(callers)
        ]
        return [connection.send for connection in self._connections]


@cache
def _infinity_payloads(content: str, per_request: int) -> list[bytes]:
    if content == "text":
        inputs = contents.texts(_TEXTS)
    else:
        files = contents.jpegs(_IMAGES)
        inputs = ["data:image/jpeg;base64," + base64.b64encode(file).decode() for file in files]
    payloads = []
    for group in _groups(inputs, per_request):
        fields = {"input": group, "modality": content, "encoding_format": "float"}
        body = json.dumps(fields).encode()
        head = (
            "POST /embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Items: {len(group)}\r\n\r\n"
        )
        payloads.append(head.encode() + body)
    return payloads


class _Connection:
    """One HTTP/1.1 connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    async def send(self, payload: bytes) -> Outcome:
        self._writer.write(payload)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await self._reader.readexactly(length)
        status = head.split()[1]
        if status != "200":
            return Outcome(f"HTTP {status} {body[:200].decode(errors='replace')}")
        return Outcome("OK", int(payload.partition(b"X-Items: ")[2].partition(b"\r")[0]))
