"""Cosines to an order and to probabilities, as the model's own scale has them. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedder_server.types import FloatArray, ModelInfo


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate's place.

    Attributes:
        index: Which candidate.
        cosine: -1 to 1.
        probability: 0 to 1.
    """

    index: int
    cosine: float
    probability: float


def rank(
    query: FloatArray, candidates: Sequence[tuple[int, FloatArray]], info: ModelInfo, top_k: int
) -> list[Ranked]:
    """Return the `top_k` best candidates (0: all), best first, ties by index.

    Probabilities are over all candidates, whatever `top_k`.

    Args:
        query: Float32 `[n]`, of length 1.
        candidates: Index and vector of each, of the same length as the query and of length 1.
        info: Its logit scale and bias, and whether it was trained with a sigmoid.
        top_k: Most candidates to return.
    """
    if not candidates:
        return []
    matrix = np.stack([vector for _, vector in candidates]).astype(np.float64)
    cosines = np.clip(matrix @ query.astype(np.float64), -1.0, 1.0)
    probabilities = _probabilities(info.logit_scale * cosines + info.logit_bias, info.sigmoid)
    places = [
        Ranked(index, float(cosine), float(probability))
        for (index, _), cosine, probability in zip(candidates, cosines, probabilities, strict=True)
    ]
    places.sort(key=lambda place: (-place.cosine, place.index))
    return places[: top_k or None]


def _probabilities(logits: npt.NDArray[np.float64], sigmoid: bool) -> npt.NDArray[np.float64]:
    if sigmoid:
        # By way of tanh, which does not overflow for any logit.
        return 0.5 * (1.0 + np.tanh(0.5 * logits))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
