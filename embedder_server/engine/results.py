"""Shape what the device returned: normalise, cut and encode vectors, rank them, count outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.types import (
    Content,
    Element,
    EmbedOptions,
    FloatArray,
    ItemResult,
    Modality,
    ModelInfo,
    StageTimings,
    modality_of,
)
from sentinel_core.errors import Internal, SentinelError

_STAGES = ("preprocess", "queue", "inference", "total", "decode")
_INT8_MAX = 127
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# The largest finite bfloat16, as a float32.
_BFLOAT16_MAX = np.uint32(0x7F7F0000).view(np.float32)
# The largest float32 that times 127 is finite: rounding makes the next one too large.
_MAX_SCALE = np.nextafter(np.float32(float(np.finfo(np.float32).max) / _INT8_MAX), np.float32(0))


@dataclass(frozen=True, slots=True)
class EncodedVector:
    """A vector as bytes: the elements in order, little-endian."""

    data: bytes  # binary: bits, most significant first
    dimensions: int
    scale: float = 0.0  # int8 only: factor on each byte


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """One candidate of a ranking, by its index in the request."""

    index: int
    cosine: float  # -1 to 1
    probability: float  # 0 to 1


class OutcomeCounter:
    """Counts items by outcome and observes stages. Looks up each metric's child only once."""

    def __init__(self, metrics: EmbedderMetrics) -> None:
        self._items = cache(metrics.items.labels)
        # Made here, so that the series exist from the start.
        self._stages = {stage: metrics.stage_duration.labels(stage) for stage in _STAGES}

    def count_failure(self, counts: Mapping[Modality, int], reason: str) -> None:
        """Count the items of a request that failed as a whole."""
        for modality, count in counts.items():
            self._items(modality, reason).inc(count)

    def observe(
        self, contents: Sequence[Content], results: Sequence[ItemResult], timings: StageTimings
    ) -> None:
        """Count the items of a request that was answered, and observe its times."""
        self._stages["preprocess"].observe(timings.preprocess)
        self._stages["queue"].observe(timings.queue)
        self._stages["inference"].observe(timings.inference)
        self._stages["total"].observe(timings.total)
        if timings.decode:
            self._stages["decode"].observe(timings.decode)
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


def encode(vector: FloatArray, element: Element) -> EncodedVector:
    """Encode a finite float32 vector as bytes of another element type."""
    size = len(vector)
    match element:
        case Element.FLOAT32:
            return EncodedVector(vector.astype("<f4", copy=False).tobytes(), size)
        case Element.FLOAT16:
            clipped = np.clip(vector, -_FLOAT16_MAX, _FLOAT16_MAX)
            return EncodedVector(clipped.astype("<f2").tobytes(), size)
        case Element.BFLOAT16:
            return EncodedVector(_bfloat16(vector), size)
        case Element.INT8:
            return _int8(vector)
        case Element.BINARY:
            return EncodedVector(np.packbits(vector > 0).tobytes(), size)


def _bfloat16(vector: FloatArray) -> bytes:
    bits = np.clip(vector, -_BFLOAT16_MAX, _BFLOAT16_MAX).astype(np.float32).view(np.uint32)
    # Half of the last place, less one if the upper half is even already: ties go to even.
    upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return upper.astype("<u2").tobytes()


def _int8(vector: FloatArray) -> EncodedVector:
    # As float32, the type of the response's field. The largest element becomes exactly 127.
    scale = np.float32(float(np.abs(vector).max(initial=0.0)) / _INT8_MAX)
    scale = min(scale, _MAX_SCALE)
    if scale == 0:  # a zero vector, or one whose scale is too small for a float32
        return EncodedVector(bytes(len(vector)), len(vector), float(np.finfo(np.float32).tiny))
    levels = np.clip(np.rint(vector / scale), -_INT8_MAX, _INT8_MAX)
    return EncodedVector(levels.astype(np.int8).tobytes(), len(vector), float(scale))


def rank(
    query: FloatArray, candidates: Sequence[tuple[int, FloatArray]], info: ModelInfo, top_k: int
) -> list[RankedCandidate]:
    """Return the `top_k` best candidates (0: all), best first, ties by index.

    Probabilities are over all candidates, whatever `top_k` is. The query is float32 `[n]` of
    length 1; so is each candidate, which comes with its index.
    """
    if not candidates:
        return []
    matrix = np.stack([vector for _, vector in candidates]).astype(np.float64)
    cosines = np.clip(matrix @ query.astype(np.float64), -1.0, 1.0)
    probabilities = _probabilities(info.logit_scale * cosines + info.logit_bias, info.sigmoid)
    ranked = [
        RankedCandidate(index, float(cosine), float(probability))
        for (index, _), cosine, probability in zip(candidates, cosines, probabilities, strict=True)
    ]
    ranked.sort(key=lambda candidate: (-candidate.cosine, candidate.index))
    return ranked[: top_k or None]


def _probabilities(logits: npt.NDArray[np.float64], sigmoid: bool) -> npt.NDArray[np.float64]:
    if sigmoid:
        # Computed with tanh, which does not overflow for any logit.
        return 0.5 * (1.0 + np.tanh(0.5 * logits))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
