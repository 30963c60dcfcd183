"""What runtimes of a model are measured with, and what each of them made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.models.base import ModelLoadError
from embedder_server.models.dual_encoder import TwoTowers
from embedder_server.types import FloatArray, TokenizedText

ROUNDS = 3
_SENTENCES = (
    "a cat",
    "two dogs run along the beach at low tide",
    "red umbrella in the rain at night, neon lights",
    "an old man mends a fishing net on the quay while grey cats wait beside a bucket",
    "mountain",
    "a cup of coffee on a wooden table next to an open book and a pair of reading glasses",
    "steam locomotive crossing a stone bridge",
    "children playing football in a narrow street",
)
_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """What candidates are measured with.

    Attributes:
        texts: Of several lengths.
        images: Preprocessed pictures.
    """

    texts: Sequence[TokenizedText]
    images: Sequence[npt.NDArray[np.generic]]


@dataclass(slots=True)
class Measured:
    """What one runtime made of the probe.

    Attributes:
        vectors: Unit vectors of all texts, then of all images, embedded together.
        alone: The same, each item embedded alone.
        seconds: Of one text, all texts, one image, all images.
    """

    vectors: tuple[FloatArray, FloatArray]
    alone: tuple[FloatArray, FloatArray]
    seconds: list[float] = field(default_factory=list)

    @property
    def invariance(self) -> float:
        """Least cosine of an item alone to itself in the batch."""
        return _least_cosine(self.alone, self.vectors)

    def accuracy(self, exact: Measured) -> float:
        """Return the least cosine to what another runtime makes of each item alone."""
        return _least_cosine(self.vectors, exact.alone)

    def speed(self, exact: Measured) -> float:
        """Return how many times as fast as another runtime it is, all four loads alike."""
        ratios = np.array(exact.seconds) / np.array(self.seconds)
        return float(np.exp(np.log(ratios).mean()))


def make_probe(
    tokenize: Callable[[str], TokenizedText],
    preprocess: Callable[[Any], npt.NDArray[np.generic]],
    side: int,
) -> Probe:
    """Return the probe of one model; the same pictures on every machine."""
    from PIL import Image

    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (_PICTURES, 8, 8, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels).resize((side, side)) for pixels in coarse]
    return Probe([tokenize(text) for text in _SENTENCES], [preprocess(p) for p in pictures])


def measure(towers: TwoTowers, probe: Probe, rounds: int = ROUNDS) -> Measured:
    """Return what `towers` makes of `probe`, and how long it takes at best of `rounds`."""
    texts, images = towers.embed_texts, towers.embed_images
    together = (_unit(texts(probe.texts)), _unit(images(probe.images)))
    alone = (
        _unit(np.concatenate([texts([text]) for text in probe.texts])),
        _unit(np.concatenate([images([image]) for image in probe.images])),
    )
    loads: tuple[Callable[[], object], ...] = (
        lambda: texts(probe.texts[1:2]),
        lambda: texts(probe.texts),
        lambda: images(probe.images[:1]),
        lambda: images(probe.images),
    )
    return Measured(together, alone, [_best(load, rounds) for load in loads])


def _best(load: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        load()
        seconds.append(perf_counter() - start)
    return min(seconds)


def _least_cosine(mine: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    pairs = zip(mine, others, strict=True)
    return min(float(np.einsum("ij,ij->i", a, b).min()) for a, b in pairs)


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        msg = "the network returns no usable vectors"
        raise ModelLoadError(msg)
    return np.asarray(vectors / norms, dtype=np.float32)
