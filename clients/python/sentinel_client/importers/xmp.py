"""Read the metadata of a photo from XMP: a packet inside the file, or a sidecar beside it.

Needs defusedxml, which refuses document types and entities. So no XMP can grow or name other files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from defusedxml import ElementTree  # type: ignore[import-untyped]

from sentinel_client._filters import GeoPoint

# Sidecars with many local edits have some MiB.
MAX_XMP_BYTES = 8 * 1024 * 1024

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_DC = "{http://purl.org/dc/elements/1.1/}"
_XMP = "{http://ns.adobe.com/xap/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_EXIF_EX = "{http://cipa.jp/exif/1.0/}"
_TIFF = "{http://ns.adobe.com/tiff/1.0/}"
_AUX = "{http://ns.adobe.com/exif/1.0/aux/}"
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"

_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?)?"
    r"\s*(Z|[+-]\d\d:?\d\d)?"
)
_ANGLE = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])")


def read_xmp(data: bytes) -> dict[str, Any]:
    """Return what XMP says about a photo, with the keys that `photo_metadata` merges.

    Raises:
        Exception: It is no XMP; the kinds of errors are those of the XML parser.
    """
    if len(data) > MAX_XMP_BYTES:
        return {}
    properties: dict[str, list[str]] = {}
    root = ElementTree.fromstring(data.strip(b"\0 \r\n\t"), forbid_dtd=True)
    # XMP has one. If others were nested in it, reading each would take the square of the time.
    for description in next(root.iter(f"{_RDF}RDF"), ()):
        for name, value in description.attrib.items():
            properties.setdefault(name, [value])
        for child in description:
            properties.setdefault(child.tag, _values(child))
    return _metadata(properties)


def parse_date(text: str) -> datetime | None:
    """Read a date of ISO 8601, of which the end may be missing; without a zone it is naive."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    with suppress(ValueError):
        return datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")[:6]),
            tzinfo=parse_zone(zone),
        )
    return None


def parse_zone(text: str | None) -> timezone | None:
    """Read an offset such as `+02:00`, `-0330` or `Z`."""
    if not text:
        return None
    text = text.strip()
    if text == "Z":
        return UTC
    match = re.fullmatch(r"([+-])(\d\d):?(\d\d)", text)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > 14 * 60:  # no place on Earth
        return None
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))


def _values(element: Any) -> list[str]:
    """Return the texts of a property; of one in several languages, the default one."""
    items = list(element.iter(f"{_RDF}li"))
    if not items:
        return [element.text or element.get(f"{_RDF}value") or ""]
    if element.find(f"{_RDF}Alt") is not None:
        items = [one for one in items if one.get(_LANGUAGE) == "x-default"] or items
        items = items[:1]
    return [one.text or "" for one in items]


def _metadata(properties: Mapping[str, list[str]]) -> dict[str, Any]:
    def text(*names: str) -> str:
        found = (properties[name][0] for name in names if properties.get(name))
        return next((one.strip() for one in found if one.strip()), "")

    found: dict[str, Any] = {
        "taken": parse_date(
            text(f"{_EXIF}DateTimeOriginal", f"{_PHOTOSHOP}DateCreated", f"{_XMP}CreateDate")
        ),
        "make": text(f"{_TIFF}Make"),
        "model": text(f"{_TIFF}Model"),
        "lens": text(f"{_EXIF_EX}LensModel", f"{_AUX}Lens"),
        "place": _place(text(f"{_EXIF}GPSLatitude"), text(f"{_EXIF}GPSLongitude")),
        "title": text(f"{_DC}title", f"{_PHOTOSHOP}Headline"),
        "caption": text(f"{_DC}description"),
        "keywords": properties.get(f"{_DC}subject", []),
    }
    with suppress(ValueError, OverflowError):
        found["rating"] = round(float(text(f"{_XMP}Rating")))
    return found


def _place(latitude: str, longitude: str) -> GeoPoint | None:
    angles = [_ANGLE.fullmatch(one) for one in (latitude, longitude)]
    degrees = []
    for match in angles:
        if match is None:
            return None
        value = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
        degrees.append(-value if match[4] in "SW" else value)
    return GeoPoint(*degrees)
