"""What must be stored: every acknowledged write, and what writes in doubt may have left.

Each item is written at most once in a round. A write whose outcome is unknown may still reach
Milvus while its faults last; so the item keeps both states until the end of the round, where the
suite reads it and believes what it finds, if it is one of the two.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.contents import Version

State = Version | None  # None: the item does not exist


@dataclass(slots=True)
class Entry:
    """One item.

    Attributes:
        before: Its state before this round's write.
        after: Its state once that write is done; as `before` if there is none.
        began: When the write of this round was sent; infinite if there is none.
        acknowledged: When it was acknowledged; infinite while it is in doubt.
    """

    before: State = None
    after: State = None
    began: float = float("inf")
    acknowledged: float = float("inf")

    @property
    def in_doubt(self) -> bool:
        return self.began < float("inf") and self.acknowledged == float("inf")

    def possible(self, start: float, end: float) -> set[State]:
        """Return the states that a strongly consistent read of `start` to `end` may see."""
        if self.acknowledged <= start:
            return {self.after}
        if self.began >= end:
            return {self.before}
        return {self.before, self.after}


@dataclass
class Ledger:
    """The items of one collection. Times are `time.monotonic`'s."""

    chance: random.Random
    size: int
    entries: dict[str, Entry] = field(default_factory=dict)
    seeds: int = 0

    def __post_init__(self) -> None:
        self.entries = {f"item-{number:04}": Entry() for number in range(self.size)}
        self._free = list(self.entries)
        self.chance.shuffle(self._free)

    def claim(self, count: int) -> list[str]:
        """Return items that nobody has written in this round; their writer must `begin` them."""
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def claim_existing(self, count: int) -> list[str]:
        """Return items that exist, as `claim` does."""
        taken = [name for name in self._free if self.entries[name].before is not None][:count]
        self._free = [name for name in self._free if name not in set(taken)]
        return taken

    def next_version(self, item_id: str) -> Version:
        """Return a version to write: new content, new fields, or the same again."""
        self.seeds += 1
        before = self.entries[item_id].before
        fresh = Version(self.seeds, self.seeds, is_image=self.chance.random() < 0.4)
        if before is None:
            return fresh
        return self.chance.choice(
            [fresh, before, Version(before.seed, self.seeds, before.is_image)]
        )

    def begin(self, item_id: str, state: State) -> None:
        """Note that a write was sent."""
        entry = self.entries[item_id]
        assert entry.began == float("inf"), "one write for each item in a round"
        entry.after, entry.began = state, time.monotonic()

    def acknowledge(self, item_ids: Iterable[str]) -> None:
        """Note that writes were acknowledged."""
        for item_id in item_ids:
            self.entries[item_id].acknowledged = time.monotonic()

    def refuse(self, item_id: str) -> None:
        """Note that a write changed nothing, by the server's own word."""
        entry = self.entries[item_id]
        entry.after, entry.acknowledged = entry.before, time.monotonic()

    def stable_texts(self) -> list[tuple[str, Version]]:
        """Return text items that nobody is writing just now, each with its version."""
        found = []
        for item_id, entry in self.entries.items():
            state = entry.before if entry.began == float("inf") else entry.after
            if state is not None and not state.is_image and not entry.in_doubt:
                found.append((item_id, state))
        return found

    def settle(self, found: dict[str, State]) -> None:
        """End a round: what was found is the truth from now on."""
        now_free = []
        for item_id, entry in self.entries.items():
            entry.before = entry.after = found.get(item_id)
            entry.began = entry.acknowledged = float("inf")
            now_free.append(item_id)
        self.chance.shuffle(now_free)
        self._free = now_free
