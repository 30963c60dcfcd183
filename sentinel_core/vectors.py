"""Encode vectors for the wire, and rank them: worker and gateway give the same answers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_INT8_MAX = 127
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# The largest finite bfloat16, as a float32.
_BFLOAT16_MAX = np.uint32(0x7F7F0000).view(np.float32)
# The largest float32 that times 127 is finite: rounding makes the next one too large.
_MAX_SCALE = np.nextafter(np.float32(float(np.finfo(np.float32).max) / _INT8_MAX), np.float32(0))


class Element(enum.StrEnum):
    """Type of one element of a returned vector."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    BINARY = "binary"


class Role(enum.StrEnum):
    """What a content is for. Only asymmetric models embed the two differently."""

    QUERY = "query"
    DOCUMENT = "document"


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


class Calibration(Protocol):
    """How a model makes probabilities of cosines."""

    @property
    def logit_scale(self) -> float: ...

    @property
    def logit_bias(self) -> float: ...

    @property
    def sigmoid(self) -> bool: ...


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
    query: FloatArray, candidates: Sequence[tuple[int, FloatArray]], model: Calibration, top_k: int
) -> list[RankedCandidate]:
    """Return the `top_k` best candidates (0: all), best first, ties by index.

    Probabilities are over all candidates, whatever `top_k` is. The query is float32 `[n]` of
    length 1; so is each candidate, which comes with its index.
    """
    if not candidates:
        return []
    matrix = np.stack([vector for _, vector in candidates]).astype(np.float64)
    cosines = np.clip(matrix @ query.astype(np.float64), -1.0, 1.0)
    probabilities = _probabilities(model.logit_scale * cosines + model.logit_bias, model.sigmoid)
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
