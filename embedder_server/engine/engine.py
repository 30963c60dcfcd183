"""Embed requests: admit each, prepare its contents, batch them with others, and time it all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from time import perf_counter
from typing import Any

from PIL import Image

from embedder_server.engine.admission import EngineAdmission
from embedder_server.engine.batching import BatchQueue, Budget
from embedder_server.engine.device_loop import DeviceLoop
from embedder_server.engine.lanes import ImageLane, RequestState, TextLane
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.engine.results import OutcomeCounter, reshape
from embedder_server.images.decoder_pool import DecoderPool
from embedder_server.images.decoder_process import Setup
from embedder_server.images.fork_server import ForkServer
from embedder_server.models.base import EmbeddingModel
from embedder_server.models.runtimes.base import memory_as_load_error
from embedder_server.settings import EmbedderSettings
from embedder_server.types import (
    IMAGE_WITH_TEXT,
    Content,
    EmbedOptions,
    EmbedResults,
    ImageFile,
    ItemResult,
    Modality,
    Priority,
    modality_of,
)
from sentinel_core.calls import Deadline, together
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    SentinelError,
    Unavailable,
)
from sentinel_core.memory import MemoryBudget
from sentinel_core.vectors import Role

# Kept back from the caller's deadline, so that our error with its reason still arrives.
_ANSWER_MARGIN_S = 0.005
_CLOSE_TIMEOUT_S = 5.0
_FEW = 8
# On a CPU, a batch of more texts gains little, so rather leave some waiting.
_EAGER_TEXTS_ON_CPU = 16
# Nor does a batch of more tokens, and others wait for its end.
_TOKENS_ON_CPU = 1024


class Engine:
    """Embeds the requests of many callers with one model.

    Create and use it in one event loop. It owns its threads and, once started, the model.

    Args:
        model: Loaded; its networks are called from one thread only.
        settings: Limits, budgets and thread counts.
        metrics: Where everything is counted.
        memory: Where decoded pixels take their share.
        forks: Starts the processes that decode images; the caller closes it after the engine.
        on_failure: Called if the device thread dies, or no process can be started. The engine is
            then useless.

    Attributes:
        info: The served model.
        busy_seconds: Returns for how long the running batch has been on the device; 0 when idle.
        stalled: Set it while the device does not return from a batch; new requests are refused.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        settings: EmbedderSettings,
        metrics: EmbedderMetrics,
        *,
        memory: MemoryBudget,
        forks: ForkServer,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.info = model.info
        self._model = model
        self._admission = EngineAdmission(settings, metrics)
        self._outcomes = OutcomeCounter(metrics)
        self.stalled = False
        self._budgets = budgets = _budgets(settings, model.info.device)
        self._device = DeviceLoop(
            {Modality.TEXT: model.embed_texts, Modality.IMAGE: model.embed_images},
            {modality: BatchQueue(budgets[modality]) for modality in Modality},
            dimensions=model.info.dimensions,
            metrics=metrics,
            on_failure=on_failure,
            gives_way=model.info.device == "cpu",
        )
        self.busy_seconds = self._device.busy_seconds
        self._texts = TextLane(
            model,
            self._device,
            max_chars=settings.max_text_chars,
            budget=budgets[Modality.TEXT][Priority.INTERACTIVE],
        )
        processes = settings.effective_decode_processes
        self._decoders = DecoderPool(
            forks,
            Setup(
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_image_pixels,
                model_side=model.info.image_size,
                preprocess=model.preprocess,
            ),
            processes=processes,
            max_seconds=settings.max_decode_seconds,
            memory=memory,
            on_ended=lambda cause: metrics.decoders_ended.labels(cause).inc(),
            on_failure=on_failure,
        )
        self._images = ImageLane(
            model,
            self._decoders,
            self._device,
            max_chars=settings.max_text_chars,
            processes=processes,
            budgets=budgets[Modality.IMAGE],
        )

    async def start(self) -> None:
        """Start the device thread and warm the model up: runtimes make kernels for each size.

        Raises:
            ModelLoadError: The device has no memory for a single content.
            OSError: No process can be started.
            Exception: The model's own error.
        """
        samples: dict[Modality, Any] = {}
        if Modality.TEXT in self.info.modalities:
            samples[Modality.TEXT] = await self._texts.start()
        if Modality.IMAGE in self.info.modalities:
            sample = await asyncio.to_thread(self._sample_image)
            samples[Modality.IMAGE], _ = self._model.image_input(sample, "", Role.DOCUMENT)
            await self._decoders.start(sample.nbytes)
        with memory_as_load_error(self.info.device):
            await self._device.start(_warm_up(samples, self._budgets))

    def _sample_image(self) -> Any:
        side = self.info.image_size
        return self._model.preprocess(Image.new("RGB", (side, side), "teal"))

    async def close(self) -> None:
        """Refuse new work, let the running batch end, release threads, processes and model."""
        ended = await self._device.close(_CLOSE_TIMEOUT_S)
        self._texts.close()
        self._decoders.close()
        if ended:  # otherwise the model is still in use
            self._model.close()

    async def embed(
        self, contents: Sequence[Content], options: EmbedOptions, deadline: Deadline
    ) -> EmbedResults:
        """Return one result for each content, in order.

        Raises:
            Unavailable: DEVICE_STALLED; no work was started.
            ResourceExhausted: QUEUE_FULL; no work was started.
            DeadlineExceeded: OUT_OF_TIME; work that has not started is dropped.
        """
        start = perf_counter()
        contents = [self._supported(content) for content in contents]
        kinds = (modality_of(content) for content in contents)
        counts = Counter(kind for kind in kinds if kind is not None)
        request = RequestState(options, deadline.at - _ANSWER_MARGIN_S)
        try:
            self._check_begin(request)
            with self._admission.admit(options.priority, contents):
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
        return EmbedResults(results, request.timings)

    def _supported(self, content: Content) -> Content:
        modality = modality_of(content)
        if isinstance(content, ImageFile) and content.text and not self.info.embeds_image_with_text:
            return InvalidArgument(
                "MODALITY_UNSUPPORTED",
                f"{self.info.name!r} embeds no image together with a text; embed both separately, "
                "or search with both as terms of a composite query",
                modality=IMAGE_WITH_TEXT,
            )
        if modality is None or modality in self.info.modalities:
            return content
        return InvalidArgument(
            "MODALITY_UNSUPPORTED",
            f"{self.info.name!r} embeds no content of kind {modality}; use another model",
            modality=modality,
        )

    def _check_begin(self, request: RequestState) -> None:
        """Refuse a request that can only fail, before it costs anything."""
        if self.stalled:
            seconds = int(self.busy_seconds())
            raise Unavailable(
                "DEVICE_STALLED",
                f"this worker's device has been at one batch for {seconds} s; retry on another one",
                seconds=seconds,
            )
        if request.answer_by <= time.monotonic():
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
        texts = [content for content in contents if isinstance(content, str)]
        images = [content for content in contents if isinstance(content, ImageFile)]
        jobs = [self._images.run(request, image) for image in images]
        jobs += [self._texts.run(request, part) for part in self._texts.parts(texts)]
        if len(jobs) == 1:  # the usual search: avoids a task
            results = [await jobs[0]]
        else:
            results = await together(jobs)
        of_images = chain.from_iterable(results[: len(images)])
        of_texts = chain.from_iterable(results[len(images) :])
        return [
            ItemResult(content)
            if isinstance(content, SentinelError)
            else next(of_texts if isinstance(content, str) else of_images)
            for content in contents
        ]


def _out_of_time(stage: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        "OUT_OF_TIME", f"the deadline passed in stage {stage}; use a longer one", stage=stage
    )


def _warm_up(
    samples: Mapping[Modality, Any], budgets: Mapping[Modality, Mapping[Priority, Budget]]
) -> list[tuple[Modality, list[Any]]]:
    """Return batches of one item, of a few, and of the most that may run together."""
    batches = []
    for modality, sample in samples.items():
        budget = budgets[modality][Priority.INTERACTIVE]
        length = len(sample.ids) if modality is Modality.TEXT else 1
        most = max(1, min(budget.max_items, budget.max_cost // length))
        batches += [(modality, [sample] * size) for size in {1, min(_FEW, most), most}]
    return sorted(batches, key=lambda batch: len(batch[1]))


def _budgets(settings: EmbedderSettings, device: str) -> dict[Modality, dict[Priority, Budget]]:
    texts, bulk_texts = settings.text_batch_items, settings.bulk_text_batch_items
    images, bulk_images = settings.image_batch_items, settings.bulk_image_batch_items
    eager, tokens = texts, settings.text_batch_tokens
    if device == "cpu":
        eager, tokens = _EAGER_TEXTS_ON_CPU, min(_TOKENS_ON_CPU, tokens)
    return {
        Modality.TEXT: {
            Priority.INTERACTIVE: Budget(texts, tokens, eager),
            Priority.BULK: Budget(bulk_texts, settings.bulk_text_batch_tokens, bulk_texts),
        },
        Modality.IMAGE: {
            Priority.INTERACTIVE: Budget(images, images, images),
            Priority.BULK: Budget(bulk_images, bulk_images, bulk_images),
        },
    }
