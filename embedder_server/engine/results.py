"""Shape what the device returned: normalise and cut vectors; count outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.types import (
    Content,
    EmbedOptions,
    FloatArray,
    ItemResult,
    Modality,
    StageTimings,
    modality_of,
)
from sentinel_core.errors import Internal, SentinelError

_STAGES = ("preprocess", "queue", "inference", "total", "decode")


class OutcomeCounter:
    """Counts items by outcome and observes stages. Looks up each metric's child only once."""

    def __init__(self, metrics: EmbedderMetrics) -> None:
        self._items = cache(metrics.items.labels)
        self._observe_stage = metrics.observe_stage
        for stage in _STAGES:
            metrics.stage_duration.labels(stage)  # so that the series exist from the start

    def count_failure(self, counts: Mapping[Modality, int], reason: str) -> None:
        """Count the items of a request that failed as a whole."""
        for modality, count in counts.items():
            self._items(modality, reason).inc(count)

    def observe(
        self, contents: Sequence[Content], results: Sequence[ItemResult], timings: StageTimings
    ) -> None:
        """Count the items of a request that was answered, and observe its times."""
        self._observe_stage("preprocess", timings.preprocess)
        self._observe_stage("queue", timings.queue)
        self._observe_stage("inference", timings.inference)
        self._observe_stage("total", timings.total)
        if timings.decode:
            self._observe_stage("decode", timings.decode)
        outcomes = [result.outcome for result in results]
        reasons = [one.reason if isinstance(one, SentinelError) else "ok" for one in outcomes]
        kinds = [modality_of(content) or "none" for content in contents]
        for (kind, reason), count in Counter(zip(kinds, reasons, strict=True)).items():
            self._items(kind, reason).inc(count)


def reshape(results: Sequence[ItemResult], options: EmbedOptions, dimensions: int) -> None:
    """Cut and scale vectors of length 1 in place, as the options of their request say."""
    kept = options.dimensions or dimensions
    if options.normalize and kept == dimensions:
        return
    good = [result for result in results if not isinstance(result.outcome, SentinelError)]
    if not good:
        return
    rows, usable = shaped_rows(
        np.stack([np.asarray(result.outcome) for result in good]),
        np.array([result.norm for result in good]),
        dimensions=kept,
        normalize=options.normalize,
    )
    for result, row, has_direction in zip(good, rows, usable, strict=True):
        if has_direction:
            result.outcome = row
        else:
            result.outcome = Internal(
                "MODEL_FAILED",
                f"the first {kept} elements of this content's vector are all zero; "
                "request more dimensions",
            )


def unit_rows(vectors: npt.NDArray[Any]) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Return each row scaled to length 1, and the lengths of the rows.

    A row without a direction (zero, or with NaN or infinity) has the length 0 here, and its scaled
    row means nothing.
    """
    exact = vectors.astype(np.float64)  # the square of a large float32 may overflow
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        exact /= norms[:, None]
        unit = exact.astype(np.float32)
    # NaN or infinity in a row makes its norm NaN or infinite, so the elements need no check.
    norms[~(norms < np.inf)] = 0.0
    return unit, norms


def shaped_rows(
    units: FloatArray, norms: npt.NDArray[np.float64], *, dimensions: int, normalize: bool
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Cut unit vectors; normalise them again, or restore the model's own scale.

    Args:
        units: Float32 `[n, d]`, rows of length 1.
        norms: The length of each row as the model made it.
        dimensions: Elements to keep, at most d; 0: all.
        normalize: Whether the rows of the result have length 1.

    Returns:
        Float32 `[n, dimensions]`, and whether each row is usable: a row that is zero in all kept
        elements has no direction.
    """
    kept = units[:, : dimensions or None]
    if not normalize:
        return (kept * norms[:, None]).astype(np.float32), np.asarray(kept.any(axis=1))
    rows, lengths = unit_rows(kept)
    return rows, np.asarray(lengths > 0)
