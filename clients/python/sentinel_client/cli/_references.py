"""Which files `sentinel index` sends by reference, and which as copies after all.

By default it is all of them if the gateway is on this machine. Whether the gateway may read them
where they are, only its answers tell: then the files that it cannot read are sent as copies.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from sentinel_client import Item, SentinelError
from sentinel_client._proxy import stays_on_machine

# After so many files that the gateway cannot read, and none that it can, no more are tried.
_MOST_TRIED = 16


class References:
    """Knows what to send by reference in one run."""

    def __init__(self, wanted: bool | None, address: str) -> None:
        """Note what was asked for; None: what is best for a gateway at `address`."""
        self._wanted = wanted
        self._on = stays_on_machine(address) if wanted is None else wanted
        self._stored = 0
        self._refused = self._copied = 0
        # Of folders; for this run only, since links change.
        self._without_links = lru_cache(maxsize=1_000)(os.path.realpath)

    @property
    def copied(self) -> int:
        """How many files are stored as copies because the gateway could not read some."""
        return self._copied

    def covers(self, image: object) -> bool:
        """Return whether to send this image by reference: it is the path of a file."""
        return self._on and isinstance(image, str | Path)

    def is_same(self, image: object, stored: Item) -> bool:
        """Return whether an item whose content is the same need not be sent for its reference."""
        if not stored.by_reference:
            return True  # a copy stays
        if self._wanted is False:
            return False
        if not self._on or not isinstance(image, str | Path):
            return True
        return stored.image_uri == self._uri(os.fspath(image))

    def note_stored(self, image: object, *, by_reference: bool) -> None:
        """Note an item that is stored, and how."""
        if by_reference:
            self._stored += 1
        elif self._refused and isinstance(image, str | Path):
            self._copied += 1

    def must_copy(self, error: SentinelError) -> bool:
        """Return whether to send an item again, as a copy, after this error."""
        if self._wanted is not None or error.reason not in ("URI_FORBIDDEN", "ORIGINAL_GONE"):
            return False
        self._refused += 1
        if error.reason == "URI_FORBIDDEN" or (not self._stored and self._refused >= _MOST_TRIED):
            self._on = False
        return True

    def _uri(self, path: str) -> str:
        """Return the URI that a file is stored with: of its place without links."""
        folder, name = os.path.split(path)
        if os.path.islink(path):
            return Path(os.path.realpath(path)).as_uri()
        return Path(self._without_links(folder), name).as_uri()
