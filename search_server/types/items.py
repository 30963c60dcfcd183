"""Items: how a caller selects them, and the results of writing and reading them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from search_server.types.queries import Filter
from sentinel_core.errors import SentinelError
from sentinel_store.items import Row


@dataclass(frozen=True, slots=True)
class UnreadableItem:
    """An item that cannot be read from its message or fetched by its URI, and why."""

    id: str
    error: SentinelError


class Outcome(enum.StrEnum):
    """What happened to one item of an upsert."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The result for one item.

    Attributes:
        error: Set only with FAILED.
        digest: As in `Row`; empty with FAILED.
        truncated: With STORED: whether the model read only the beginning of the text.
    """

    id: str
    outcome: Outcome
    error: SentinelError | None = None
    digest: str = ""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ItemIds:
    """Selects items by id."""

    ids: tuple[str, ...]


# Which items a call is about.
Selector = ItemIds | Filter


@dataclass(frozen=True, slots=True)
class Projection:
    """Which parts of an item a caller wants back.

    Attributes:
        output_fields: Names of fields; empty means all of them.
    """

    output_fields: tuple[str, ...] = ()
    include_vectors: bool = False
    include_thumbnails: bool = False


@dataclass(frozen=True, slots=True)
class ItemOrder:
    """The field by whose values items are sorted."""

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class ItemPosition:
    """Where an item is among others in the order of a field.

    Attributes:
        value: What the field's column holds; None: the item lacks the field.
    """

    value: float | None
    id: str


@dataclass(slots=True)  # one for each hit: freezing would double the time that it takes
class StoredItem:
    """One item read back.

    Attributes:
        image_uri: Where its image can be read; empty without an image.
        thumbnail: WebP; empty where there is none or it was not requested.
    """

    row: Row
    image_uri: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Some of the items that match.

    Attributes:
        next_position: Where the next page begins; None: there are no more.
    """

    items: list[StoredItem]
    next_position: str | ItemPosition | None
