"""Choose the worker that should answer a call first."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from search_server.embedders.load import CallSize
from search_server.embedders.worker import Worker

# Expected times of answer within this factor count as equal.
_AS_GOOD = 1.3
_MOST_COMPARED = 8


def choose(
    workers: Iterable[Worker], fingerprint: str, size: CallSize, excluded: Sequence[Worker] = ()
) -> Worker | None:
    """Return the healthy worker of this model that should answer first; None if none has room.

    Workers that differ by less than the noise of measurement count as equal. One of them is chosen
    at random, so that several gateways do not choose the same one.
    """
    able = [
        worker
        for worker in workers
        if worker.healthy
        and worker.fingerprint == fingerprint
        and worker not in excluded
        and worker.load.refusal(size) is None
    ]
    if len(able) < 2:
        return able[0] if able else None
    if len(able) > _MOST_COMPARED:  # the best of a few is nearly as good as the best of all
        able = random.sample(able, _MOST_COMPARED)
    speeds = (worker.load.latency_s(size) for worker in able)
    best_s = min((speed for speed in speeds if speed is not None), default=1.0)
    costs = [worker.load.cost(size, best_s) for worker in able]
    most = min(costs) * _AS_GOOD
    return random.choice([worker for worker, cost in zip(able, costs, strict=True) if cost <= most])
