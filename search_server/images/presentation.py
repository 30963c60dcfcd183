"""Complete hits and items for callers: the requested fields, image URIs and thumbnails.

It has a room of its own because search and item reads share it, and neither owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search_server.types.items import Projection, StoredItem
from search_server.types.searches import Hit
from sentinel_store.images.image_store import ImageStore


async def present(
    shown: Sequence[Hit | StoredItem], images: ImageStore, projection: Projection
) -> None:
    """Complete hits or items in place; raise Unavailable if the object store cannot be read."""
    if projection.output_fields:
        names = set(projection.output_fields)
        for one in shown:
            # A new row, since the searches of a batch share theirs.
            kept = {name: value for name, value in one.row.fields.items() if name in names}
            one.row = replace(one.row, fields=kept)
    pictures = [one for one in shown if one.row.image]
    if not pictures:
        return
    copies = [one.row.image for one in pictures if not one.row.reference]
    uris = iter(await images.image_uris(copies))
    for one in pictures:
        one.image_uri = one.row.reference or next(uris)
    if projection.include_thumbnails:
        thumbnails = await images.get_thumbnails([one.row.image for one in pictures])
        for one, thumbnail in zip(pictures, thumbnails, strict=True):
            one.thumbnail = thumbnail
