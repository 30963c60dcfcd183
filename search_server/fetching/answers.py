"""The ways in which a fetch can fail, worded alike for every kind of place."""

from __future__ import annotations

from search_server.fetching.places import Target
from sentinel_core.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable


def forbidden(target: Target, why: str) -> PermissionDenied:
    """Return the error for what the place, or a rule, does not hand out."""
    return PermissionDenied("URI_FORBIDDEN", f"{target.printable} {why}; send the bytes instead")


def not_found(target: Target, why: str) -> NotFound:
    """Return the error for what is not there."""
    return NotFound("URI_NOT_FOUND", f"there is no file at {target.printable} ({why})")


def unavailable(target: Target, why: str) -> Unavailable:
    """Return the error for a place that does not answer as it should."""
    return Unavailable(
        "URI_UNAVAILABLE", f"{target.printable} could not be read ({why}); try again"
    )


def too_large(target: Target, max_bytes: int) -> InvalidArgument:
    """Return the error for a file of more than `max_bytes`."""
    return InvalidArgument(
        "IMAGE_TOO_LARGE",
        f"the file at {target.printable} has more than {max_bytes} bytes; use a smaller version",
        limit=max_bytes,
    )


def empty(target: Target) -> InvalidArgument:
    """Return the error for a file without bytes."""
    return InvalidArgument("IMAGE_EMPTY", f"the file at {target.printable} is empty")
