"""Convert rows to items for callers: keep the requested fields, add image URIs and thumbnails.

It has a room of its own because search and item reads share it, and neither owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search_server.types.items import Projection, StoredItem
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Row


async def present(
    rows: Sequence[Row], images: ImageStore, projection: Projection
) -> list[StoredItem]:
    """Return one item per row, in order; raise Unavailable if the object store cannot be read."""
    if projection.output_fields:
        names = set(projection.output_fields)
        rows = [
            replace(row, fields={k: v for k, v in row.fields.items() if k in names}) for row in rows
        ]
    digests = [row.image for row in rows if row.image]
    copies = [row.image for row in rows if row.image and not row.reference]
    uris = iter(await images.image_uris(copies))
    thumbnails = iter(await images.get_thumbnails(digests) if projection.include_thumbnails else ())
    return [
        StoredItem(row, row.reference or next(uris), next(thumbnails, b""))
        if row.image
        else StoredItem(row)
        for row in rows
    ]
