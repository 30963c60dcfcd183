"""Contents to what the model's towers take. Everything here runs on pool threads.

A content that is at fault becomes its error as a value, so that it never fails its neighbours.


The way of images: decoded and scaled on threads, a bounded number at once, then queued.

The way of texts: tokenized, then queued for the device.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from PIL import Image

from embedder_server.engine.batching import Budget
from embedder_server.engine.device_loop import DeviceLoop
from embedder_server.engine.requests import Crop, ImageFacts, ImageFile, ItemResult, RequestState
from embedder_server.engine.worker_pool import WorkerPool
from embedder_server.images.decoder import ImageDecoder
from embedder_server.models.base import EmbeddingModel
from embedder_server.texts.tokenizer import clean_text
from embedder_server.types import Modality, Priority, TokenizedText
from sentinel_core.errors import Internal, InvalidArgument, SentinelError, hide

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image, ready for the device or refused.

    Attributes:
        payload: The image tower's input, or why there is none.
        facts: What decoding told; None if it failed.
        decode_s: Seconds of decoding, thumbnail included.
        preprocess_s: Seconds of resizing and normalising.
    """

    payload: Any | SentinelError
    facts: ImageFacts | None = None
    decode_s: float = 0.0
    preprocess_s: float = 0.0


def prepare_texts(
    model: EmbeddingModel, texts: Sequence[str], *, max_chars: int, truncate: bool
) -> tuple[list[TokenizedText | SentinelError], float]:
    """Return the tokens of each text, or its error, and the seconds of the longest one."""
    prepared: list[TokenizedText | SentinelError] = []
    longest = 0.0
    for text in texts:
        start = perf_counter()
        try:
            prepared.append(_tokenize(model, text, max_chars=max_chars, truncate=truncate))
        except SentinelError as error:
            prepared.append(error)
        except Exception as error:
            prepared.append(_unexpected(error))
        longest = max(longest, perf_counter() - start)
    return prepared, longest


def _tokenize(model: EmbeddingModel, text: str, *, max_chars: int, truncate: bool) -> TokenizedText:
    tokens = model.tokenize(clean_text(text, max_chars))
    if tokens.truncated and not truncate:
        limit = model.info.max_text_tokens
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {tokens.token_count} tokens, the model reads {limit}; shorten it or "
            "let it be cut (options.truncate)",
            limit=limit,
        )
    return tokens


def prepare_image(
    model: EmbeddingModel, decoder: ImageDecoder, file: ImageFile, thumbnail_side: int
) -> PreparedImage:
    """Return the model's input for one image file, or its error."""
    start = perf_counter()
    try:
        decoded = decoder.decode(file.data, _share(file.crop))
        thumbnail = decoder.thumbnail(file.data, decoded, thumbnail_side) if thumbnail_side else b""
        facts = ImageFacts(decoded.width, decoded.height, decoded.media_type, thumbnail)
        decoded_at = perf_counter()
        payload = model.preprocess(_cropped(decoded.picture, file.crop))
        return PreparedImage(payload, facts, decoded_at - start, perf_counter() - decoded_at)
    except SentinelError as error:
        return PreparedImage(error, decode_s=perf_counter() - start)
    except Exception as error:
        return PreparedImage(_unexpected(error), decode_s=perf_counter() - start)


def _share(crop: Crop | None) -> float:
    """Return the smaller share of a side that a crop keeps, so that enough detail is decoded."""
    return 1.0 if crop is None else min(crop.right - crop.left, crop.bottom - crop.top)


def _cropped(picture: Image.Image, crop: Crop | None) -> Image.Image:
    """Return the part of a picture, its edges rounded outwards to whole pixels."""
    if crop is None:
        return picture
    width, height = picture.size
    # From the decoded size, which draft mode may have made smaller than the file's.
    left = min(width - 1, math.floor(crop.left * width))
    top = min(height - 1, math.floor(crop.top * height))
    right = max(left + 1, math.ceil(crop.right * width))
    bottom = max(top + 1, math.ceil(crop.bottom * height))
    return picture.crop((left, top, min(width, right), min(height, bottom)))


def _unexpected(error: Exception) -> Internal:
    return hide(error, "cannot prepare a content", logger)


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
