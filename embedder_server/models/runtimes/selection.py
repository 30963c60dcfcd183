"""Choose a model's runtime: the fastest on this machine whose vectors equal those of float32.

Every candidate, even a single one, embeds the same few texts and images, alone and together. It
must agree with the exact runtime and with itself. Then speed decides. The decision is stored with
the exports, for this machine and these versions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.models.runtimes.base import (
    ModelMemoryError,
    Networks,
    Runtime,
    TwoTowers,
    is_out_of_memory,
    memory_as_load_error,
    memory_error,
)
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, ModelLoadError

logger = logging.getLogger(__name__)

ROUNDS = 3
# What `auto` accepts: the least cosine to float32, and of an item alone to itself in a batch.
MIN_ACCURACY = 0.999
MIN_INVARIANCE = 0.9995
_ONLY = "the only one for this model and device"

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
_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """Contents that every candidate embeds."""

    texts: Sequence[TokenizedText]
    images: Sequence[npt.NDArray[np.generic]]  # preprocessed


@dataclass(slots=True)
class Measured:
    """Unit vectors and times of one runtime for the probe: of the texts, then of the images."""

    vectors: tuple[FloatArray, FloatArray]  # all embedded together
    alone: tuple[FloatArray, FloatArray]  # each embedded alone
    seconds: list[float]  # for one text, all texts, one image, all images

    @property
    def invariance(self) -> float:
        """Least cosine of an item alone to the same item in the batch."""
        return _least_cosine(self.alone, self.vectors)

    def accuracy(self, exact: Measured) -> float:
        """Return the least cosine to another runtime's vectors of each item alone."""
        return _least_cosine(self.vectors, exact.alone)

    def speed(self, exact: Measured) -> float:
        """Return the speed-up over another runtime, the geometric mean of all four loads."""
        ratios = np.array(exact.seconds) / np.array(self.seconds)
        return float(np.exp(np.log(ratios).mean()))


@dataclass(frozen=True, slots=True)
class ChosenRuntime:
    """A loaded runtime and the reason for it."""

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
) -> ChosenRuntime:
    """Load the fastest runtime that keeps the model's vectors.

    The decision is stored in `cache`; `probe` is called only if something is measured.

    Raises:
        ModelLoadError: No runtime works here, or every one's vectors depend on the batch.
    """
    candidates = networks.candidates()
    situation = _situation(device, threads, candidates)
    note = f"runtime-{fingerprint[:24]}-{situation}"
    if (stored := cache.read_note(note)) is not None:
        by_name = {str(candidate): candidate for candidate in candidates}
        if (runtime := by_name.get(str(stored.get("runtime")))) is not None:
            return ChosenRuntime(runtime, networks.open(runtime), str(stored.get("reason", "")))
    try:
        runtime, reason = _compare(networks, candidates, probe(), device)
    except ModelMemoryError:
        if len(candidates) > 1:
            raise
        # Perhaps only a batch is too large; the engine splits such batches. So open it unmeasured.
        [only] = candidates
        reason = f"{only}: {_ONLY}; not measured, for lack of memory"
        return ChosenRuntime(only, networks.open(only), reason)
    cache.write_note(note, {"runtime": str(runtime), "reason": reason})
    return ChosenRuntime(runtime, networks.open(runtime), reason)


def open_explicit(
    networks: Networks, runtime: Runtime, probe: Callable[[], Probe], device: str
) -> ChosenRuntime:
    """Load the configured runtime; measure the accuracy of int8.

    Raises:
        ModelLoadError: It does not work here.
    """
    towers = networks.open(runtime)
    if runtime.precision != "int8":
        return ChosenRuntime(runtime, towers, f"{runtime}: as configured")
    samples = probe()
    exact, _ = _measure_exact(networks, samples, device)
    measured = measure(towers, samples, rounds=1)
    reason = (
        f"{runtime}: as configured; cosine to float32 at least {measured.accuracy(exact):.4f}, of "
        f"an item alone to itself in a batch {measured.invariance:.4f} "
        f"({len(samples.texts)} texts, {len(samples.images)} pictures)"
    )
    return ChosenRuntime(runtime, towers, reason)


def _compare(
    networks: Networks, candidates: Sequence[Runtime], probe: Probe, device: str
) -> tuple[Runtime, str]:
    first, *others = candidates
    exact, fits = _measure_exact(networks, probe, device)
    found = {first: exact} if fits else {}
    findings = [] if fits else [f"{first} does not fit into the device's memory"]
    for candidate in others:
        try:
            found[candidate] = _measure_once(networks.open(candidate), probe)
        # A runtime that fails here, with whatever error, is not chosen.
        except Exception as error:
            logger.warning("a runtime does not work here", extra={"runtime": str(candidate)})
            findings.append(f"{candidate} does not work ({str(error)[:80]})")
    flaws = {candidate: _flaw(measured, exact) for candidate, measured in found.items()}
    findings += [
        f"{candidate} {measured.speed(exact):.2f}x, cosine {measured.accuracy(exact):.5f}"
        + flaws[candidate]
        for candidate, measured in found.items()
    ]
    sound = [candidate for candidate in found if not flaws[candidate]]
    if not sound:
        raise ModelLoadError(
            f"no runtime of this model works on this device ({'; '.join(findings)})"
        )
    best = max(sound, key=lambda candidate: found[candidate].speed(exact))
    base = str(first) if fits else "float32 on the CPU"
    return best, _reason(best, found[best], exact, base, findings)


def _flaw(measured: Measured, exact: Measured) -> str:
    """Return why a runtime must not be chosen; empty if it may be."""
    if measured.accuracy(exact) < MIN_ACCURACY:
        return ": too inexact"
    if measured.invariance < MIN_INVARIANCE:
        return (
            f": an item's vector depends on its batch, cosine {measured.invariance:.4f}; only "
            "--runtime with its name serves it"
        )
    return ""


def _reason(
    best: Runtime, measured: Measured, exact: Measured, base: str, findings: Sequence[str]
) -> str:
    alone = f"of an item alone to itself in a batch {measured.invariance:.5f}"
    if len(findings) == 1:
        return f"{best}: {_ONLY}; cosine {alone}"
    return (
        f"{best}: the fastest here, {measured.speed(exact):.2f}x {base}; cosine to it at least "
        f"{measured.accuracy(exact):.5f}, {alone} (measured: {'; '.join(findings)})"
    )


def _measure_exact(networks: Networks, probe: Probe, device: str) -> tuple[Measured, bool]:
    """Measure float32, the exact runtime; return whether it fits on the device.

    If it does not, measure it on the CPU, so that the other runtimes can be compared with it.
    """
    exact, *others = networks.candidates()
    try:
        return _measure_once(networks.open(exact), probe), True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Not inside `except`: there the error's traceback keeps the memory of the failed attempt.
    logger.warning("the device is too small for a runtime", extra={"runtime": str(exact)})
    towers = networks.reference() if others else None  # a single candidate needs no comparison
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
    """Hash all that may change the decision: machine, versions and candidates."""
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
    """Return the model of the CUDA device if torch is a candidate; else an empty string."""
    if device == "cpu" or all(candidate.library != "torch" for candidate in candidates):
        return ""
    # Only here: importing torch takes seconds. Such a worker has torch candidates only.
    from embedder_server.models.runtimes.torch import device_name

    return device_name(device)


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def make_probe(
    tokenize: Callable[[str], TokenizedText],
    preprocess: Callable[[Any], npt.NDArray[np.generic]],
    side: int,
) -> Probe:
    """Return the probe for one model. Its images are the same on every machine."""
    from PIL import Image

    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (_IMAGES, 8, 8, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels).resize((side, side)) for pixels in coarse]
    return Probe([tokenize(text) for text in _SENTENCES], [preprocess(i) for i in images])


def measure(towers: TwoTowers, probe: Probe, rounds: int = ROUNDS) -> Measured:
    """Embed `probe` and return the vectors and the best times of `rounds` rounds."""
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


def _least_cosine(ours: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    pairs = zip(ours, others, strict=True)
    return min(float(np.einsum("ij,ij->i", a, b).min()) for a, b in pairs)


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ModelLoadError("the network returns no usable vectors")
    return np.asarray(vectors / norms, dtype=np.float32)
