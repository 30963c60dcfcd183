"""The faults, and the seeded generator that draws them."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass


class Kind(enum.Enum):
    """What happens."""

    KILL = "kill"  # SIGKILL, then a new start
    PAUSE = "pause"  # SIGSTOP, then SIGCONT
    STOP = "stop"  # SIGTERM, then a new start
    CUT = "cut"
    DELAY = "delayed"
    HALF_OPEN = "half-open"
    STORE_FULL = "full"
    STORE_READ_ONLY = "read-only"
    STORE_SLOW = "slow"
    POISON = "poison"
    CLOCK = "clock"  # the clients' clock jumps by an hour, and back


PROCESS_FAULTS = (Kind.KILL, Kind.PAUSE, Kind.STOP)
LINK_FAULTS = (Kind.CUT, Kind.DELAY, Kind.HALF_OPEN)
STORE_FAULTS = (Kind.STORE_FULL, Kind.STORE_READ_ONLY, Kind.STORE_SLOW)
# Seconds between the beginnings of the first and the last fault of a round.
_SPREAD_S = 1.5
_MOST_IN_ROUND = 3
# Longer than a gateway lets a search take.
_LONG_S = (6.5, 8.0)
_SLOW_BEFORE_S = 0.8


@dataclass(slots=True)
class Fault:
    """One fault.

    Attributes:
        number: Counts from 1 in a run.
        target: A process, a link, or empty.
        at: Seconds after the beginning of its round.
        seconds: How long it lasts; for a process that ends, until it is started again.
    """

    number: int
    kind: Kind
    target: str
    at: float
    seconds: float

    def __str__(self) -> str:
        where = f" {self.target}" if self.target else ""
        return f"#{self.number} {self.kind.value}{where} at {self.at:.2f}s for {self.seconds:.2f}s"


@dataclass(frozen=True, slots=True)
class Targets:
    """The names of what can fail.

    Attributes:
        workers: Of the model that searches need; any two may fail, and searches go on.
        others: Workers of the other model.
        milvus: Whether Milvus is a process of its own.
    """

    gateways: tuple[str, ...]
    workers: tuple[str, ...]
    others: tuple[str, ...]
    milvus: bool


# A fault without its time: what, where, and whether it lasts longer than a call may.
_Card = tuple[Kind, str, bool]


class Generator:
    """Draws the faults of one round after another; the same seed draws the same ones.

    It deals from a shuffled deck in which every kind of fault meets every kind of target. So some
    fifty faults in a row leave nothing out.
    """

    def __init__(self, seed: int, targets: Targets) -> None:
        self._chance = random.Random(seed)
        self._targets = targets
        self._deck: list[_Card] = []
        self._drawn = 0

    def round(self) -> list[Fault]:
        """Return the faults of a round, of which no two have the same target."""
        faults: dict[str, Fault] = {}
        for _ in range(self._chance.randint(1, _MOST_IN_ROUND)):
            kind, target, long = self._card()
            at = self._chance.uniform(0.0, _SPREAD_S)
            if target in faults:
                self._deck.insert(0, (kind, target, long))
                continue
            self._add(faults, Fault(0, kind, target, at, self._how_long(kind, long)))
            if self._targets.milvus and target in self._targets.gateways:
                self._slow_down(faults, faults[target])
        return list(faults.values())

    def _slow_down(self, faults: dict[str, Fault], fault: Fault) -> None:
        """Often, have a gateway fail while Milvus is slow, which puts many of its calls at risk."""
        link = f"{fault.target}>milvus"
        if (
            fault.kind in (Kind.KILL, Kind.CUT)
            and link not in faults
            and self._chance.random() < 0.7
        ):
            fault.at += _SLOW_BEFORE_S
            at = fault.at - _SLOW_BEFORE_S
            self._add(faults, Fault(0, Kind.DELAY, link, at, _SLOW_BEFORE_S + 0.2))

    def _add(self, faults: dict[str, Fault], fault: Fault) -> None:
        self._drawn += 1
        fault.number = self._drawn
        faults[fault.target] = fault

    def _card(self) -> _Card:
        if not self._deck:
            self._deck = self._new_deck()
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _new_deck(self) -> list[_Card]:
        targets, pick = self._targets, self._chance.choice
        deck: list[_Card] = [(kind, "store", False) for kind in STORE_FAULTS]
        deck += [(Kind.CLOCK, "clock", False), *[(Kind.POISON, "poison", False)] * 2]
        for kind in (*PROCESS_FAULTS, *LINK_FAULTS):
            deck += [(kind, gateway, False) for gateway in targets.gateways]
            deck += [(kind, worker, False) for worker in self._chance.sample(targets.workers, 2)]
        deck += [(kind, pick(targets.workers), True) for kind in (Kind.PAUSE, Kind.HALF_OPEN)]
        deck += [
            (pick(kinds), pick(targets.others), False) for kinds in (PROCESS_FAULTS, LINK_FAULTS)
        ]
        if targets.milvus:
            deck += [(Kind.KILL, "milvus", False), (Kind.PAUSE, "milvus", False)]
            deck += [(Kind.PAUSE, "milvus", True)]
            for gateway in targets.gateways:
                deck += [(kind, f"{gateway}>milvus", False) for kind in LINK_FAULTS]
                deck += [(Kind.HALF_OPEN, f"{gateway}>milvus", True)]
        return deck

    def _how_long(self, kind: Kind, long: bool) -> float:
        if kind is Kind.POISON:
            return 0.0
        if long:
            return self._chance.uniform(*_LONG_S)
        return self._chance.uniform(0.2, 2.0)
