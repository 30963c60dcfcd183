"""A request's way through the worker: admitted, prepared, batched, embedded, timed.

What one request under way knows of itself: its answers' times and the stage it is in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import perf_counter
from typing import Any

from PIL import Image

from embedder_server.engine.admission import Admission
from embedder_server.engine.batching import BatchQueue, Budget
from embedder_server.engine.device_loop import DeviceLoop
from embedder_server.engine.lanes import ImageLane, TextLane
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.engine.outcomes import OutcomeCounter, reshape
from embedder_server.engine.requests import (
    Content,
    EmbedOptions,
    EmbedOutcome,
    ImageFile,
    ItemResult,
    RequestState,
)
from embedder_server.images.decoder import ImageDecoder
from embedder_server.models.base import EmbeddingModel
from embedder_server.models.runtimes.memory import memory_as_load_error
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Modality, ModelInfo, Priority
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    SentinelError,
    Unavailable,
    first_error,
)

# Texts of a request that are prepared in a row and then queued, while the next are prepared.
_TEXTS_PER_JOB = 32
# Kept back from the caller's deadline, so that our answer with a reason still reaches it.
_ANSWER_MARGIN_S = 0.005
_CLOSE_TIMEOUT_S = 5.0
_FEW = 8
# More texts than this gain so little on a CPU that they had better leave some behind.
_EAGER_TEXTS_ON_CPU = 16


class Engine:
    """Embeds requests of many callers at once with one model.

    Make and use it inside one event loop. Owns its threads and, once started, the model.

    Args:
        model: Loaded; its towers are called from one thread only.
        settings: Limits, budgets and thread counts.
        metrics: Where everything is counted.
        on_failure: Called if the device thread dies; the worker is of no use then.

    Attributes:
        stalled: Set it while the device does not come back from a batch: new requests are
            refused.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        settings: EmbedderSettings,
        metrics: EmbedderMetrics,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._model = model
        self._admission = Admission(settings.max_queue_items, metrics)
        self._outcomes = OutcomeCounter(metrics)
        self.stalled = False
        self._budgets = budgets = _budgets(settings)
        self._device = DeviceLoop(
            {Modality.TEXT: model.embed_texts, Modality.IMAGE: model.embed_images},
            {modality: BatchQueue(budgets[modality]) for modality in Modality},
            dimensions=model.info.dimensions,
            metrics=metrics,
            on_failure=on_failure,
        )
        self._texts = TextLane(model, self._device, max_chars=settings.max_text_chars)
        self._images = ImageLane(
            model,
            self._device,
            ImageDecoder(
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_image_pixels,
                model_side=model.info.image_size,
            ),
            threads=settings.effective_decode_threads,
            budgets=budgets[Modality.IMAGE],
        )

    @property
    def info(self) -> ModelInfo:
        """The model that is served."""
        return self._model.info

    def busy_seconds(self) -> float:
        """Return how long the device has been at the running batch; 0 when idle."""
        return self._device.busy_seconds()

    async def start(self) -> None:
        """Start the device thread and warm the model up: runtimes make kernels for each size.

        Raises:
            ModelLoadError: The device has no memory for a single content.
            Exception: What the model raised.
        """
        samples: dict[Modality, Any] = {}
        if Modality.TEXT in self.info.modalities:
            samples[Modality.TEXT] = await self._texts.start()
        if Modality.IMAGE in self.info.modalities:
            samples[Modality.IMAGE] = await asyncio.to_thread(self._sample_image)
        with memory_as_load_error(self.info.device):
            await self._device.start(_warm_up(samples, self._budgets))

    def _sample_image(self) -> Any:
        side = self.info.image_size
        return self._model.preprocess(Image.new("RGB", (side, side), "teal"))

    async def close(self) -> None:
        """Refuse new work, let the running batch end, release threads and model."""
        ended = await self._device.close(_CLOSE_TIMEOUT_S)
        self._texts.close()
        self._images.close()
        if ended:  # else the model is still being called
            self._model.close()

    async def embed(
        self, contents: Sequence[Content], options: EmbedOptions, deadline: Deadline
    ) -> EmbedOutcome:
        """Return one result for each content, in order.

        Raises:
            Unavailable: DEVICE_STALLED; nothing was begun.
            ResourceExhausted: QUEUE_FULL; nothing was begun.
            DeadlineExceeded: OUT_OF_TIME; the work that was not begun is dropped.
        """
        start = perf_counter()
        contents = [self._supported(content) for content in contents]
        counts = _counts(contents)
        request = RequestState(options, deadline.at - _ANSWER_MARGIN_S)
        try:
            self._check_begin(deadline)
            with self._admission.admit(counts):
                results = await self._embed_in_time(request, contents)
        except SentinelError as error:
            self._outcomes.count_failure(counts, error.reason)
            raise
        except asyncio.CancelledError:
            self._outcomes.count_failure(counts, "CANCELLED")
            raise
        reshape(results, options, self.info.dimensions)
        request.timings.total = perf_counter() - start
        self._outcomes.observe(contents, results, request.timings)
        return EmbedOutcome(results, request.timings)

    def _supported(self, content: Content) -> Content:
        modality = _modality(content)
        if modality is None or modality in self.info.modalities:
            return content
        return InvalidArgument(
            "MODALITY_UNSUPPORTED",
            f"{self.info.name!r} embeds no content of kind {modality}; use another model",
            modality=modality,
        )

    def _check_begin(self, deadline: Deadline) -> None:
        """Refuse what could only fail, before it costs anything."""
        if self.stalled:
            seconds = int(self._device.busy_seconds())
            raise Unavailable(
                "DEVICE_STALLED",
                f"this worker's device has been at one batch for {seconds} s; retry on another one",
                seconds=seconds,
            )
        if deadline.remaining() <= _ANSWER_MARGIN_S:
            raise _out_of_time("admission")

    async def _embed_in_time(
        self, request: RequestState, contents: Sequence[Content]
    ) -> list[ItemResult]:
        try:
            async with asyncio.timeout_at(request.answer_by):
                results = await self._embed_all(request, contents)
        except TimeoutError:
            raise _out_of_time(request.stage()) from None
        for result in results:
            # The deadline is the call's, so an item that missed it fails the call.
            if isinstance(result.outcome, DeadlineExceeded):
                raise result.outcome
        return results

    async def _embed_all(
        self, request: RequestState, contents: Sequence[Content]
    ) -> list[ItemResult]:
        results: list[ItemResult | None] = [None] * len(contents)
        texts: list[tuple[int, str]] = []
        jobs = []
        for index, content in enumerate(contents):
            if isinstance(content, str):
                texts.append((index, content))
            elif isinstance(content, ImageFile):
                jobs.append(self._images.embed(request, index, content, results))
            else:
                results[index] = ItemResult(content)
        for first in range(0, len(texts), _TEXTS_PER_JOB):
            part = texts[first : first + _TEXTS_PER_JOB]
            jobs.append(self._texts.embed(request, part, results))
        if len(jobs) == 1:  # the common search: spares a task
            await jobs[0]
        elif jobs:
            await _together(jobs)
        return [result for result in results if result is not None]


async def _together(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all jobs; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def _modality(content: Content) -> Modality | None:
    if isinstance(content, str):
        return Modality.TEXT
    return Modality.IMAGE if isinstance(content, ImageFile) else None


def _counts(contents: Sequence[Content]) -> Mapping[Modality, int]:
    counts: dict[Modality, int] = {}
    for content in contents:
        modality = _modality(content)
        if modality is not None:
            counts[modality] = counts.get(modality, 0) + 1
    return counts


def _out_of_time(stage: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        "OUT_OF_TIME", f"the deadline passed in stage {stage}; use a longer one", stage=stage
    )


def _warm_up(
    samples: Mapping[Modality, Any], budgets: Mapping[Modality, Mapping[Priority, Budget]]
) -> list[tuple[Modality, list[Any]]]:
    """Return batches of one, of a few and of the most that may run together, small ones first."""
    batches = []
    for modality, sample in samples.items():
        budget = budgets[modality][Priority.INTERACTIVE]
        length = len(sample.ids) if modality is Modality.TEXT else 1
        most = max(1, min(budget.max_items, budget.max_cost // length))
        batches += [(modality, [sample] * size) for size in {1, min(_FEW, most), most}]
    return sorted(batches, key=lambda batch: len(batch[1]))


def _budgets(settings: EmbedderSettings) -> dict[Modality, dict[Priority, Budget]]:
    texts, bulk_texts = settings.text_batch_items, settings.bulk_text_batch_items
    images, bulk_images = settings.image_batch_items, settings.bulk_image_batch_items
    eager = _EAGER_TEXTS_ON_CPU if settings.device == "cpu" else texts
    return {
        Modality.TEXT: {
            Priority.INTERACTIVE: Budget(texts, settings.text_batch_tokens, eager),
            Priority.BULK: Budget(bulk_texts, settings.bulk_text_batch_tokens, bulk_texts),
        },
        Modality.IMAGE: {
            Priority.INTERACTIVE: Budget(images, images, images),
            Priority.BULK: Budget(bulk_images, bulk_images, bulk_images),
        },
    }
