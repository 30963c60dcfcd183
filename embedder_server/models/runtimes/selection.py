"""Which runtime a worker uses: the fastest here that gives the vectors float32 gives.

Each candidate embeds the same few texts and pictures, alone and together, an only one too. It must
agree with the exact runtime and with itself; then speed decides. The decision is kept beside the
exports, for this machine and these versions.


What runtimes of a model are measured with, and what each of them made of it.
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

from embedder_server.models.hub.dual_encoder import TwoTowers
from embedder_server.models.runtimes.base import Runtime
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.memory import (
    ModelMemoryError,
    is_out_of_memory,
    memory_as_load_error,
    memory_error,
)
from embedder_server.models.runtimes.networks import Networks
from embedder_server.types import FloatArray, ModelLoadError, TokenizedText

ROUNDS = 3
logger = logging.getLogger(__name__)

# The least cosine to float32, and of an item alone to itself in a batch, that `auto` accepts.
MIN_ACCURACY = 0.999
MIN_INVARIANCE = 0.9995
_ONLY = "the only one for this model and device"


@dataclass(frozen=True, slots=True)
class Choice:
    """A loaded runtime and why it is this one."""

    runtime: Runtime
    towers: TwoTowers
    reason: str


def choose(
    networks: Networks,
    probe: Callable[[], Probe],
    cache: ExportCache,
    fingerprint: str,
    *,
    device: str,
    threads: int,
) -> Choice:
    """Return the fastest runtime that keeps the model's vectors, loaded.

    Args:
        networks: Of the model.
        probe: Makes what is measured with, when something is.
        cache: Where the decision is kept.
        fingerprint: Of the model.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.

    Raises:
        ModelLoadError: No runtime works here, or none keeps an item's vector in every batch.
    """
    candidates = networks.candidates()
    situation = _situation(device, threads, candidates)
    note = f"runtime-{fingerprint[:24]}-{situation}"
    if (kept := cache.read_note(note)) is not None:
        by_name = {str(candidate): candidate for candidate in candidates}
        if (runtime := by_name.get(str(kept.get("runtime")))) is not None:
            return Choice(runtime, networks.open(runtime), str(kept.get("reason", "")))
    try:
        runtime, reason = _compare(networks, candidates, probe(), device)
    except ModelMemoryError:
        if len(candidates) > 1:
            raise
        # Perhaps of a batch only, which is split when it comes to that: opening it tells.
        [only] = candidates
        reason = f"{only}: {_ONLY}; not measured, for lack of memory"
        return Choice(only, networks.open(only), reason)
    cache.write_note(note, {"runtime": str(runtime), "reason": reason})
    return Choice(runtime, networks.open(runtime), reason)


def open_explicit(
    networks: Networks, runtime: Runtime, probe: Callable[[], Probe], device: str
) -> Choice:
    """Return the runtime that was asked for, loaded; of int8 its accuracy is measured.

    Raises:
        ModelLoadError: It does not work here.
    """
    towers = networks.open(runtime)
    if runtime.precision != "int8":
        return Choice(runtime, towers, f"{runtime}: as configured")
    samples = probe()
    exact, _ = _measure_exact(networks, samples, device)
    mine = measure(towers, samples, rounds=1)
    reason = (
        f"{runtime}: as configured; cosine to float32 at least {mine.accuracy(exact):.4f}, of an "
        f"item alone to itself in a batch {mine.invariance:.4f} ({len(samples.texts)} texts, "
        f"{len(samples.images)} pictures)"
    )
    return Choice(runtime, towers, reason)


def _compare(
    networks: Networks, candidates: Sequence[Runtime], probe: Probe, device: str
) -> tuple[Runtime, str]:
    first, *others = candidates
    exact, fits = _measure_exact(networks, probe, device)
    found = {first: exact} if fits else {}
    told = [] if fits else [f"{first} does not fit into the device's memory"]
    for candidate in others:
        try:
            found[candidate] = _measure_once(networks.open(candidate), probe)
        # A runtime that fails here, however it fails, is only not chosen.
        except Exception as error:
            logger.warning("a runtime does not work here", extra={"runtime": str(candidate)})
            told.append(f"{candidate} does not work ({str(error)[:80]})")
    flaws = {candidate: _flaw(measured, exact) for candidate, measured in found.items()}
    told += [
        f"{candidate} {measured.speed(exact):.2f}x, cosine {measured.accuracy(exact):.5f}"
        + flaws[candidate]
        for candidate, measured in found.items()
    ]
    sound = [candidate for candidate in found if not flaws[candidate]]
    if not sound:
        msg = f"no runtime of this model works on this device ({'; '.join(told)})"
        raise ModelLoadError(msg)
    best = max(sound, key=lambda candidate: found[candidate].speed(exact))
    base = str(first) if fits else "float32 on the CPU"
    return best, _reason(best, found[best], exact, base, told)


def _flaw(measured: Measured, exact: Measured) -> str:
    """Return why a runtime must not be chosen; empty if it may."""
    if measured.accuracy(exact) < MIN_ACCURACY:
        return ": too inexact"
    if measured.invariance < MIN_INVARIANCE:
        return (
            f": an item's vector depends on its batch, cosine {measured.invariance:.4f}; only "
            "--runtime with its name serves it"
        )
    return ""


def _reason(best: Runtime, mine: Measured, exact: Measured, base: str, told: Sequence[str]) -> str:
    alone = f"of an item alone to itself in a batch {mine.invariance:.5f}"
    if len(told) == 1:
        return f"{best}: {_ONLY}; cosine {alone}"
    return (
        f"{best}: the fastest here, {mine.speed(exact):.2f}x {base}; cosine to it at least "
        f"{mine.accuracy(exact):.5f}, {alone} (measured: {'; '.join(told)})"
    )


def _measure_exact(networks: Networks, probe: Probe, device: str) -> tuple[Measured, bool]:
    """Return what float32 makes of the probe, and whether the device could hold it.

    Where it could not, the CPU computes the vectors that the other runtimes are compared with.
    """
    exact, *others = networks.candidates()
    try:
        return _measure_once(networks.open(exact), probe), True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Not inside `except`: there the error's traceback keeps the memory of the failed attempt.
    logger.warning("the device is too small for a runtime", extra={"runtime": str(exact)})
    towers = networks.reference() if others else None  # an only one is compared with nothing
    if towers is None:
        raise memory_error(device)
    with memory_as_load_error("cpu"):
        return _measure_once(towers, probe, rounds=1), False


def _measure_once(towers: TwoTowers, probe: Probe, rounds: int = ROUNDS) -> Measured:
    try:
        return measure(towers, probe, rounds)
    finally:
        towers.close()


def _situation(device: str, threads: int, candidates: Sequence[Runtime]) -> str:
    """Return a name for all that may change the decision: machine, versions, candidates."""
    versions = {}
    for package in ("onnxruntime", "openvino", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    names = [str(candidate) for candidate in candidates]
    described = [device, threads, _processor(), _gpu(device, candidates), versions, names]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _gpu(device: str, candidates: Sequence[Runtime]) -> str:
    """Return the model of a CUDA device where a choice depends on it: of torch's precisions."""
    if device == "cpu" or all(candidate.library != "torch" for candidate in candidates):
        return ""
    # Only now: torch takes seconds to import, and every candidate here is torch's.
    from embedder_server.models.runtimes.torch import device_name

    return device_name(device)


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


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
