"""The way of texts: tokenized, then queued for the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter

from embedder_server.device_loop import DeviceLoop
from embedder_server.models.base import EmbeddingModel
from embedder_server.prepare import prepare_texts
from embedder_server.request_state import RequestState
from embedder_server.requests import ItemResult
from embedder_server.types import Modality, Priority, TokenizedText
from embedder_server.worker_pool import WorkerPool
from sentinel_core.errors import SentinelError

# A hop to a thread and back costs about 0.1 ms of both, so a text that is tokenized in less time
# stays on the event loop. The bound also is what an answer to somebody else may be delayed by.
_INLINE_S = 0.0002
_MAX_INLINE_CHARS = 2048
_SAMPLE = "a photo of a red car on a long road near the sea, taken in the early morning light "
_MEASUREMENTS = 5


class TextLane:
    """Prepares texts on the event loop while that is cheap, and on a thread beyond.

    Make and use it inside one event loop.

    Args:
        model: Whose tokenizer is used.
        device: Where the tokens go.
        max_chars: Most characters in one text.
    """

    def __init__(self, model: EmbeddingModel, device: DeviceLoop, *, max_chars: int) -> None:
        self._model = model
        self._device = device
        self._max_chars = max_chars
        # Of its own, so that a search text never waits for the decoding of a large image.
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

    async def embed(
        self,
        request: RequestState,
        texts: Sequence[tuple[int, str]],
        results: list[ItemResult | None],
    ) -> None:
        """Put the result of each text at its index in `results`."""
        prepared, seconds = await self._prepare(request, [text for _, text in texts])
        request.note_prepared(0.0, seconds)
        payloads = []
        for (index, _), tokens in zip(texts, prepared, strict=True):
            if isinstance(tokens, SentinelError):
                results[index] = ItemResult(tokens)
            else:
                payloads.append((index, tokens))
        if not payloads:
            return
        submission = self._device.submit(
            Modality.TEXT,
            request.options.priority,
            [(tokens, len(tokens.ids)) for _, tokens in payloads],
            request.answer_by,
        )
        request.submissions.append(submission)
        embedded = await submission.results()
        request.note_embedded(embedded)
        for (index, tokens), one in zip(payloads, embedded, strict=True):
            results[index] = ItemResult(
                one.vector, one.norm, token_count=tokens.token_count, truncated=tokens.truncated
            )

    async def _prepare(
        self, request: RequestState, texts: Sequence[str]
    ) -> tuple[list[TokenizedText | SentinelError], float]:
        work = partial(
            prepare_texts,
            self._model,
            texts,
            max_chars=self._max_chars,
            truncate=request.options.truncate,
        )
        if sum(map(len, texts)) <= self._inline_chars:
            return work()
        with request.preparing():
            return await self._pool.run(request.options.priority, work)
