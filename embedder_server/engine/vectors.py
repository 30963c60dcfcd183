"""Vectors to the length and the element type that a caller asks for. Pure functions."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.types import FloatArray

_INT8_MAX = 127
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# The largest bfloat16: the upper half of a binary32 whose exponent is not yet that of infinity.
_BFLOAT16_MAX = np.uint32(0x7F7F0000).view(np.float32)
# The largest float32 whose 127-fold is not infinity: rounding makes the next one too large.
_MAX_SCALE = np.nextafter(np.float32(float(np.finfo(np.float32).max) / _INT8_MAX), np.float32(0))


class Element(enum.StrEnum):
    """Type of one element of an answer's vector."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    BINARY = "binary"


@dataclass(frozen=True, slots=True)
class EncodedVector:
    """A vector as bytes.

    Attributes:
        data: The elements in order, little-endian; binary: bits, most significant first.
        dimensions: Number of elements.
        scale: int8 only: what each byte is multiplied by; else 0.
    """

    data: bytes
    dimensions: int
    scale: float = 0.0


def unit_rows(vectors: npt.NDArray[Any]) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Return each row scaled to length 1, and the lengths the rows had.

    A row without a direction (zero, NaN or infinity in it) has the length 0 here, and its row in
    the result means nothing.
    """
    exact = vectors.astype(np.float64)  # the square of a large float32 may overflow
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        exact /= norms[:, None]
        unit = exact.astype(np.float32)
    # One element that is no number makes the length no number, so the rows need no second look.
    norms[~(norms < np.inf)] = 0.0
    return unit, norms


def shaped_rows(
    units: FloatArray, norms: npt.NDArray[np.float64], *, dimensions: int, normalize: bool
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return unit vectors' first elements, normalised again or at the model's own scale.

    Args:
        units: Float32 `[n, d]`, rows of length 1.
        norms: The length each row had as the model made it.
        dimensions: Elements to keep, at most d; 0: all.
        normalize: Whether the rows of the result have length 1.

    Returns:
        Float32 `[n, dimensions]`, and whether each row is of use: one that is zero in all
        elements that are kept has no direction.
    """
    kept = units[:, : dimensions or None]
    if not normalize:
        return (kept * norms[:, None]).astype(np.float32), np.asarray(kept.any(axis=1))
    rows, lengths = unit_rows(kept)
    return rows, np.asarray(lengths > 0)


def encode(vector: FloatArray, element: Element) -> EncodedVector:
    """Return a finite float32 vector as bytes of another type."""
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
    # As float32, since that is what the answer carries. The largest element is 127 exactly.
    scale = np.float32(float(np.abs(vector).max(initial=0.0)) / _INT8_MAX)
    scale = min(scale, _MAX_SCALE)
    if scale == 0:  # a zero vector, or one too small for the scale to be a number
        return EncodedVector(bytes(len(vector)), len(vector), float(np.finfo(np.float32).tiny))
    levels = np.clip(np.rint(vector / scale), -_INT8_MAX, _INT8_MAX)
    return EncodedVector(levels.astype(np.int8).tobytes(), len(vector), float(scale))
