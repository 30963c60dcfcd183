"""Clients of the load generator: what one offers, and Sentinel's Embed call over gRPC.

Requests are built and serialised before a measurement, because the client shares the machine with
the server. Answers are parsed.
"""

from __future__ import annotations

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
TEXTS = 2048
IMAGES = 128
_PRIORITIES = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "bulk": pb.PRIORITY_BULK,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one call.

    Attributes:
        code: `OK`, or the status.
        items: Number of vectors in the answer.
        item_errors: Number of contents that failed.
        timings_ms: The timings that the server measured; may be empty.
    """

    code: str
    items: int = 0
    item_errors: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)


Send = Callable[[bytes], Awaitable[Outcome]]


class EmbedClient(Protocol):
    """A client of an embedding server."""

    def payloads(self, content: str, per_request: int, priority: str) -> list[bytes]:
        """Return serialised requests, to be sent in a cycle."""
        ...

    async def sends(self, callers: int) -> list[Send]:
        """Return a function for each caller; it sends one request and waits for the answer."""
        ...


class SentinelEmbedClient:
    """A client of a worker's EmbeddingService; all callers share one HTTP/2 connection."""

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
        if self._embed is None:  # a channel belongs to its event loop
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
        """Send a request with gRPC's blocking stub, over a separate connection."""
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
        request_contents = _mixed_groups()
    else:
        request_contents = groups(
            _text_contents() if content == "text" else _image_contents(), per_request
        )
    requests = [pb.EmbedRequest(contents=group, options=options) for group in request_contents]
    return [request.SerializeToString() for request in requests]


def _text_contents() -> list[common.Content]:
    return [common.Content(text=text) for text in contents.texts(TEXTS)]


def _image_contents(side: int = contents.SIDE, count: int = IMAGES) -> list[common.Content]:
    return [_image(data) for data in contents.jpegs(count, side)]


def _image(data: bytes) -> common.Content:
    return common.Content(image=common.Image(data=data))


def groups(items: list[Any], size: int) -> list[list[Any]]:
    return [items[first : first + size] for first in range(0, len(items) - size + 1, size)]


def _mixed_groups(count: int = 1000, seed: int = 7) -> list[list[common.Content]]:
    """Return a typical mix: mostly texts, some images, batches and broken files."""
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
