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
    total = _ITEM_BYTES + len(row.id.encode()) + len(shown.thumbnail)
    if row.text:
        total += len(row.text.encode())
    if shown.image_uri:
        total += len(shown.image_uri.encode())
    if row.vector is not None:
        total += row.vector.nbytes
    for name, value in row.fields.items():
        total += _FIELD_BYTES + len(name.encode())
        if isinstance(value, str):
            total += len(value.encode())
        elif isinstance(value, list):
            total += sum(_ELEMENT_BYTES + len(text.encode()) for text in value)
    return total
