"""The results of writing and reading items, one value per item."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sentinel_store.items import Row


@dataclass(slots=True)
class UnreadableItem:
    """An item whose message is invalid, and why."""

    id: str
    error: Exception


class Outcome(enum.StrEnum):
    """The outcome of one item of an upsert."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(slots=True)
class ItemOutcome:
    """The result for one item; `error` only with FAILED."""

    id: str
    outcome: Outcome
    error: Exception | None = None


@dataclass(slots=True)
class StoredItem:
    """One item read back."""

    row: Row
    image_uri: str = ""
    thumbnail: bytes = b""
