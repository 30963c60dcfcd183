"""Read the metadata of photos: EXIF, IPTC and XMP in the file, and its XMP sidecar.

Where they disagree, the sidecar wins over XMP in the file, XMP over IPTC, and IPTC over EXIF:
programs write what people edit into the later ones. The only module of the client that uses Pillow.

Files may be hostile. What is read is bounded, and whatever goes wrong only leaves values out.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, TypeVar

from PIL import Image, ImageFile, IptcImagePlugin, TiffImagePlugin

from sentinel_client._filters import FieldValue, GeoPoint
from sentinel_client._text import valid_text
from sentinel_client.importers.boxes import cr3_boxes, jxl_boxes
from sentinel_client.importers.left_out import RAW_EXTENSIONS
from sentinel_client.importers.xmp import MAX_XMP_BYTES, parse_date, parse_zone, read_xmp

try:
    import pillow_heif
except ImportError:  # then HEIC files have no metadata
    _HEIF: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener()
    _HEIF = ("HEIF",)

# Only the size and the metadata are read; the pixels are not decoded.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")

T = TypeVar("T")

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *_HEIF)
# A hostile directory names the same large value thousands of times. So both are bounded: what is
# read from a file, and the EXIF in memory (a JPEG cannot hold more than 64 KiB).
_MAX_READ_BYTES = 96 * 1024 * 1024
_MAX_EXIF_BYTES = 128 * 1024
_MAX_TEXT = {"title": 1_000, "caption": 8_000, "camera": 200, "lens": 200}
_MAX_KEYWORDS, _MAX_KEYWORD = 100, 200
_MAX_SUB_DIRECTORIES = 8
_TURNED = frozenset({5, 6, 7, 8})  # orientations that swap width and height
_EXIF_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?.*")
# Cameras write these into every file.
_NO_CAPTIONS = frozenset(
    {
        "olympus digital camera",
        "sony dsc",
        "minolta digital camera",
        "konica minolta digital camera",
    }
)


def read_metadata(path: str, sidecar: str | None) -> dict[str, FieldValue]:
    """Return the values of `PHOTO_FIELDS` of a photo; blocks. Unknown ones are left out."""
    merged: dict[str, Any] = {}
    for layer in (*_attempt(lambda: _in_file(path)), *_attempt(lambda: _in_sidecar(sidecar))):
        given = {key: value for key, value in layer.items() if value not in (None, "", [])}
        old, new = merged.get("taken"), given.get("taken")
        # Many programs copy the time and lose its zone.
        if old is not None and new is not None and new == old.replace(tzinfo=None, microsecond=0):
            given["taken"] = old
        merged |= given
    return _fields(merged)


def _attempt(read: Callable[[], list[T]]) -> list[T]:
    """Return what `read` finds, or nothing: files are damaged in more ways than we know."""
    try:
        return read()
    except Exception:
        return []


def _in_sidecar(sidecar: str | None) -> list[dict[str, Any]]:
    if sidecar is None or os.path.getsize(sidecar) > MAX_XMP_BYTES:
        return []
    with open(sidecar, "rb") as file:
        return [read_xmp(file.read(MAX_XMP_BYTES + 1))]


def _in_file(path: str) -> list[dict[str, Any]]:
    ending = os.path.splitext(path)[1].lower()
    with open(path, "rb", buffering=0) as raw, io.BufferedReader(_Bounded(raw)) as file:
        if ending == ".cr3":
            boxes = cr3_boxes(file)
            return [_exif(*(_box(boxes.get(one)) for one in (b"CMT1", b"CMT2", b"CMT4")))]
        if ending == ".jxl":
            return _in_boxes(jxl_boxes(file))
        if ending in RAW_EXTENSIONS:
            main, exif, gps, xmp = _tiff(file)
            return [_exif(main, exif, gps), *_attempt(lambda: [read_xmp(xmp)])]
        with Image.open(file, formats=_FORMATS) as image:
            return _in_image(image)


def _box(data: bytes | None) -> dict[int, Any]:
    """Return the directory of a TIFF in a box; empty if there is none."""
    return _first(_attempt(lambda: [_tiff(io.BytesIO((data or b"")[:_MAX_EXIF_BYTES]))[0]]))


def _first(found: list[dict[int, Any]]) -> dict[int, Any]:
    return found[0] if found else {}


def _in_boxes(boxes: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    def exif() -> list[dict[str, Any]]:
        main, exif, gps, _ = _tiff(io.BytesIO(boxes.get(b"Exif", b"")[:_MAX_EXIF_BYTES]))
        return [_exif(main, exif, gps)]

    return [*_attempt(exif), *_attempt(lambda: [read_xmp(boxes[b"xml "])])]


def _in_image(image: ImageFile.ImageFile) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = [{"size": image.size}]

    def exif() -> list[dict[str, Any]]:
        if len(image.info.get("exif") or b"") > _MAX_EXIF_BYTES:
            return []
        found = image.getexif()
        main = dict(found)
        layer = _exif(main, found.get_ifd(0x8769), found.get_ifd(0x8825))
        layer.pop("size", None)
        # Pillow has turned the sizes of TIFF and HEIF already.
        if main.get(0x0112) in _TURNED and image.format not in ("TIFF", "HEIF"):
            layer["size"] = (image.size[1], image.size[0])
        return [layer]

    def xmp() -> list[dict[str, Any]]:
        data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        return [read_xmp(data.encode() if isinstance(data, str) else data)]

    layers += _attempt(exif)
    layers += _attempt(lambda: [_iptc(IptcImagePlugin.getiptcinfo(image) or {})])
    layers += _attempt(xmp)
    return layers


class _Bounded(io.RawIOBase):
    """A file from which only so much can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _MAX_READ_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise OSError("too much metadata")
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _tiff(file: IO[bytes]) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any], bytes]:
    """Return the main, Exif and GPS directories of a TIFF, and its XMP."""
    head = file.read(8)

    def directory(offset: int) -> list[dict[int, Any]]:
        found = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(offset)
        found.load(file)
        return [dict(found)]

    (main,) = directory(TiffImagePlugin.ImageFileDirectory_v2(head).next)
    below = [main]
    offsets = main.get(0x014A, ())  # the directory of a RAW's own picture is one of these
    for offset in (offsets if isinstance(offsets, tuple) else (offsets,))[:_MAX_SUB_DIRECTORIES]:
        below += _attempt(partial(directory, offset))
    sizes = [(one.get(0x0100), one.get(0x0101)) for one in below]
    known = [one for one in sizes if all(isinstance(side, int) for side in one)]
    if known:
        main[0x0100], main[0x0101] = max(known)
    exif = _first(_attempt(lambda: directory(main[0x8769])))
    gps = _first(_attempt(lambda: directory(main[0x8825])))
    xmp = main.get(0x02BC, b"")
    return main, exif, gps, xmp if isinstance(xmp, bytes) else b""


def _exif(
    main: Mapping[int, Any], exif: Mapping[int, Any], gps: Mapping[int, Any]
) -> dict[str, Any]:
    size = (main.get(0x0100), main.get(0x0101))
    found: dict[str, Any] = {
        "size": size[::-1] if main.get(0x0112) in _TURNED else size,
        "taken": _exif_date(exif, 0x9003, 0x9291, 0x9011)  # of the original
        or _exif_date(exif, 0x9004, 0x9292, 0x9012),  # of its digital form
        "make": _text(main.get(0x010F)),
        "model": _text(main.get(0x0110)),
        "lens": _text(exif.get(0xA434)),
        "place": _exif_place(gps),
        "title": _text(main.get(0x9C9B), "utf-16-le"),
        "caption": _text(main.get(0x010E)) or _text(main.get(0x9C9C), "utf-16-le"),
        "keywords": _text(main.get(0x9C9E), "utf-16-le").split(";"),
        "rating": main.get(0x4746),
    }
    if found["caption"].lower() in _NO_CAPTIONS:
        del found["caption"]
    return found


def _exif_date(
    exif: Mapping[int, Any], date_tag: int, fraction_tag: int, zone_tag: int
) -> datetime | None:
    match = _EXIF_DATE.fullmatch(_text(exif.get(date_tag)))
    if match is None:
        return None
    fraction = re.sub(r"\D.*", "", _text(exif.get(fraction_tag)))[:6]
    try:
        taken = datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:  # 0000:00:00, or the 31st of June
        return None
    taken = taken.replace(microsecond=int(fraction.ljust(6, "0")))
    return taken.replace(tzinfo=parse_zone(_text(exif.get(zone_tag))))


def _exif_place(gps: Mapping[int, Any]) -> GeoPoint | None:
    degrees = []
    for value, reference, negative in (
        (gps.get(2), gps.get(1), "S"),
        (gps.get(4), gps.get(3), "W"),
    ):
        parts = value if isinstance(value, tuple) else (value,)
        if not parts:
            return None
        try:
            angle = sum(float(part) / 60**power for power, part in enumerate(parts[:3]))
        except (TypeError, ValueError, ZeroDivisionError):
            return None
        degrees.append(-angle if _text(reference).upper() == negative else angle)
    return GeoPoint(*degrees)


def _iptc(info: Mapping[tuple[int, int], Any]) -> dict[str, Any]:
    def texts(number: int) -> list[str]:
        value = info.get((2, number), [])
        return [_text(one) for one in (value if isinstance(value, list) else [value])]

    def text(number: int) -> str:
        return next(iter(texts(number)), "")

    day, clock = text(55), text(60)
    written = f"{day[:4]}-{day[4:6]}-{day[6:8]}"
    if re.match(r"\d{6}", clock):
        written += f"T{clock[:2]}:{clock[2:4]}:{clock[4:6]}{clock[6:]}"
    return {
        "taken": parse_date(written),
        "title": text(5) or text(105),
        "caption": text(120),
        "keywords": texts(25),
    }


def _text(value: Any, encoding: str = "utf-8") -> str:
    """Return a text of any metadata, without the zeros that end it."""
    if isinstance(value, tuple):  # bytes of the tags that Windows writes
        value = bytes(one for one in value if isinstance(one, int) and 0 <= one < 256)
    if isinstance(value, bytes):
        try:
            value = value.decode(encoding)
        except UnicodeDecodeError:
            value = value.decode("cp1252", "replace")
    return value.partition("\0")[0].strip() if isinstance(value, str) else ""


def _fields(merged: Mapping[str, Any]) -> dict[str, FieldValue]:
    """Return what was found as fields, with values that a collection can hold."""
    found: dict[str, FieldValue] = dict(_time_fields(merged.get("taken")))
    make, model = merged.get("make", ""), merged.get("model", "")
    named = model.lower().startswith(make.lower().split(" ")[0]) if make and model else not make
    texts = {**merged, "camera": model if named else f"{make} {model}"}
    for name, most in _MAX_TEXT.items():
        if text := _clean(texts.get(name, ""), most):
            found[name] = text
    width, height = merged.get("size", (None, None))
    if all(isinstance(side, int) and 0 < side < 2**31 for side in (width, height)):
        found |= {"width": width, "height": height}
    place = merged.get("place")
    if place is not None and _is_place(place):
        found["place"] = place
    keywords = [_clean(one, _MAX_KEYWORD) for one in merged.get("keywords", [])[:_MAX_KEYWORDS]]
    if keywords := list(dict.fromkeys(one for one in keywords if one)):
        found["keywords"] = keywords
    rating = merged.get("rating")
    if isinstance(rating, int) and -1 <= rating <= 5:
        found["rating"] = rating
    return found


def _is_place(place: GeoPoint) -> bool:
    """Tell whether a place is one on Earth. Devices without a position write 0, 0."""
    known = (place.latitude, place.longitude) != (0, 0)
    return known and abs(place.latitude) <= 90 and abs(place.longitude) <= 180


def _time_fields(taken: datetime | None) -> dict[str, FieldValue]:
    if taken is None:
        return {}
    if taken.tzinfo is None:
        return {"taken_at": taken.replace(tzinfo=UTC)}
    offset = taken.utcoffset()
    assert offset is not None
    try:
        at = taken.astimezone(UTC)
    except OverflowError:  # in the first hours of the year 1
        return {}
    return {"taken_at": at, "taken_offset": math.floor(offset.total_seconds() / 60)}


def _clean(text: str, most: int) -> str:
    """Return a text without control characters but line feeds, and at most `most` long."""
    kept = "".join(one for one in valid_text(text) if one >= " " or one in "\n\t")
    return kept.replace("\x7f", "").strip()[:most].strip()
