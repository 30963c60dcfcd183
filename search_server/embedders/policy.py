"""Which worker gets the next call: pure choice, no I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What the choice needs to know of a worker."""

    @property
    def healthy(self) -> bool: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def items_in_flight(self) -> int: ...


C = TypeVar("C", bound=Candidate)


def choose(workers: Sequence[C], fingerprint: str, excluded: Iterable[C] = ()) -> C | None:
    """Return the healthy worker of this model with the fewest items in flight.

    Ties are broken at random, so that several gateways do not all pick the same one.
    Returns None when nobody qualifies.
    """
    barred = {id(worker) for worker in excluded}
    able = [
        worker
        for worker in workers
        if worker.healthy and worker.fingerprint == fingerprint and id(worker) not in barred
    ]
    if not able:
        return None
    least = min(worker.items_in_flight for worker in able)
    return random.choice([worker for worker in able if worker.items_in_flight == least])
