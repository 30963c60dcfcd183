"""Results as the caller asked for them, and as the metrics count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from prometheus_client import Counter, Histogram

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.engine.requests import (
    Content,
    EmbedOptions,
    ImageFile,
    ItemResult,
    StageTimings,
)
from embedder_server.engine.vectors import shaped_rows
from embedder_server.types import Modality
from sentinel_core.errors import Internal, SentinelError


def reshape(results: Sequence[ItemResult], options: EmbedOptions, dimensions: int) -> None:
    """Cut and scale the vectors as `options` want them, all in one go.

    Args:
        results: With vectors of length 1, as the device made them; changed in place.
        options: The request's options.
        dimensions: Of the model.
    """
    wanted = options.dimensions or dimensions
    if options.normalize and wanted == dimensions:
        return
    good = [result for result in results if not isinstance(result.outcome, SentinelError)]
    if not good:
        return
    rows, usable = shaped_rows(
        np.stack([np.asarray(result.outcome) for result in good]),
        np.array([result.norm for result in good]),
        dimensions=wanted,
        normalize=options.normalize,
    )
    for result, row, of_use in zip(good, rows, usable, strict=True):
        result.outcome = (
            row
            if of_use
            else Internal(
                "MODEL_FAILED",
                f"the first {wanted} elements of this content's vector are all zero; "
                "ask for more dimensions",
            )
        )


class OutcomeCounter:
    """Counts items by outcome and observes stages; looks each metric's child up only once."""

    def __init__(self, metrics: EmbedderMetrics) -> None:
        self._metrics = metrics
        self._items: dict[tuple[str, str], Counter] = {}
        stage = metrics.stage_duration.labels
        self._preprocess: Histogram = stage("preprocess")
        self._queue: Histogram = stage("queue")
        self._inference: Histogram = stage("inference")
        self._total: Histogram = stage("total")
        self._decode: Histogram = stage("decode")

    def count_failure(self, counts: Mapping[Modality, int], reason: str) -> None:
        """Count the items of a request that failed as a whole."""
        for modality, count in counts.items():
            self._count(modality, reason, count)

    def observe(
        self, contents: Sequence[Content], results: Sequence[ItemResult], timings: StageTimings
    ) -> None:
        """Count the items of a request that was answered, and where its time went."""
        self._preprocess.observe(timings.preprocess)
        self._queue.observe(timings.queue)
        self._inference.observe(timings.inference)
        self._total.observe(timings.total)
        if timings.decode:
            self._decode.observe(timings.decode)
        tally: dict[tuple[str, str], int] = {}
        for content, result in zip(contents, results, strict=True):
            key = _kind(content), _outcome(result)
            tally[key] = tally.get(key, 0) + 1
        for (kind, outcome), count in tally.items():
            self._count(kind, outcome, count)

    def _count(self, kind: str, outcome: str, count: int) -> None:
        child = self._items.get((kind, outcome))
        if child is None:
            child = self._items[kind, outcome] = self._metrics.items.labels(kind, outcome)
        child.inc(count)


def _kind(content: Content) -> str:
    if isinstance(content, str):
        return Modality.TEXT
    return Modality.IMAGE if isinstance(content, ImageFile) else "none"


def _outcome(result: ItemResult) -> str:
    return result.outcome.reason if isinstance(result.outcome, SentinelError) else "ok"
