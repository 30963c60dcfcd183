"""Choose a model's runtime: the fastest on this machine whose vectors equal those of float32.

Every candidate, even a single one, embeds the same few texts and images, alone and together. It
must agree with the exact runtime and with itself. Then speed decides. The decision is stored with
the exports, for this machine and these versions. What is served is checked at every start.
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
from embedder_server.models.runtimes.probe import ROUNDS, Measured, Probe, flaw, measure
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

# The least cosine to float32 that `auto` accepts.
MIN_ACCURACY = 0.999
_ONLY = "the only one for this model and device"


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

    The decision is stored in `cache`.

    Raises:
        ModelLoadError: No runtime works here, or the model fails the checks of `probe.flaw`.
    """
    candidates = networks.candidates()
    situation = _situation(device, threads, candidates)
    note = f"runtime-{fingerprint[:24]}-{situation}"
    if (stored := cache.read_note(note)) is not None:
        by_name = {str(candidate): candidate for candidate in candidates}
        if (runtime := by_name.get(str(stored.get("runtime")))) is not None:
            try:
                return _checked(networks, runtime, str(stored.get("reason", "")), probe())
            except ModelLoadError as error:
                if len(candidates) == 1 or isinstance(error, ModelMemoryError):
                    raise
                # Another may pass. An earlier version checked less, or the driver changed.
                logger.warning("the runtimes are compared again", extra={"reason": str(error)})
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
        ModelLoadError: It does not work here, or the model fails the checks of `probe.flaw`.
    """
    samples = probe()
    if runtime.precision != "int8":
        return _checked(networks, runtime, f"{runtime}: as configured", samples)
    exact, _ = _measure_exact(networks, samples, device)
    towers = networks.open(runtime)
    measured = _sound(runtime, towers, samples)
    reason = (
        f"{runtime}: as configured; cosine to float32 at least {measured.accuracy(exact):.4f}, of "
        f"an item alone to itself in a batch {measured.invariance:.4f} "
        f"({len(samples.texts)} texts, {len(samples.images)} pictures)"
    )
    return ChosenRuntime(runtime, towers, reason)


def _checked(networks: Networks, runtime: Runtime, reason: str, probe: Probe) -> ChosenRuntime:
    """Load a runtime, and check its vectors."""
    towers = networks.open(runtime)
    try:
        _sound(runtime, towers, probe.quick())
    except Exception as error:
        if not is_out_of_memory(error):
            towers.close()
            raise
        # Perhaps only a batch is too large; the engine splits such batches.
        logger.warning("not checked, for lack of memory", extra={"runtime": str(runtime)})
    return ChosenRuntime(runtime, towers, reason)


def _sound(runtime: Runtime, towers: TwoTowers, probe: Probe) -> Measured:
    """Return the vectors of a model that passes all checks.

    Raises:
        ModelLoadError: It fails one.
    """
    measured = measure(towers, probe, rounds=0)
    if found := flaw(measured, probe):
        raise ModelLoadError(f"the model fails its check on {runtime}: {found}")
    logger.info(
        "checks passed",
        extra={"runtime": str(runtime), "batch_cosine": round(measured.invariance, 6)},
    )
    return measured


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
            findings.append(f"{candidate} does not work ({str(error)[:300]})")
    flaws = {candidate: _flaw(measured, exact, probe) for candidate, measured in found.items()}
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


def _flaw(measured: Measured, exact: Measured, probe: Probe) -> str:
    """Return why a runtime must not be chosen; empty if it may be."""
    if found := flaw(measured, probe):
        return f": {found}"
    return ": too inexact" if measured.accuracy(exact) < MIN_ACCURACY else ""


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
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino", "torch"):
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
