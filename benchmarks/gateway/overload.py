"""Offer a gateway three times what it can do, and see what becomes of it.

An open loop on several connections searches for texts that no cache knows. Beside it, on a
connection of its own, a light caller makes one search a second without retries. Afterwards one
search follows the other until they are as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import contents
from benchmarks.load.agents import Agent, agent
from benchmarks.report import Row, median, percentile
from benchmarks.servers import bare

CALLERS = 32
_EXCESS = 3
_CONNECTIONS = 8
# As in sentinel_core/admission.py: this many are no backlog; others wait up to `max_wait_seconds`.
_NO_BACKLOG, _MAX_WAIT_S = 32, 1.0
# The measurement begins when the backlog is full.
_WARM_S = 3.0
_TEXTS = 2_000


@dataclass(frozen=True, slots=True)
class Crowd:
    """What is searched, by addresses, and a folder for logs."""

    gateway: str
    worker: str
    milvus: str
    collection: str
    scratch: Path


def overload(crowd: Crowd, *, seconds: float, turn: float) -> list[Row]:
    """Measure for `seconds`, between two measurements of the peak that last `turn` seconds.

    The floor of the goodput: the rate of as many callers as at the peak, beside as many empty calls
    as are refused, ÷ the peak. Refusing cannot cost less than an empty call. The floor of the
    refusals: those of a gateway without logic, in the same flood.
    """
    with (
        agent("benchmarks.load.search_generator") as load,
        agent("benchmarks.load.embed_generator") as others,
        bare(crowd.scratch, "embedder.empty_calls") as echo,
    ):
        load.call("prepare", texts=contents.texts(_TEXTS, seed=21), vectors=[])
        closed = _closed(load, crowd, turn)
        closed()  # warms up
        before = closed()
        idle = load.call("lone", address=crowd.gateway, collection=crowd.collection, searches=30)
        flood = _flood(load, crowd.gateway, crowd.collection, before["rate"], seconds)
        after = closed()
        plain = _plain_refusals(load, crowd, before["rate"], seconds)
        refused = flood["refused"] / flood["seconds"]
        others.start(
            "open", kind="sentinel", address=echo.address, rate=refused, seconds=turn,
            requests={"content": "text", "per_request": 1},
        )  # fmt: skip
        beside = closed()
        others.answer()
    peak = max(before["rate"], after["rate"])
    floor = beside["rate"] / peak
    return _rows(flood, peak, floor, plain, idle["latencies_ms"])


def _closed(load: Agent, crowd: Crowd, turn: float) -> Callable[[], dict[str, Any]]:
    def closed() -> dict[str, Any]:
        return load.call(
            "closed", kind="new_texts", address=crowd.gateway, collection=crowd.collection,
            callers=CALLERS, seconds=turn,
        )  # fmt: skip

    return closed


def _flood(
    load: Agent, gateway: str, collection: str, rate: float, seconds: float
) -> dict[str, Any]:
    return load.call(
        "open",
        address=gateway,
        collection=collection,
        rate=_EXCESS * rate,
        seconds=_WARM_S + seconds,
        warm_seconds=_WARM_S,
        connections=_CONNECTIONS,
    )


def _plain_refusals(load: Agent, crowd: Crowd, rate: float, seconds: float) -> list[float]:
    """Return the times of refusals by a gateway without logic, in ms."""
    most = str(round(max(_NO_BACKLOG, rate * _MAX_WAIT_S)))
    arguments = (crowd.milvus, crowd.worker, most)
    with bare(crowd.scratch, "gateway.bare_gateway", *arguments) as plain:
        flood = _flood(load, plain.address, crowd.collection, rate, seconds)
    refused: list[float] = flood["refused_ms"]
    return refused


def _rows(
    flood: dict[str, Any],
    peak: float,
    floor: float,
    plain_ms: list[float],
    idle_ms: list[float],
) -> list[Row]:
    goodput = flood["rate"] / peak
    p99 = percentile(flood["latencies_ms"], 99)
    bound_ms = 1000 * max(_MAX_WAIT_S, _NO_BACKLOG / flood["rate"])
    light = flood["light"]
    offered = flood["offered"] / peak
    codes = {code: count for code, count in flood["codes"].items() if code != "OVERLOADED"}
    client = f"client: {flood['cpu_seconds'] / flood['all_seconds']:.2f} cores"
    detail = {key: value for key, value in flood.items() if "latencies" not in key}
    return [
        Row("searches at the peak", peak, "searches/s", note=f"{CALLERS} callers, new texts"),
        Row(
            f"goodput at {_EXCESS}x the capacity ÷ peak",
            goodput,
            "x",
            note=f"offered {offered:.1f}x for {flood['seconds']:.0f} s; {client}, late by "
            f"{flood['lag_ms_p99']:.0f} ms p99; answers by code: {codes}",
            detail=detail,
        ),
        Row(
            "... ÷ floor",
            goodput / floor,
            "x",
            at_least=0.9,
            note=f"floor {floor:.2f}: the peak beside as many empty calls as were refused",
        ),
        Row(
            "p99 of the accepted ÷ (queue bound ÷ rate)",
            p99 / bound_ms,
            "x",
            at_most=1.3,
            note=f"{p99:.0f} ms of {bound_ms:.0f} ms; p50 "
            f"{percentile(flood['latencies_ms'], 50):.0f} ms",
        ),
        Row(
            "refusals, p99",
            percentile(flood["refused_ms"], 99),
            "ms",
            at_most=20,
            note=f"{len(flood['refused_ms'])} of them, from sending to the answer, in the client; "
            f"p50 {percentile(flood['refused_ms'], 50):.1f} ms; floor, a gateway without logic in "
            f"the same flood: p50 {percentile(plain_ms, 50):.1f} ms, p99 "
            f"{percentile(plain_ms, 99):.1f} ms",
        ),
        Row(
            "light caller, one search a second: answered",
            light["ok"] / max(1, light["searches"]),
            "",
            at_least=1.0,
            note=f"{light['searches']} searches without retries, p99 "
            f"{percentile(light['latencies_ms'], 99):.0f} ms; failed: {light['failed']}",
        ),
        Row(
            "normal again after",
            _recovery(flood["afterwards"], limit_ms=2 * percentile(idle_ms, 90)),
            "s",
            at_most=2.0,
            note=f"idle p50 {median(idle_ms):.1f} ms; from then on no search takes more than "
            f"twice the idle p90, but for one in twenty",
        ),
    ]


def _recovery(afterwards: list[list[float]], limit_ms: float) -> float:
    """Return when service is normal: `afterwards` has the end of each search, and its time."""
    for place, (at, _) in enumerate(afterwards):
        rest = [ms for _, ms in afterwards[place:]]
        if percentile(rest, 95) <= limit_ms:
            return max(0.0, at - rest[0] / 1000)
    return float("inf")
