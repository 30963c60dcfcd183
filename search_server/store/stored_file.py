"""What a listing of the object store says of one file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file.

    Attributes:
        name: Path below the store's root, with slashes.
        size: In bytes.
        changed: When it was last written or refreshed, in UTC.
    """

    name: str
    size: int
    changed: datetime
