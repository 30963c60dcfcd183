"""Embed the same few contents with every runtime: to compare runtimes, and to reject a bad model.

Other servers have served vectors that were all the same, that changed from call to call or with the
batch, or that were not numbers. Whoever searches with them sees only poor results. So no model is
served that fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedder_server.models.runtimes.base import is_out_of_memory
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, ModelLoadError

ROUNDS = 3
# The least cosine of an item alone to itself in a batch, and of an item to itself a second time.
MIN_INVARIANCE = 0.9995
MIN_REPEATED = 0.99999
# The largest cosine of two different items of one kind.
MAX_SIMILARITY = 0.999
_CHECKED_ALONE = 2
_LONG_TOKENS = 40
# Longer texts take too much time and memory to try them at every start.
_MOST_TOKENS = 256

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
# Images of few and of many fields, each in other colours: the least and the most of a channel.
_FIELDS = (
    (3, (120, 0, 0), (256, 120, 120)),
    (6, (0, 0, 90), (150, 120, 256)),
    (12, (0, 60, 0), (256, 256, 110)),
    (24, (0, 0, 0), (256, 256, 256)),
)


class Embeds(Protocol):
    """What is checked: `TwoTowers`, or a model."""

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray: ...

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """Contents that every candidate embeds; images are preprocessed."""

    texts: Sequence[TokenizedText]
    images: Sequence[npt.NDArray[np.generic]]
    long_texts: Sequence[TokenizedText] = ()
    blanks: Sequence[npt.NDArray[np.generic]] = ()

    def quick(self) -> Probe:
        """Return a part that takes less time, and still shows every flaw."""
        return Probe(self.texts[:4], self.images[:2], self.long_texts, self.blanks)


@dataclass(slots=True)
class Measured:
    """Unit vectors and times of one runtime for the probe: of the texts, then of the images."""

    vectors: tuple[FloatArray, FloatArray]  # all embedded together
    alone: tuple[FloatArray, FloatArray]  # each embedded alone; not measured: the first two
    again: tuple[FloatArray, FloatArray]  # the first one, embedded alone a second time
    rest: tuple[FloatArray, FloatArray]  # of the long texts, and of the blank images
    seconds: list[float]  # for one text, all texts, one image, all images; empty: not measured

    @property
    def invariance(self) -> float:
        """Least cosine of an item alone to the same item in the batch."""
        together = zip(self.vectors, self.alone, strict=True)
        return _least_cosine(self.alone, [all_[: len(some)] for all_, some in together])

    @property
    def repeated(self) -> float:
        """Least cosine of an item to itself a second time."""
        return _least_cosine([alone[:1] for alone in self.alone], self.again)

    def accuracy(self, exact: Measured) -> float:
        """Return the least cosine to another runtime's vectors of each item alone."""
        return _least_cosine(self.vectors, exact.alone)

    def speed(self, exact: Measured) -> float:
        """Return the speed-up over another runtime, the geometric mean of all four loads."""
        ratios = np.array(exact.seconds) / np.array(self.seconds)
        return float(np.exp(np.log(ratios).mean()))


def make_probe(
    tokenize: Callable[[str], TokenizedText],
    preprocess: Callable[[Any], npt.NDArray[np.generic]],
    side: int,
) -> Probe:
    """Return the probe for one model. Its images are the same on every machine."""
    from PIL import Image

    random = np.random.default_rng(7)
    fields = [
        random.integers(least, most, (count, count, 3), dtype=np.uint16).astype(np.uint8)
        for count, least, most in _FIELDS
    ]
    images = [Image.fromarray(field).resize((side, side)) for field in fields]
    blanks = [Image.new("RGB", (side, side), colour) for colour in ("white", "black")]
    return Probe(
        [tokenize(text) for text in _SENTENCES],
        [preprocess(image) for image in images],
        _long_texts(tokenize),
        [preprocess(image) for image in blanks],
    )


def _long_texts(tokenize: Callable[[str], TokenizedText]) -> list[TokenizedText]:
    """Return two texts of 40 tokens that differ in the second half, and one at the limit.

    They are put together from tokens, because how many a text has depends on the tokenizer.
    """
    text = tokenize(" ".join(_SENTENCES * 8)).ids
    other = tokenize(" ".join(_SENTENCES[::-1] * 8)).ids
    count = min(_LONG_TOKENS, len(text), len(other))
    most = min(_MOST_TOKENS, len(text))
    half = count // 2
    found = [
        np.concatenate([text[: count - 1], text[-1:]]),
        np.concatenate([text[:half], other[half : count - 1], text[-1:]]),
    ]
    if most > count:
        found.append(np.concatenate([text[: most - 1], text[-1:]]))
    return [TokenizedText(ids, len(ids)) for ids in found]


def measure(model: Embeds, probe: Probe, rounds: int = ROUNDS) -> Measured:
    """Embed `probe` and return the vectors and the best times of `rounds` rounds.

    Without rounds, embed only the first two items alone: enough to check a model at every start.

    Raises:
        ModelLoadError: The network fails, or a vector is not finite, all zero or of the wrong size.
    """
    texts, images = model.embed_texts, model.embed_images
    longest = max(len(text.ids) for text in probe.texts)
    together = (
        _embed(texts, probe.texts, f"texts of up to {longest} tokens"),
        _embed(images, probe.images, "images"),
    )
    some = slice(None if rounds else _CHECKED_ALONE)
    alone = (
        np.concatenate([_embed(texts, [text], "a text alone") for text in probe.texts[some]]),
        np.concatenate([_embed(images, [image], "an image alone") for image in probe.images[some]]),
    )
    again = (
        _embed(texts, probe.texts[:1], "a text"),
        _embed(images, probe.images[:1], "an image"),
    )
    # Those of one length together: fewer shapes, which some runtimes prepare one by one.
    long = [
        _embed(texts, same, f"texts of {len(same[0].ids)} tokens")
        for same in (probe.long_texts[:2], probe.long_texts[2:])
        if same
    ]
    blank = [_embed(images, probe.blanks, "images of one colour")] if probe.blanks else []
    rest = tuple(
        np.concatenate([vectors[:0], *found])
        for vectors, found in zip(together, (long, blank), strict=True)
    )
    loads: tuple[Callable[[], object], ...] = (
        lambda: texts(probe.texts[1:2]),
        lambda: texts(probe.texts),
        lambda: images(probe.images[:1]),
        lambda: images(probe.images),
    )
    seconds = [_best(load, rounds) for load in loads] if rounds else []
    return Measured(together, alone, again, (rest[0], rest[1]), seconds)


def flaw(measured: Measured, probe: Probe) -> str:
    """Return why no vector of a model may be served, and what to do; empty if nothing is wrong."""
    if measured.repeated < MIN_REPEATED:
        return (
            f"the same item has another vector the second time, cosine {measured.repeated:.5f} (at "
            f"least {MIN_REPEATED}): the network is random (dropout, sampling) or the device is "
            "faulty; export it for inference, or choose another --runtime"
        )
    for kind, first, second, cosine in _alike(measured, probe):
        return (
            f"{kind} {first} and {second} of the check differ but have the same vector, cosine "
            f"{cosine:.5f} (at most {MAX_SIMILARITY}): a search could not tell {kind}s apart; "
            "download the model again, or choose another --runtime"
        )
    if measured.invariance < MIN_INVARIANCE:
        return (
            f"an item's vector depends on its batch, cosine {measured.invariance:.4f} (at least "
            f"{MIN_INVARIANCE}): choose another --runtime"
        )
    return ""


def _alike(measured: Measured, probe: Probe) -> Iterator[tuple[str, int, int, float]]:
    """Yield pairs of different items with one vector: their kind, numbers from 1, and cosine."""
    kinds: tuple[tuple[str, list[npt.NDArray[Any]]], ...] = (
        ("text", [text.ids for text in (*probe.texts, *probe.long_texts)]),
        ("image", [*probe.images, *probe.blanks]),
    )
    for index, (kind, items) in enumerate(kinds):
        vectors = np.concatenate([measured.vectors[index], measured.rest[index]])
        cosines = vectors @ vectors.T
        for first, second in zip(*np.nonzero(np.triu(cosines > MAX_SIMILARITY, 1)), strict=True):
            # To a small vocabulary, two sentences can be the same unknown words.
            if not np.array_equal(items[first], items[second]):
                yield kind, int(first) + 1, int(second) + 1, float(cosines[first, second])


def _embed(embed: Callable[[Any], FloatArray], items: Sequence[Any], what: str) -> FloatArray:
    """Return unit vectors. Errors say what `what` is."""
    try:
        vectors = embed(items)
    # Every runtime has its own classes.
    except Exception as error:
        if isinstance(error, ModelLoadError) or is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"the network fails with {what} ({str(error)[:200]}): its export or its files are "
            "broken; download the model again, or take another revision of it"
        ) from error
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable.all():
        raise ModelLoadError(
            f"with {what}, the network returns no usable vectors: {np.count_nonzero(~usable)} of "
            f"{len(usable)} are not finite, or all zero. In float16 numbers overflow (choose "
            "--runtime torch-bf16 or torch); otherwise download the model again"
        )
    return np.asarray(vectors / norms, dtype=np.float32)


def _best(load: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        load()
        seconds.append(perf_counter() - start)
    return min(seconds)


def _least_cosine(ours: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    pairs = zip(ours, others, strict=True)
    return min(float(np.einsum("ij,ij->i", a, b).min()) for a, b in pairs)
