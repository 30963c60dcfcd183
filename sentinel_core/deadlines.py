"""How much of a call's time is left, and how much of it the next hop may have."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sentinel_core.errors import DeadlineExceeded

# What a hop keeps for itself, to answer with its own error instead of being cut off.
_MARGIN_S = 0.02


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float | None, *, default_s: float) -> Deadline:
        """Return the deadline of a call with `seconds` left; None or longer becomes the default.

        No work is ever without a deadline: a caller that sets none gets `default_s`.
        """
        left = default_s if seconds is None else min(seconds, default_s)
        return cls(time.monotonic() + left)

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def for_next_hop(self, stage: str) -> float:
        """Return the seconds that `stage` may take.

        Raises:
            DeadlineExceeded: Nothing is left, so the stage is not even begun.
        """
        left = self.remaining() - _MARGIN_S
        if left <= 0:
            raise DeadlineExceeded(
                "OUT_OF_TIME", f"no time left for {stage}; use a longer deadline", stage=stage
            )
        return left
