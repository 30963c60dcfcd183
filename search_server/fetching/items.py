"""Items to store whose images are named by URI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search_server.fetching.fetcher import Fetcher
from search_server.types.items import Item, UnreadableItem
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import SentinelError


async def fetch_items(
    fetcher: Fetcher, items: Sequence[Item | UnreadableItem], deadline: Deadline
) -> list[Item | UnreadableItem]:
    """Return the items with their images' bytes, those that are not to be had as unreadable."""
    filled = list(items)
    waiting = [
        (place, item, item.content)
        for place, item in enumerate(items)
        if isinstance(item, Item) and item.content is not None and item.content.uri
    ]
    answers = await fetcher.fill([content for _, _, content in waiting], deadline)
    for (place, item, _), answer in zip(waiting, answers, strict=True):
        if isinstance(answer, SentinelError):
            error = answer.at(f"items[{place}].content.image.uri")
            filled[place] = UnreadableItem(item.id, error)
        else:
            filled[place] = replace(item, content=answer)
    return filled
