"""Memory for uploads: reserved before their bytes are read, by visitor and for all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from sentinel_app import uploads
from sentinel_app.uploads import megabytes
from sentinel_app.web import Refused, body_length

# What a request takes beside its body. Also bounds how many empty ones there can be.
_REQUEST_BYTES = 64 * 1024


class UploadBudget:
    """The bytes of running uploads. A visitor is an address: those behind one proxy share theirs.

    All together have twice the space of one, which is the largest limit of `--upload-limit`.
    """

    def __init__(self) -> None:
        self._by_visitor: Counter[str] = Counter()

    @contextmanager
    def reserved(self, request: Request, most: int) -> Iterator[None]:
        """Hold the memory for the body of a request, or raise Refused.

        `most` is the largest body that this visitor may send.
        """
        length = body_length(request)
        if length > most:
            raise Refused(
                413,
                f"The file has {megabytes(length)}. The limit is {megabytes(most)}.",
                "TOO_LARGE",
            )
        space = max(limit.bytes for limit in uploads.limits.values())
        visitor = request.client.host if request.client else ""
        held = length + _REQUEST_BYTES
        full = self._by_visitor[visitor] + held > space + _REQUEST_BYTES
        if full or self._by_visitor.total() + held > 2 * space:
            raise Refused(503, "The page holds too many uploads now. Try again soon.", "BUSY")
        self._by_visitor[visitor] += held
        try:
            yield
        finally:
            self._by_visitor[visitor] -= held
            self._by_visitor += Counter()  # forgets visitors who hold nothing
