"""The way of images: decoded and scaled on threads, a bounded number at once, then queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from time import perf_counter

from embedder_server.batching import Budget
from embedder_server.device_loop import DeviceLoop
from embedder_server.models.base import EmbeddingModel
from embedder_server.prepare import PreparedImage, prepare_image
from embedder_server.preprocess.images import ImageDecoder
from embedder_server.request_state import RequestState
from embedder_server.requests import ImageFile, ItemResult
from embedder_server.types import Modality, Priority
from embedder_server.worker_pool import WorkerPool
from sentinel_core.errors import SentinelError

# Decoded images that may wait for the device, in batches. More would only cost memory.
_BATCHES_AHEAD = 3


class ImageLane:
    """Decodes ahead of the device, but not far. Make and use it inside one event loop.

    Args:
        model: Whose preprocessing is used.
        device: Where the pixels go.
        decoder: With the limits of this worker.
        threads: Threads that decode.
        budgets: Of the device's image batches, by priority.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        device: DeviceLoop,
        decoder: ImageDecoder,
        *,
        threads: int,
        budgets: Mapping[Priority, Budget],
    ) -> None:
        self._model = model
        self._device = device
        self._decoder = decoder
        self._pool = WorkerPool("decode", threads)
        self._slots = {
            priority: asyncio.Semaphore(threads + _BATCHES_AHEAD * budget.max_items)
            for priority, budget in budgets.items()
        }

    def close(self) -> None:
        """Release the threads."""
        self._pool.close()

    async def embed(
        self,
        request: RequestState,
        index: int,
        file: ImageFile,
        results: list[ItemResult | None],
    ) -> None:
        """Put the result of one image at its index in `results`."""
        options = request.options
        start = perf_counter()
        async with self._slots[options.priority]:
            # Waiting for a slot is waiting for the device, which frees them.
            request.note_queued(perf_counter() - start)
            with request.preparing():
                prepared: PreparedImage = await self._pool.run(
                    options.priority,
                    partial(
                        prepare_image, self._model, self._decoder, file, options.thumbnail_side
                    ),
                )
            request.note_prepared(prepared.decode_s, prepared.preprocess_s)
            if isinstance(prepared.payload, SentinelError):
                results[index] = ItemResult(prepared.payload, image=prepared.facts)
                return
            submission = self._device.submit(
                Modality.IMAGE, options.priority, [(prepared.payload, 1)], request.answer_by
            )
            request.submissions.append(submission)
            [embedded] = await submission.results()
        request.note_embedded([embedded])
        results[index] = ItemResult(embedded.vector, embedded.norm, image=prepared.facts)
