"""Items and hits as our script gets them: tiles, stacks of them, and details."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from sentinel_app.formatting import caption, plain
from sentinel_app.queries import is_time
from sentinel_app.thumbnails import Thumbnails
from sentinel_client import Collection, FieldSchema, FieldValue, GeoPoint, Hit, Item, Vector

# Two hits with at least this cosine are shown as one stack.
_DUPLICATE = 0.95
_LARGEST_NUMBER = 2**53  # of JavaScript
_MAX_TEXT = 2_000


def time_field(collection: Collection) -> FieldSchema | None:
    """Return the field that says when photos were taken, or else changed; None without one."""
    times = {schema.name: schema for schema in collection.fields if is_time(schema)}
    return times.get("taken_at") or times.get("modified_at")


def tile(
    found: Item | Hit, collection: Collection, thumbnails: Thumbnails, time: FieldSchema | None
) -> dict[str, Any]:
    """Return a tile: `id`, version `v`, size `w` and `h`, `name`, `time`, and `text` of text items.

    `v` is empty for items without a thumbnail.
    """
    version = thumbnails.keep(collection.name, found.id, found.thumbnail)
    width, height = webp_size(found.thumbnail) or _declared_size(found)
    shown: dict[str, Any] = {
        "id": found.id,
        "v": version,
        "w": width,
        "h": height,
        "name": plain(caption(found)[:200]) or found.id[:12],
    }
    if time is not None and (moment := _clock_time(found, time.name)):
        shown["time"] = moment
    if found.text and not version:
        shown["text"] = found.text[:_MAX_TEXT]
    if isinstance(found, Hit):
        shown["score"] = round(found.score, 5)
        if found.match is not None:
            shown["match"] = found.match.value
    return shown


def stacked(tiles: Sequence[dict[str, Any]], hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return the tiles of hits with vectors; near-duplicates are in `stack` of the best of them."""
    shown: list[tuple[dict[str, Any], Vector | None]] = []
    for one, hit in zip(tiles, hits, strict=True):
        vector = None if hit.vector is None else hit.vector / (np.linalg.norm(hit.vector) or 1.0)
        leader = next((other for other, known in shown if _are_alike(vector, known)), None)
        if leader is None:
            shown.append((one, vector))
        else:
            leader.setdefault("stack", []).append(one)
    return [one for one, _ in shown]


def _are_alike(vector: Vector | None, other: Vector | None) -> bool:
    if vector is None or other is None:
        return False
    return float(vector @ other) >= _DUPLICATE


def details(found: Item, collection: Collection) -> dict[str, Any]:
    """Return all that is known about an item, with its fields by name."""
    times = {schema.name for schema in collection.fields if is_time(schema)}
    return {
        "fields": {
            name: moment_text(value) if name in times else json_value(value)
            for name, value in found.fields.items()
        },
        "text": found.text or "",
        "is_image": bool(found.image_uri),
        "by_reference": found.by_reference,
    }


def _clock_time(found: Item | Hit, field: str) -> str:
    """Return what the clock showed, as if it were UTC."""
    value, offset = found.fields.get(field), found.fields.get("taken_offset")
    if field == "taken_at" and isinstance(value, datetime) and isinstance(offset, int):
        with suppress(OverflowError):
            return moment_text(value + timedelta(minutes=offset))
    return moment_text(value)


def json_value(value: FieldValue) -> Any:
    """Return a field's value as JSON; our script knows its type by the collection."""
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, GeoPoint):
        return {"latitude": value.latitude, "longitude": value.longitude}
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        return str(value)
    return value


def moment_text(value: FieldValue | None) -> str:
    """Return a point in time in ISO 8601 and UTC; empty if the value is none."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, int):
        try:
            return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")
        except (OverflowError, ValueError, OSError):
            return ""
    return ""


def _declared_size(found: Item | Hit) -> tuple[int, int]:
    width, height = found.fields.get("width"), found.fields.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return 4, 3


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP by its header; None if it is none."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    else:
        return None
    return (width, height) if width and height else None
