"""Limits of uploads, and the files that are on their way to the gateway."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
# The gateway's own limit.
MAX_IMAGE_BYTES = 16 * 1024 * 1024
# Limits of one upload, and of one zip. `sentinel index` has no such limits.
MAX_FILES = 2_000
MAX_UPLOAD_BYTES = 192 * 1024 * 1024
# By import that runs: its files, pairs of name and content. Not a list, in which equal ones of two
# imports could be taken for each other.
pending_uploads: dict[object, deque[tuple[str, bytes]]] = {}


def over_limit(sizes: Sequence[int]) -> str:
    """Return why files of these sizes are too much for one upload; empty if they are not."""
    if len(sizes) > MAX_FILES:
        return f"{len(sizes):,} files are too many: the limit is {MAX_FILES:,} at once"
    if sum(sizes) > MAX_UPLOAD_BYTES:
        limit = megabytes(MAX_UPLOAD_BYTES)
        return f"{megabytes(sum(sizes))} are too much: the limit is {limit} at once"
    return ""


def megabytes(byte_count: int) -> str:
    """Return a size in MB."""
    return f"{byte_count / 2**20:,.0f} MB"


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """An image to store, or the reason why a file is none.

    Attributes:
        name: Name of the file; in a zip: name of the zip and path inside it.
        data: Its content; empty if there is a problem.
        problem: Why it cannot be stored; empty if it can.
    """

    name: str
    data: bytes = field(default=b"", repr=False)
    problem: str = ""

    @classmethod
    def checked(cls, name: str, data: bytes) -> UploadedImage:
        """Return an image of this content, or the problem that it is empty or too large."""
        if len(data) > MAX_IMAGE_BYTES:
            limit = megabytes(MAX_IMAGE_BYTES)
            return cls(name, problem=f"larger than {limit}; save a smaller version")
        return cls(name, data) if data else cls(name, problem="it is empty")
