"""A request's way through the worker: admitted, prepared, batched, embedded, timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

from PIL import Image

from embedder_server.admission import Admission
from embedder_server.batching import BatchQueue, Budget, Embedded
from embedder_server.device_loop import DeviceLoop
from embedder_server.metrics import EmbedderMetrics
from embedder_server.models.base import EmbeddingModel
from embedder_server.prepare import PreparedImage, prepare_image, prepare_texts
from embedder_server.preprocess.images import ImageDecoder
from embedder_server.request_state import RequestState
from embedder_server.requests import Content, EmbedOptions, EmbedOutcome, ItemResult, StageTimings
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Modality, ModelInfo, Priority
from embedder_server.worker_pool import WorkerPool
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import DeadlineExceeded, SentinelError

# Texts that one pool thread tokenizes in a row: a hop costs as much as tokenizing one.
_TEXTS_PER_JOB = 32
# Decoded images that may wait for the device, in batches. More would only cost memory.
_BATCHES_AHEAD = 3
# Kept back from the caller's deadline, so that our answer with a reason still reaches it.
_ANSWER_MARGIN_S = 0.005
_CLOSE_TIMEOUT_S = 5.0


class Engine:
    """Embeds requests of many callers at once with one model.

    Make and use it inside one event loop. Owns its threads and, once started, the model.

    Args:
        model: Loaded; its towers are called from one thread only.
        settings: Limits, budgets and thread counts.
        metrics: Where everything is counted.
        on_failure: Called if the device thread dies; the worker is of no use then.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        settings: EmbedderSettings,
        metrics: EmbedderMetrics,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._admission = Admission(settings.max_queue_items, metrics)
        self._decoder = ImageDecoder(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            model_side=model.info.image_size,
        )
        # Of its own, so that a search text never waits for the decoding of a large image.
        self._text_pool = WorkerPool("tokenize", 1)
        self._image_pool = WorkerPool("decode", settings.effective_decode_threads)
        budgets = _budgets(settings)
        threads = settings.effective_decode_threads
        self._image_slots = {
            priority: asyncio.Semaphore(threads + _BATCHES_AHEAD * budget.max_items)
            for priority, budget in budgets[Modality.IMAGE].items()
        }
        self._device = DeviceLoop(
            {Modality.TEXT: model.embed_texts, Modality.IMAGE: model.embed_images},
            {modality: BatchQueue(budgets[modality]) for modality in Modality},
            dimensions=model.info.dimensions,
            metrics=metrics,
            on_failure=on_failure,
        )

    @property
    def info(self) -> ModelInfo:
        """The model that is served."""
        return self._model.info

    async def start(self) -> None:
        """Start the device thread and embed one sample of each modality.

        Raises:
            Exception: What the model raised.
        """
        samples = await self._text_pool.run(Priority.INTERACTIVE, self._samples)
        await self._device.start(samples)

    def _samples(self) -> dict[Modality, Any]:
        side = self.info.image_size
        prepare: dict[Modality, Callable[[], Any]] = {
            Modality.TEXT: lambda: self._model.tokenize("a warm-up text"),
            Modality.IMAGE: lambda: self._model.preprocess(Image.new("RGB", (side, side), "teal")),
        }
        return {modality: prepare[modality]() for modality in self.info.modalities}

    async def close(self) -> None:
        """Refuse new work, let the running batch end, release threads and model."""
        ended = await self._device.close(_CLOSE_TIMEOUT_S)
        self._text_pool.close()
        self._image_pool.close()
        if ended:  # else the model is still being called
            self._model.close()

    async def embed(
        self, contents: Sequence[Content], options: EmbedOptions, deadline: Deadline
    ) -> EmbedOutcome:
        """Return one result for each content, in order.

        Raises:
            ResourceExhausted: QUEUE_FULL; nothing was begun.
            DeadlineExceeded: OUT_OF_TIME; the work that was not begun is dropped.
        """
        start = perf_counter()
        counts = Counter(
            modality for content in contents if (modality := _modality(content)) is not None
        )
        try:
            with self._admission.admit(counts):
                request = RequestState(options, deadline.at - _ANSWER_MARGIN_S)
                results = await self._embed_in_time(request, contents)
        except SentinelError as error:
            self._count(counts, error.reason)
            raise
        except asyncio.CancelledError:
            self._count(counts, "CANCELLED")
            raise
        request.timings.total = perf_counter() - start
        self._observe(results, contents, request.timings)
        return EmbedOutcome(results, request.timings)

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
        results: dict[int, ItemResult] = {}
        texts: list[tuple[int, str]] = []
        jobs = []
        for index, content in enumerate(contents):
            if isinstance(content, str):
                texts.append((index, content))
            elif isinstance(content, bytes):
                jobs.append(self._embed_image(request, index, content, results))
            else:
                results[index] = ItemResult(content)
        for first in range(0, len(texts), _TEXTS_PER_JOB):
            part = texts[first : first + _TEXTS_PER_JOB]
            jobs.append(self._embed_texts(request, part, results))
        if len(jobs) == 1:  # the common search: spares a task
            await jobs[0]
        else:
            await _together(jobs)
        return [results[index] for index in range(len(contents))]

    async def _embed_texts(
        self,
        request: RequestState,
        texts: Sequence[tuple[int, str]],
        results: dict[int, ItemResult],
    ) -> None:
        options = request.options
        with request.preparing():
            prepared, seconds = await self._text_pool.run(
                options.priority,
                partial(
                    prepare_texts,
                    self._model,
                    [text for _, text in texts],
                    max_chars=self._settings.max_text_chars,
                    truncate=options.truncate,
                ),
            )
        request.note_prepared(0.0, seconds)
        good = [tokens for tokens in prepared if not isinstance(tokens, SentinelError)]
        payloads = [(tokens, len(tokens.ids)) for tokens in good]
        embedded = iter(await self._run(request, Modality.TEXT, payloads))
        for (index, _), tokens in zip(texts, prepared, strict=True):
            results[index] = (
                ItemResult(tokens)
                if isinstance(tokens, SentinelError)
                else ItemResult(next(embedded).vector, tokens.token_count, tokens.truncated)
            )

    async def _embed_image(
        self, request: RequestState, index: int, data: bytes, results: dict[int, ItemResult]
    ) -> None:
        options = request.options
        async with self._image_slot(request):
            with request.preparing():
                prepared: PreparedImage = await self._image_pool.run(
                    options.priority,
                    partial(
                        prepare_image, self._model, self._decoder, data, options.thumbnail_side
                    ),
                )
            request.note_prepared(prepared.decode_s, prepared.preprocess_s)
            if isinstance(prepared.payload, SentinelError):
                results[index] = ItemResult(prepared.payload, image=prepared.facts)
                return
            [embedded] = await self._run(request, Modality.IMAGE, [(prepared.payload, 1)])
        results[index] = ItemResult(embedded.vector, image=prepared.facts)

    @asynccontextmanager
    async def _image_slot(self, request: RequestState) -> AsyncIterator[None]:
        """Hold one of the places for decoded images; waiting for it is waiting for the device."""
        start = perf_counter()
        async with self._image_slots[request.options.priority]:
            request.note_queued(perf_counter() - start)
            yield

    async def _run(
        self, request: RequestState, modality: Modality, payloads: Sequence[tuple[Any, int]]
    ) -> list[Embedded]:
        if not payloads:
            return []
        entries = self._device.submit(
            modality, request.options.priority, payloads, request.answer_by
        )
        request.entries.extend(entries)
        # Cancelling this cancels every future, which drops the entries before they cost compute.
        embedded = await asyncio.gather(*(entry.future for entry in entries))
        request.note_embedded(embedded)
        return embedded

    def _observe(
        self, results: Sequence[ItemResult], contents: Sequence[Content], timings: StageTimings
    ) -> None:
        observe = self._metrics.stage_duration.labels
        observe("preprocess").observe(timings.preprocess)
        observe("queue").observe(timings.queue)
        observe("inference").observe(timings.inference)
        observe("total").observe(timings.total)
        if timings.decode:
            observe("decode").observe(timings.decode)
        outcomes = Counter(
            (_modality(content) or "none", _outcome(result))
            for content, result in zip(contents, results, strict=True)
        )
        for (modality, outcome), count in outcomes.items():
            self._metrics.items.labels(modality, outcome).inc(count)

    def _count(self, counts: Counter[Modality], outcome: str) -> None:
        for modality, count in counts.items():
            self._metrics.items.labels(modality, outcome).inc(count)


async def _together(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all jobs; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _modality(content: Content) -> Modality | None:
    if isinstance(content, str):
        return Modality.TEXT
    return Modality.IMAGE if isinstance(content, bytes) else None


def _outcome(result: ItemResult) -> str:
    return result.outcome.reason if isinstance(result.outcome, SentinelError) else "ok"


def _out_of_time(stage: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        "OUT_OF_TIME", f"the deadline passed in stage {stage}; use a longer one", stage=stage
    )


def _budgets(settings: EmbedderSettings) -> dict[Modality, dict[Priority, Budget]]:
    images, bulk_images = settings.image_batch_items, settings.bulk_image_batch_items
    return {
        Modality.TEXT: {
            Priority.INTERACTIVE: Budget(settings.text_batch_items, settings.text_batch_tokens),
            Priority.BULK: Budget(settings.bulk_text_batch_items, settings.bulk_text_batch_tokens),
        },
        Modality.IMAGE: {
            Priority.INTERACTIVE: Budget(images, images),
            Priority.BULK: Budget(bulk_images, bulk_images),
        },
    }
