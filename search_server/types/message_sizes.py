"""How many bytes a hit or an item takes in a response at most, before its message is made."""

from __future__ import annotations

from search_server.types.items import StoredItem
from search_server.types.searches import Hit

# Tags, lengths and numbers of a hit or an item, and the digest of an item.
_ITEM_BYTES = 128
# Tags and lengths of a field, and a number.
_FIELD_BYTES = 40
_ELEMENT_BYTES = 6


def message_bytes(shown: Hit | StoredItem) -> int:
    """Return the most bytes that `shown` takes in a message, its own tag included."""
    row = shown.row
    total = _ITEM_BYTES + len(shown.thumbnail)
    total += _bytes_of(row.id) + _bytes_of(row.text) + _bytes_of(shown.image_uri)
    if row.vector is not None:
        total += row.vector.nbytes
    for name, value in row.fields.items():
        total += _FIELD_BYTES + _bytes_of(name)
        if isinstance(value, str):
            total += _bytes_of(value)
        elif isinstance(value, list):
            total += sum(_ELEMENT_BYTES + _bytes_of(text) for text in value)
    return total


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
