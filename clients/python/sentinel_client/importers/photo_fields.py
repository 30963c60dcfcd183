"""Define the fields of a photo's metadata, and write their values as JSON for the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from sentinel_client._filters import FieldValue, GeoPoint
from sentinel_client._types import FieldSchema, FieldType

# What cameras, phones and photo programs write into a photo or beside it.
PHOTO_FIELDS = (
    # When it was taken. If the time zone is unknown, the local time as if it were UTC: so this time
    # plus `taken_offset` is always what the clock showed.
    FieldSchema("taken_at", FieldType.TIMESTAMP),
    FieldSchema("taken_offset", FieldType.INT64),  # minutes east of UTC, only if known
    FieldSchema("camera", FieldType.STRING),
    FieldSchema("lens", FieldType.STRING),
    FieldSchema("width", FieldType.INT64),  # pixels, as the photo is shown
    FieldSchema("height", FieldType.INT64),
    FieldSchema("place", FieldType.GEO),
    FieldSchema("title", FieldType.STRING),
    FieldSchema("caption", FieldType.STRING),
    FieldSchema("keywords", FieldType.STRING_LIST),
    FieldSchema("rating", FieldType.INT64),  # 0 to 5; -1: rejected
)


def fields_to_json(fields: Mapping[str, FieldValue]) -> str:
    """Return the values of `PHOTO_FIELDS` as JSON."""
    return json.dumps(fields, default=_plain, ensure_ascii=False) if fields else ""


def fields_from_json(text: str) -> dict[str, FieldValue]:
    """Return what `fields_to_json` wrote; raise ValueError for another text."""
    if not text:
        return {}
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if "taken_at" in fields:
        fields["taken_at"] = datetime.fromisoformat(fields["taken_at"])
    if "place" in fields:
        fields["place"] = GeoPoint(*fields["place"])
    return fields


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, GeoPoint):
        return [value.latitude, value.longitude]
    raise TypeError(type(value).__name__)
