"""Which runtime a worker uses: the fastest here that gives the vectors float32 gives.

Each candidate embeds the same few texts and pictures, alone and together. It must agree with the
exact runtime and with itself; then speed decides. The decision is kept beside the exports, for
this machine and these versions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.models.base import ModelLoadError
from embedder_server.models.dual_encoder import TwoTowers
from embedder_server.models.export_cache import ExportCache
from embedder_server.models.memory import (
    is_out_of_memory,
    memory_as_load_error,
    memory_error,
)
from embedder_server.models.networks import Networks
from embedder_server.models.runtimes.base import Runtime
from embedder_server.types import FloatArray, TokenizedText

logger = logging.getLogger(__name__)

# The least cosine to float32, and of an item alone to itself in a batch, that `auto` accepts.
MIN_ACCURACY = 0.999
MIN_INVARIANCE = 0.9995
_ROUNDS = 3
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
class Choice:
    """A loaded runtime and why it is this one."""

    runtime: Runtime
    towers: TwoTowers
    reason: str


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
        invariance: Least cosine of an item alone to itself in the batch.
        seconds: Of one text, all texts, one image, all images.
    """

    vectors: tuple[FloatArray, FloatArray]
    invariance: float
    seconds: list[float] = field(default_factory=list)

    def accuracy(self, exact: Measured) -> float:
        """Return the least cosine to the vectors of another runtime."""
        pairs = zip(self.vectors, exact.vectors, strict=True)
        return min(float(np.einsum("ij,ij->i", mine, other).min()) for mine, other in pairs)

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


def choose(
    networks: Networks, probe: Callable[[], Probe], cache: ExportCache, fingerprint: str, where: str
) -> Choice:
    """Return the fastest runtime that keeps the model's vectors, loaded.

    Args:
        networks: Of the model.
        probe: Makes what is measured with, when something is.
        cache: Where the decision is kept.
        fingerprint: Of the model.
        where: Device and threads.

    Raises:
        ModelLoadError: Not even the exact runtime works.
    """
    candidates = networks.candidates()
    if len(candidates) == 1:
        [only] = candidates
        return Choice(only, networks.open(only), f"{only}: the only one for this model and device")
    note = f"runtime-{fingerprint[:24]}-{_situation(where, candidates)}"
    if (kept := cache.read_note(note)) is not None:
        by_name = {str(candidate): candidate for candidate in candidates}
        if (runtime := by_name.get(str(kept.get("runtime")))) is not None:
            return Choice(runtime, networks.open(runtime), str(kept.get("reason", "")))
    runtime, reason = _compare(networks, candidates, probe())
    cache.write_note(note, {"runtime": str(runtime), "reason": reason})
    return Choice(runtime, networks.open(runtime), reason)


def open_explicit(networks: Networks, runtime: Runtime, probe: Callable[[], Probe]) -> Choice:
    """Return the runtime that was asked for, loaded; of int8 its accuracy is measured.

    Raises:
        ModelLoadError: It does not work here.
    """
    towers = networks.open(runtime)
    if runtime.precision != "int8":
        return Choice(runtime, towers, f"{runtime}: as configured")
    samples = probe()
    exact, _ = _measure_exact(networks, samples)
    mine = measure(towers, samples, rounds=1)
    reason = (
        f"{runtime}: as configured; cosine to float32 at least {mine.accuracy(exact):.4f}, of an "
        f"item alone to itself in a batch {mine.invariance:.4f} ({len(samples.texts)} texts, "
        f"{len(samples.images)} pictures)"
    )
    return Choice(runtime, towers, reason)


def measure(towers: TwoTowers, probe: Probe, rounds: int = _ROUNDS) -> Measured:
    """Return what `towers` makes of `probe`, and how long it takes at best of `rounds`."""
    texts, images = towers.embed_texts, towers.embed_images
    together = (_unit(texts(probe.texts)), _unit(images(probe.images)))
    alone = (
        _unit(np.concatenate([texts([text]) for text in probe.texts])),
        _unit(np.concatenate([images([image]) for image in probe.images])),
    )
    pairs = zip(alone, together, strict=True)
    invariance = min(float(np.einsum("ij,ij->i", a, b).min()) for a, b in pairs)
    loads: tuple[Callable[[], object], ...] = (
        lambda: texts(probe.texts[1:2]),
        lambda: texts(probe.texts),
        lambda: images(probe.images[:1]),
        lambda: images(probe.images),
    )
    return Measured(together, invariance, [_best(load, rounds) for load in loads])


def _compare(
    networks: Networks, candidates: Sequence[Runtime], probe: Probe
) -> tuple[Runtime, str]:
    exact, fits = _measure_exact(networks, probe)
    best = candidates[0] if fits else None
    best_speed, best_accuracy = 1.0 if fits else 0.0, 1.0
    base = f"{candidates[0]}" if fits else "float32 on the CPU"
    others = [] if fits else [f"{candidates[0]} does not fit into the device's memory"]
    for candidate in candidates[1:]:
        try:
            measured = _measure_once(networks.open(candidate), probe)
        # A runtime that fails here, however it fails, is only not chosen.
        except Exception as error:
            logger.warning("a runtime does not work here", extra={"runtime": str(candidate)})
            others.append(f"{candidate} does not work ({str(error)[:80]})")
            continue
        speed, accuracy = measured.speed(exact), measured.accuracy(exact)
        verdict = f"{candidate} {speed:.2f}x, cosine {accuracy:.5f}"
        if accuracy < MIN_ACCURACY:
            others.append(f"{verdict}: too inexact")
        elif measured.invariance < MIN_INVARIANCE:
            others.append(f"{verdict}: an item's vector depends on its batch")
        else:
            others.append(verdict)
            if speed > best_speed:
                best, best_speed, best_accuracy = candidate, speed, accuracy
    if best is None:
        msg = f"no runtime of this model works on this device ({'; '.join(others)})"
        raise ModelLoadError(msg)
    reason = (
        f"{best}: the fastest here, {best_speed:.2f}x {base}, cosine to it at least "
        f"{best_accuracy:.5f} (measured: {'; '.join(others)})"
    )
    logger.info("runtime chosen", extra={"runtime": str(best), "why": reason})
    return best, reason


def _measure_exact(networks: Networks, probe: Probe) -> tuple[Measured, bool]:
    """Return what float32 makes of the probe, and whether the device could hold it.

    Where it could not, the CPU computes the vectors that the other runtimes are compared with.
    """
    exact = networks.candidates()[0]
    try:
        return _measure_once(networks.open(exact), probe), True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Not inside `except`: there the error's traceback keeps the memory of the failed attempt.
    logger.warning("the device is too small for a runtime", extra={"runtime": str(exact)})
    towers = networks.reference()
    if towers is None:
        raise memory_error("cpu")
    with memory_as_load_error("cpu"):
        return _measure_once(towers, probe, rounds=1), False


def _measure_once(towers: TwoTowers, probe: Probe, rounds: int = _ROUNDS) -> Measured:
    try:
        return measure(towers, probe, rounds)
    finally:
        towers.close()


def _best(load: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        load()
        seconds.append(perf_counter() - start)
    return min(seconds)


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        msg = "the network returns no usable vectors"
        raise ModelLoadError(msg)
    return np.asarray(vectors / norms, dtype=np.float32)


def _situation(where: str, candidates: Sequence[Runtime]) -> str:
    """Return a name for all that may change the decision: machine, versions, candidates."""
    versions = {}
    for package in ("onnxruntime", "openvino", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    described = [where, _processor(), versions, [str(candidate) for candidate in candidates]]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
