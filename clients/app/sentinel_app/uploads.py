"""Limits of uploads, by what a visitor may do, and the files on their way to the gateway."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sentinel_app.formatting import FORMATS
from sentinel_client import Caller, Scope

IMAGE_TYPES = tuple(dict.fromkeys(one for kind in FORMATS.values() for one in kind))
# Several are in the page's memory at once, so this is less than gateways take.
MAX_IMAGE_BYTES = 16 * 1024 * 1024
MIB = 1024 * 1024
# By import that runs: its files, pairs of name and content. Not a list, in which equal ones of two
# imports could be taken for each other.
pending_uploads: dict[object, deque[tuple[str, bytes]]] = {}


@dataclass(frozen=True, slots=True)
class UploadLimit:
    """The most that a visitor may upload at once.

    Attributes:
        bytes: Bytes of all files together.
        files: Number of files; also of those in one zip.
    """

    bytes: int
    files: int

    def exceeded_by(self, sizes: Sequence[int]) -> str:
        """Return why files of these sizes are too much at once; empty if they are not."""
        if len(sizes) > self.files:
            return f"{len(sizes):,} files are too many: the limit is {self.files:,} at once"
        if sum(sizes) > self.bytes:
            limit = megabytes(self.bytes)
            return f"{megabytes(sum(sizes))} are too much: the limit is {limit} at once"
        return ""


NOTHING = UploadLimit(0, 0)
# By a visitor's highest scope; `sentinel-app --upload-limit` changes them. `sentinel index` has no
# such limits.
limits = {
    # Two images in a search, and one that replaces them.
    Scope.SEARCH: UploadLimit(48 * MIB, 4),
    Scope.WRITE: UploadLimit(192 * MIB, 2_000),
    Scope.ADMIN: UploadLimit(192 * MIB, 4_000),
}


def limit_of(caller: Caller, collection: str | None = None) -> UploadLimit:
    """Return the most that a caller may upload for a collection; None: for any at all."""
    highest = (scope for scope in reversed(limits) if caller.may(scope, collection))
    return next((limits[scope] for scope in highest), NOTHING)


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
