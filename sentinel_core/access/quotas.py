"""Quotas: how much each caller and each tenant may ask for.

A file names them (docs/security.md). Rates are token buckets: a bucket fills at its rate, up to
what it gets in its period, and a call takes out of it what it costs. A call is admitted if there is
something in every bucket. It may cost more than that; then the next call waits for longer. So a
call of any size has its turn, and the rate holds over time.
"""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sentinel_core.access.followed_file import FollowedFile
from sentinel_core.access.scopes import Caller
from sentinel_core.calls import Deadline
from sentinel_core.errors import ResourceExhausted

_ANY = "*"
_MOST_BUCKETS = 10_000
_SWEEP_EVERY_S = 1.0
# A call that ends makes room for the next.
_RETRY_CONCURRENT_S = 0.1
_LONGEST_PAUSE_S = 60.0


class Quota(enum.StrEnum):
    """What is limited, by its name in the file."""

    CALLS = "calls_per_second"
    ITEMS = "items_per_minute"
    BYTES = "bytes_per_minute"
    CONCURRENT = "concurrent_calls"
    COLLECTIONS = "collections"
    STORED_ITEMS = "stored_items"
    STORED_BYTES = "stored_bytes"


Limits = Mapping[Quota, float]
_PERIODS = {Quota.CALLS: 1.0, Quota.ITEMS: 60.0, Quota.BYTES: 60.0}
# A collection belongs to a tenant, and not to one of its keys.
_OF_TENANTS = {Quota.COLLECTIONS, Quota.STORED_ITEMS, Quota.STORED_BYTES}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call costs besides its bytes: calls, in plain text searches, and items written."""

    calls: float = 1.0
    items: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call takes from one bucket; the bucket's name, rate per second and size."""

    bucket: str
    amount: float
    rate: float
    size: float


class Buckets(Protocol):
    """Token buckets."""

    async def take(
        self, bills: Sequence[Bill], *, even_if_empty: bool = False
    ) -> tuple[int, float] | None:
        """Take all bills, or none, or with `even_if_empty` all in any case.

        Returns None if they were taken; else the place of the bill whose bucket is empty, and in
        how many seconds it will have something again.
        """
        ...


class LocalBuckets:
    """The buckets of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float, float]] = {}  # level, at, full at
        self._swept_at = clock()

    async def take(
        self, bills: Sequence[Bill], *, even_if_empty: bool = False
    ) -> tuple[int, float] | None:
        now = self._clock()
        levels = [self._level(bill, now) for bill in bills]
        waits = [(1.0 - level) / bill.rate for bill, level in zip(bills, levels, strict=True)]
        longest = max(waits)
        if longest > 0 and not even_if_empty:
            return waits.index(longest), longest
        for bill, level in zip(bills, levels, strict=True):
            left = level - bill.amount
            self._levels[bill.bucket] = (left, now, now + (bill.size - left) / bill.rate)
        self._sweep(now)
        return None

    def _level(self, bill: Bill, now: float) -> float:
        level, at, _ = self._levels.get(bill.bucket, (bill.size, now, now))
        return min(bill.size, level + (now - at) * bill.rate)

    def _sweep(self, now: float) -> None:
        """Forget full buckets: a new one is full, too."""
        if len(self._levels) > _MOST_BUCKETS and now - self._swept_at > _SWEEP_EVERY_S:
            self._swept_at = now
            self._levels = {name: one for name, one in self._levels.items() if one[2] > now}


@dataclass(frozen=True, slots=True)
class QuotaTable:
    """What a file says: limits by caller and by tenant; `*` is for those that it does not name."""

    callers: Mapping[str, Limits]
    tenants: Mapping[str, Limits]

    def of_caller(self, caller: Caller) -> Limits:
        """Return the limits of one key, token subject or certificate."""
        return self.callers.get(caller.id, self.callers.get(_ANY, {}))

    def of_tenant(self, caller: Caller) -> Limits:
        """Return the limits of a caller's tenant."""
        return self.tenants.get(caller.tenant, self.tenants.get(_ANY, {}))


class Quotas:
    """Charges calls to their callers and tenants. Use inside one event loop."""

    def __init__(self, path: Path, buckets: Buckets) -> None:
        """Follow the file. Raises ValueError if it cannot be read at the start."""
        self._file = FollowedFile(path, parse_quotas)
        self._buckets = buckets
        self._running: Counter[str] = Counter()

    def enter(self, caller: Caller) -> Slot:
        """Count a call as running until the slot is released.

        Raises ResourceExhausted if the caller or the tenant has as many as it may have.
        """
        table, names = self._file.value(), []
        for limits, name in _holders(table, caller):
            most = limits.get(Quota.CONCURRENT)
            if most is None:
                continue
            if self._running[name] >= most:
                raise refusal(Quota.CONCURRENT, most, name, _RETRY_CONCURRENT_S)
            names.append(name)
        self._running.update(names)
        return Slot(self._running, names)

    async def charge(
        self, caller: Caller, cost: Cost, size: int, *, even_if_empty: bool = False
    ) -> None:
        """Take what a call costs, `size` bytes included.

        Raises ResourceExhausted if a bucket is empty, unless it may be.
        """
        amounts = {Quota.CALLS: cost.calls, Quota.ITEMS: cost.items, Quota.BYTES: size}
        bills, refusals = self._bills(caller, {one: n for one, n in amounts.items() if n})
        if not bills:
            return
        empty = await self._buckets.take(bills, even_if_empty=even_if_empty)
        if empty is not None:
            place, wait_s = empty
            raise refusals[place](wait_s)

    async def pace(self, caller: Caller) -> None:
        """Wait until there is something in every bucket; take nothing.

        Raises ResourceExhausted if that takes longer than a minute.
        """
        bills, refusals = self._bills(caller, dict.fromkeys(_PERIODS, 0.0))
        patience = Deadline.within(_LONGEST_PAUSE_S)
        while bills and (empty := await self._buckets.take(bills)) is not None:
            place, wait_s = empty
            if wait_s > patience.remaining():
                raise refusals[place](wait_s)
            await asyncio.sleep(wait_s)

    def _bills(
        self, caller: Caller, amounts: Mapping[Quota, float]
    ) -> tuple[list[Bill], list[Callable[[float], ResourceExhausted]]]:
        """Return what to take from each bucket, and the refusal if it is empty."""
        bills: list[Bill] = []
        refusals: list[Callable[[float], ResourceExhausted]] = []
        for limits, name in _holders(self._file.value(), caller):
            for quota, amount in amounts.items():
                limit = limits.get(quota)
                if limit is not None:
                    rate, size = limit / _PERIODS[quota], max(1.0, limit)
                    bills.append(Bill(f"{name}:{quota}", amount, rate, size))
                    refusals.append(partial(refusal, quota, limit, name))
        return bills, refusals

    def of_tenant(self, caller: Caller) -> Limits:
        """Return the limits of a caller's tenant."""
        return self._file.value().of_tenant(caller)


class Slot:
    """A running call."""

    __slots__ = ("_names", "_running")

    def __init__(self, running: Counter[str], names: Sequence[str]) -> None:
        self._running = running
        self._names = names

    def release(self) -> None:
        """Count it as ended; again does nothing."""
        for name in self._names:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
        self._names = ()


def refusal(
    quota: Quota, limit: float, holder: str, retry_after_s: float | None
) -> ResourceExhausted:
    """Return the error of a call that a quota refuses; without a time, waiting does not help."""
    what = "retry in {:.1f} s" if retry_after_s is not None else "delete some, or ask for more"
    return ResourceExhausted(
        "QUOTA_EXCEEDED",
        f"the quota {quota} of this {holder.partition(':')[0]}, {limit:g}, is used up; "
        + what.format(retry_after_s),
        retry_after_s=retry_after_s,
        quota=quota,
    )


def parse_quotas(text: str) -> QuotaTable:
    """Return what a file of quotas says. Raises ValueError if it is none."""
    try:
        content = json.loads(text)
        unknown = content.keys() - {"callers", "tenants"}
        if unknown:
            raise ValueError(f"{min(unknown)!r} is neither callers nor tenants")
        callers = {name: _limits(one) for name, one in content.get("callers", {}).items()}
        tenants = {name: _limits(one) for name, one in content.get("tenants", {}).items()}
        wrong = {quota for limits in callers.values() for quota in limits} & _OF_TENANTS
        if wrong:
            raise ValueError(f"{min(wrong)} is for tenants, not for callers")
    except (TypeError, AttributeError) as error:
        raise ValueError(f"this is no file of quotas: {error!r}") from error
    return QuotaTable(callers, tenants)


def _limits(entry: Mapping[str, float]) -> Limits:
    limits = {Quota(name): float(limit) for name, limit in entry.items()}
    for quota, limit in limits.items():
        is_rate = quota in _PERIODS
        if not (0 < limit < float("inf") if is_rate else 0 <= limit < float("inf")):
            raise ValueError(f"{quota} is {limit:g}; use a positive number")
    return limits


def _holders(table: QuotaTable, caller: Caller) -> Sequence[tuple[Limits, str]]:
    """Return the limits that hold for a caller, each with the name of who has them."""
    return (
        (table.of_caller(caller), f"caller:{caller.tenant}/{caller.id}"),
        (table.of_tenant(caller), f"tenant:{caller.tenant}"),
    )
