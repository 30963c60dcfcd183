"""An IngestItems stream that a test sends to and reads from step by step."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from search_server.image_uris.originals import Originals
from search_server.items.item_embedder import ItemEmbedder
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from tests.search_server.conftest import Gateway, image

_END = object()


def item_embedder(workers: Any, metrics: ServerMetrics) -> ItemEmbedder:
    """Return what embeds items with these workers, and may read any original."""
    originals = Originals(["file:///"], max_bytes=1_000, timeout_s=30.0)
    memory = MemoryBudget(2**30, metrics)
    return ItemEmbedder(workers, originals, memory, metrics, thumbnail_side=16)


class Stream:
    """Leaving the block cancels the stream if it is still open."""

    def __init__(self, gateway: Gateway, collection: str | None) -> None:
        """Open a stream; None as the collection sends no `start`."""
        self._requests: queue.Queue[object] = queue.Queue()
        if collection is not None:
            self._requests.put(pb.IngestItemsRequest(start=pb.IngestStart(collection=collection)))
        self._call = gateway.items.IngestItems(self._pull(), timeout=50)

    def _pull(self) -> Iterator[pb.IngestItemsRequest]:
        while (message := self._requests.get()) is not _END:
            assert isinstance(message, pb.IngestItemsRequest)
            yield message

    def send(self, sequence: int, *items: pb.Item) -> None:
        batch = pb.IngestBatch(sequence=sequence, items=items)
        self._requests.put(pb.IngestItemsRequest(batch=batch))

    def send_message(self, message: pb.IngestItemsRequest) -> None:
        self._requests.put(message)

    def half_close(self) -> None:
        self._requests.put(_END)

    def advice(self) -> pb.IngestAdvice:
        message = self.next()
        assert message.WhichOneof("message") == "advice", message
        return message.advice

    def ack(self) -> pb.IngestAck:
        """Return the next acknowledgement; advice before it is skipped."""
        while True:
            message = self.next()
            if message.WhichOneof("message") == "ack":
                return message.ack
            assert message.WhichOneof("message") == "advice", message

    def next(self) -> pb.IngestItemsResponse:
        message: pb.IngestItemsResponse = next(self._call)
        return message

    def rest(self) -> list[pb.IngestItemsResponse]:
        """Half-close and return all that is left."""
        self.half_close()
        return list(self._call)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.half_close()
        self._call.cancel()


def picture(seed: int, side: int = 24) -> bytes:
    """A small JPEG unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def picture_item(seed: int, item_id: str = "") -> pb.Item:
    return pb.Item(id=item_id, content=image(picture(seed)))
