"""What a found row needs to be shown: the asked-for fields, its picture's URI, a thumbnail."""

from __future__ import annotations

from collections.abc import Sequence

from search_server.types.items import StoredItem
from search_server.types.searches import Hit
from sentinel_store.images.image_store import ObjectStore


async def illustrate(
    found: Sequence[Hit | StoredItem],
    objects: ObjectStore,
    *,
    output_fields: Sequence[str],
    include_thumbnails: bool,
) -> None:
    """Fill in hits or items in place; no `output_fields` keeps all fields.

    Raises:
        Unavailable: The object store cannot be read.
    """
    if output_fields:
        wanted = set(output_fields)
        for one in found:
            one.row.fields = {k: v for k, v in one.row.fields.items() if k in wanted}
    pictures = [one for one in found if one.row.image]
    digests = [picture.row.image for picture in pictures]
    for picture, uri in zip(pictures, await objects.image_uris(digests), strict=True):
        picture.image_uri = uri
    if include_thumbnails:
        thumbnails = await objects.get_thumbnails(digests)
        for picture, thumbnail in zip(pictures, thumbnails, strict=True):
            picture.thumbnail = thumbnail
