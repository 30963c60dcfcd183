"""How many hits go into one message: as many as asked for, and no more bytes than fit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from search_server.types.items import Hit

# Half of what a message may hold; estimates and the field names around the values fit well in.
MAX_BYTES = 32 * 1024 * 1024
_OVERHEAD_BYTES = 64


def weight(hit: Hit) -> int:
    """Return about how many bytes a hit takes in a message."""
    row = hit.row
    total = _OVERHEAD_BYTES + len(row.id) + len(hit.image_uri) + len(hit.thumbnail)
    total += len(row.text.encode())
    if row.vector is not None:
        total += row.vector.nbytes
    for name, value in row.fields.items():
        texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        total += _OVERHEAD_BYTES + len(name) + sum(len(text.encode()) + 4 for text in texts)
    return total


async def packed(
    parts: AsyncIterator[Sequence[Hit]], most: int
) -> AsyncGenerator[tuple[list[Hit], bool], None]:
    """Yield the hits of `parts` in runs of `most`, or fewer where those would be too large.

    With each comes whether more may follow, for all that is known then.
    """
    run: list[Hit] = []
    total = 0
    async for part in parts:
        for hit in part:
            its = weight(hit)
            if run and total + its > MAX_BYTES:
                yield run, True
                run, total = [], 0
            run.append(hit)
            total += its
            if len(run) == most:  # at once, before more is fetched
                yield run, True
                run, total = [], 0
    if run:
        yield run, False


async def filled(
    parts: AsyncIterator[Sequence[Hit]], most: int, max_bytes: int = MAX_BYTES
) -> tuple[list[Hit], bool]:
    """Return the first `most` hits of `parts`, or fewer where those are too large.

    And whether there are more.
    """
    page: list[Hit] = []
    total = 0
    async for part in parts:
        for hit in part:
            total += weight(hit)
            if len(page) == most or (page and total > max_bytes):
                return page, True
            page.append(hit)
    return page, False
