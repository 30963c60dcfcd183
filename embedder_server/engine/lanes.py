"""Prepare contents for the device, queue them, and return their results: one lane per modality.

Texts are tokenized on a thread and images are decoded in processes, a bounded number at once. A bad
content becomes its own error as a value, so that it never fails other contents.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from embedder_server.engine.batching import Budget, DeviceResult, WorkGroup
from embedder_server.engine.device_loop import DeviceLoop, settle
from embedder_server.images.decoder_pool import DecoderPool
from embedder_server.models.base import EmbeddingModel
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import (
    EmbedOptions,
    ImageFile,
    ItemResult,
    Modality,
    Priority,
    StageTimings,
)
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError, Unavailable, hide

logger = logging.getLogger(__name__)

# Space, line and paragraph separators, control and format characters: nothing to embed.
_BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
# Decoded images that may wait for the device, in batches. More would only cost memory.
_BATCHES_AHEAD = 3
# A round trip to a thread costs about 0.1 ms on both sides, so a text that needs less time than
# this is tokenized on the event loop. This is also the longest delay for other responses.
_INLINE_S = 0.0002
_MAX_INLINE_CHARS = 2048
# As in English.
_CHARS_PER_TOKEN = 4
# Tokenize this many characters, or one text, before others get their turn.
_CHARS_PER_TURN = 8_192
_SAMPLE = "a photo of a red car on a long road near the sea, taken in the early morning light "
_MEASUREMENTS = 5

_Result = TypeVar("_Result")
_Task = tuple[int, int, Callable[[], Any] | None, asyncio.Future[Any] | None]
_STOP = len(Priority)  # sorts after all work


class RequestState:
    """Progress of one request, shared by its lanes.

    Attributes:
        options: The request's options.
        answer_by: When the response must be sent, on the monotonic clock.
        timings: Longest time of each stage so far.
    """

    def __init__(self, options: EmbedOptions, answer_by: float) -> None:
        self.options = options
        self.answer_by = answer_by
        self.timings = StageTimings()
        self._groups: list[WorkGroup] = []
        self._preparing = 0
        # Parts of its texts in work: one on the device, one that comes next. So a request of many
        # long texts does not delay others by more than that.
        self.texts_in_work = asyncio.Semaphore(2)

    def begin_preparing(self) -> None:
        """Note that a preparation starts. If cancelled, it never ends, and `stage` sees it."""
        self._preparing += 1

    def end_preparing(self, preprocess_s: float, decode_s: float = 0.0) -> None:
        """Note that a preparation ended, and its times."""
        self._preparing -= 1
        self.timings.decode = max(self.timings.decode, decode_s)
        self.timings.preprocess = max(self.timings.preprocess, preprocess_s)

    async def results_of(self, group: WorkGroup) -> list[DeviceResult]:
        """Wait for a group's results and note their times."""
        self._groups.append(group)
        results = await group.results()
        timings = self.timings
        for result in results:
            timings.queue = max(timings.queue, result.queue_s)
            timings.inference = max(timings.inference, result.inference_s)
            timings.batch_size = max(timings.batch_size, result.batch_size)
        return results

    def stage(self) -> str:
        """Return where the request is, or was cancelled: `preprocess`, `queue` or `inference`."""
        if self._preparing:
            return "preprocess"
        left = [item for group in self._groups for item in group.items if item.result is None]
        return "inference" if left and all(item.running for item in left) else "queue"


class TextLane:
    """Tokenizes short texts on the event loop and long ones on a thread.

    Create and use it in one event loop.
    """

    def __init__(
        self, model: EmbeddingModel, device: DeviceLoop, *, max_chars: int, budget: Budget
    ) -> None:
        self._budget = budget
        self._model = model
        self._device = device
        self._max_chars = max_chars
        # A separate pool, so that a search text never waits while a large image is decoded.
        self._pool = WorkerPool("tokenize", 1)
        self._inline_chars = 0

    async def start(self) -> TokenizedText:
        """Measure the tokenizer; return a text to warm the model up with."""
        return await self._pool.run(Priority.INTERACTIVE, self._measure)

    def _measure(self) -> TokenizedText:
        best = float("inf")
        for _ in range(_MEASUREMENTS):
            start = perf_counter()
            tokens = self._model.tokenize(_SAMPLE)
            best = min(best, perf_counter() - start)
        self._inline_chars = min(_MAX_INLINE_CHARS, int(len(_SAMPLE) * _INLINE_S / best))
        return tokens

    def close(self) -> None:
        """Release the thread."""
        self._pool.close()

    def parts(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """Yield the texts of a request in parts for `run`, each about one batch."""
        read = self._model.info.max_text_tokens

        def tokens(text: str) -> int:
            return min(read, len(text) // _CHARS_PER_TOKEN)

        return _cut(texts, tokens, self._budget.max_cost, self._budget.max_items)

    async def run(self, request: RequestState, texts: Sequence[str]) -> list[ItemResult]:
        """Embed texts; return a result for each, in order."""
        async with request.texts_in_work:
            return await self._run(request, texts)

    async def _run(self, request: RequestState, texts: Sequence[str]) -> list[ItemResult]:
        request.begin_preparing()
        if sum(map(len, texts)) <= self._inline_chars:
            prepared, seconds = self._tokenize_all(texts, request.options)
        else:
            prepared, seconds = await self._tokenize_in_turns(request, texts)
        request.end_preparing(seconds)
        payloads = [
            (tokens, len(tokens.ids)) for tokens in prepared if isinstance(tokens, TokenizedText)
        ]
        if not payloads:
            return [ItemResult(one) for one in prepared if isinstance(one, SentinelError)]
        group = self._device.submit(
            Modality.TEXT, request.options.priority, payloads, request.answer_by
        )
        embedded = iter(await request.results_of(group))
        return [
            ItemResult(tokens)
            if isinstance(tokens, SentinelError)
            else _text_result(tokens, next(embedded))
            for tokens in prepared
        ]

    async def _tokenize_in_turns(
        self, request: RequestState, texts: Sequence[str]
    ) -> tuple[list[TokenizedText | SentinelError], float]:
        """Do what `_tokenize_all` does on the thread, in turns with other requests."""
        prepared: list[TokenizedText | SentinelError] = []
        longest = 0.0
        options = request.options
        for part in _cut(texts, len, _CHARS_PER_TURN, len(texts)):
            tokens, seconds = await self._pool.run(
                options.priority, partial(self._tokenize_all, part, options)
            )
            prepared += tokens
            longest = max(longest, seconds)
        return prepared, longest

    def _tokenize_all(
        self, texts: Sequence[str], options: EmbedOptions
    ) -> tuple[list[TokenizedText | SentinelError], float]:
        """Return the tokens of each text, or its error, and the seconds of the slowest one."""
        prepared: list[TokenizedText | SentinelError] = []
        longest = 0.0
        for text in texts:
            start = perf_counter()
            try:
                prepared.append(self._tokenize(text, options))
            except Exception as error:
                prepared.append(_item_error(error))
            longest = max(longest, perf_counter() - start)
        return prepared, longest

    def _tokenize(self, text: str, options: EmbedOptions) -> TokenizedText:
        tokens = self._model.tokenize(clean_text(text, self._max_chars), options.role)
        _check_length(tokens, options, self._model.info.max_text_tokens)
        return tokens


def _check_length(tokens: TokenizedText, options: EmbedOptions, limit: int) -> None:
    if tokens.truncated and not options.truncate:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {tokens.token_count} tokens, the model reads {limit}; shorten it or "
            "allow cutting (options.truncate)",
            limit=limit,
        )


def _cut(
    texts: Sequence[str], cost_of: Callable[[str], int], most_cost: int, most_texts: int
) -> Iterator[list[str]]:
    """Yield the texts in parts of at most this cost, or of one text."""
    part: list[str] = []
    cost = 0
    for text in texts:
        own = cost_of(text)
        if part and (cost + own > most_cost or len(part) == most_texts):
            yield part
            part, cost = [], 0
        part.append(text)
        cost += own
    if part:
        yield part


def clean_text(text: str, max_chars: int) -> str:
    """Return `text` in a form that any tokenizer accepts: no NUL, no lone surrogates.

    Raises:
        InvalidArgument: TEXT_TOO_LONG or TEXT_EMPTY.
    """
    if len(text) > max_chars:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {len(text)} characters; the limit is {max_chars}. "
            "Split it into passages.",
            limit=max_chars,
        )
    # Nearly every text begins with a letter or a digit, and then is not blank.
    if not text[:1].isalnum() and all(unicodedata.category(char) in _BLANK for char in text):
        raise InvalidArgument("TEXT_EMPTY", "the text is empty or blank; omit it")
    if not text.isascii():
        # Protobuf allows no lone surrogate, but a caller in this process might send one.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ")


def _text_result(tokens: TokenizedText, embedded: DeviceResult) -> ItemResult:
    return ItemResult(
        embedded.vector,
        embedded.norm,
        token_count=tokens.token_count,
        truncated=tokens.truncated,
    )


class ImageLane:
    """Decodes images in processes, a few batches ahead of the device. Use it in one event loop."""

    def __init__(
        self,
        model: EmbeddingModel,
        decoders: DecoderPool,
        device: DeviceLoop,
        *,
        max_chars: int,
        processes: int,
        budgets: Mapping[Priority, Budget],
    ) -> None:
        self._model = model
        self._max_chars = max_chars
        self._decoders = decoders
        self._device = device
        self._slots = {
            priority: asyncio.Semaphore(processes + _BATCHES_AHEAD * budget.max_items)
            for priority, budget in budgets.items()
        }

    async def run(self, request: RequestState, file: ImageFile) -> list[ItemResult]:
        """Embed one image; return its result as a list of one."""
        options = request.options
        start = perf_counter()
        async with self._slots[options.priority]:
            # The device frees the slots, so waiting for one is waiting for the device.
            request.timings.queue = max(request.timings.queue, perf_counter() - start)
            request.begin_preparing()
            try:
                text = clean_text(file.text, self._max_chars) if file.text else ""
                prepared = await self._decoders.prepare(
                    file, options.thumbnail_side, options.priority, Deadline(request.answer_by)
                )
                payload, tokens = await self._input(prepared.pixels, text, options)
            except Unavailable:  # the call can go to another worker
                raise
            except Exception as error:
                request.end_preparing(0.0)
                return [ItemResult(_item_error(error))]
            request.end_preparing(prepared.preprocess_s, prepared.decode_s)
            group = self._device.submit(
                Modality.IMAGE, options.priority, [(payload, 1)], request.answer_by
            )
            [embedded] = await request.results_of(group)
        result = ItemResult(embedded.vector, embedded.norm, image=prepared.facts)
        if text and tokens is not None:
            result.token_count, result.truncated = tokens.token_count, tokens.truncated
        return [result]

    async def _input(
        self, pixels: Any, text: str, options: EmbedOptions
    ) -> tuple[Any, TokenizedText | None]:
        """Return what the network takes, and the tokens if it reads the image as some."""
        make = partial(self._model.image_input, pixels, text, options.role)
        payload, tokens = await asyncio.to_thread(make) if text else make()
        if tokens is not None:
            _check_length(tokens, options, self._model.info.max_text_tokens)
        return payload, tokens


def _item_error(error: Exception) -> SentinelError:
    """Return `error` if the caller may see it; else log it and return one that hides it."""
    if isinstance(error, SentinelError):
        return error
    return hide(error, "cannot prepare a content", logger)


class WorkerPool:
    """A thread pool whose queue is ordered by priority, then by arrival.

    Unlike those of `ThreadPoolExecutor` its threads are daemons: work that never returns does not
    keep the process alive. Create and use it in one event loop.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._order = itertools.count()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, priority: Priority, work: Callable[[], _Result]) -> _Result:
        """Return what `work` returns. If cancelled before it starts, it never runs."""
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._tasks.put((priority, next(self._order), work, future))
        return await future

    def close(self) -> None:
        """Let the threads end when the queue is empty; do not wait for them."""
        for _ in self._threads:
            self._tasks.put((_STOP, next(self._order), None, None))

    def _work(self) -> None:
        while True:
            _, _, work, future = self._tasks.get()
            if work is None or future is None:
                return
            if not future.cancelled() and not self._run(future, work):
                return
            # Kept while waiting for work, they would keep decoded images in memory.
            del work, future

    def _run(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> bool:
        """Run `work` and set its result; return False if the event loop is closed."""
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        try:
            self._loop.call_soon_threadsafe(settle, future, result, error)
        except RuntimeError:
            return False
        return True
