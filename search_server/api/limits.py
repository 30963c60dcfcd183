"""How many things one request may carry."""

from __future__ import annotations

from sentinel_core.calls import note_items
from sentinel_core.errors import InvalidArgument


def check_count(count: int, most: int, field: str) -> None:
    """Note how many items a request carries, for its log line, and check that it may.

    Raises:
        InvalidArgument: None at all, or more than `most`.
    """
    note_items(count)
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", f"{field} is empty", field=field)
    if count > most:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{count} {field} in one request, at most {most}; split it",
            field=field,
            limit=most,
        )
