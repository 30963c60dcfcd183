"""The pictures that the page is tried with: real photos, and parts and copies of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from PIL import Image, ImageOps

from sentinel_client import FieldSchema, FieldType, FieldValue, GeoPoint, Item
from tests import photos

FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("caption", FieldType.STRING),
    FieldSchema("bytes", FieldType.INT64),
    FieldSchema("colour", FieldType.BOOL),
)
CAPTIONS = {
    "astronaut": "An astronaut in an orange suit",
    "brick": "A wall of bricks",
    "camera": "A photographer at work",
    "cell": "A cell under the microscope",
    "chelsea": "A cat called Chelsea",
    "china": "A temple by the lake",
    "clock_motion": "A clock, moving",
    "coffee": "A cup of coffee",
    "coins": "Coins from Pompeii",
    "flower": "A red flower",
    "grass": "Grass",
    "gravel": "Gravel",
    "horse": "The outline of a horse",
    "hubble_deep_field": "Galaxies, far away",
    "moon": "Craters of the moon",
    "motorcycle_left": "A motorcycle in a garage",
    "page": "A page of a book",
    "retina": "A retina",
    "rocket": "A rocket on its pad, at night",
}
CAMERAS = ("Canon EOS R6", "Apple iPhone 15 Pro", "Sony A7 IV")
DATED_FIELDS = (
    *FIELDS,
    FieldSchema("taken_at", FieldType.TIMESTAMP, indexed=True),
    FieldSchema("camera", FieldType.STRING),
    FieldSchema("width", FieldType.INT64),
    FieldSchema("height", FieldType.INT64),
    FieldSchema("size_bytes", FieldType.INT64),
    FieldSchema("keywords", FieldType.STRING_LIST),
    FieldSchema("place", FieldType.GEO),
)
_NEWEST = datetime(2024, 8, 20, 12, tzinfo=UTC)
# A picture and its copy in another encoding; these two are nearly the same to any model.
COPIED = "coffee"
_VARIED = ("astronaut", "chelsea", "china", "coffee", "flower", "motorcycle_left", "rocket")


def items() -> Iterator[Item]:
    """Yield every photo, mirrored and cut ones of the best, and one copy."""
    for path in photos.all_photos():
        yield _item(path.name, path.read_bytes(), CAPTIONS[path.stem])
    for stem in _VARIED:
        with Image.open(photos.photo(stem)) as opened:
            picture = opened.convert("RGB")
        for name, variant in _variants(picture):
            yield _item(f"{stem}-{name}.jpg", _jpeg(variant), f"{CAPTIONS[stem]}, {name}")
    with Image.open(photos.photo(COPIED)) as opened:
        copy = _jpeg(opened.convert("RGB"), quality=80)
    yield _item(f"{COPIED}-copy.jpg", copy, f"{CAPTIONS[COPIED]}, copy")


def dated_items() -> Iterator[Item]:
    """Yield the same pictures as a camera dates them, each nine days older than the one before."""
    for number, item in enumerate(items()):
        assert isinstance(item.image, bytes)
        with Image.open(io.BytesIO(item.image)) as opened:
            width, height = opened.size
        taken = _NEWEST - timedelta(days=9 * number)
        fields: dict[str, FieldValue] = {
            **item.fields,
            "path": f"/home/anna/Pictures/{taken:%Y/%m}/{item.fields['path']}",
            "taken_at": taken,
            "camera": CAMERAS[number % len(CAMERAS)],
            "width": width,
            "height": height,
            "size_bytes": len(item.image),
            "keywords": ["travel", "sea"] if number % 2 else ["home"],
            "place": GeoPoint(48.0 + number / 4, 2.25),
        }
        yield Item(image=item.image, fields=fields)


def _variants(picture: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    width, height = picture.size
    yield "mirrored", ImageOps.mirror(picture)
    yield "cut", picture.crop((width // 8, height // 8, width * 7 // 8, height * 7 // 8))
    yield "small", picture.resize((width // 3, height // 3))
    yield "faded", ImageOps.autocontrast(ImageOps.grayscale(picture)).convert("RGB")


def _item(name: str, data: bytes, caption: str) -> Item:
    with Image.open(io.BytesIO(data)) as opened:
        red, green, blue = opened.convert("RGB").resize((32, 32)).split()
    colour = red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes()
    fields: dict[str, FieldValue] = {
        "path": name,
        "caption": caption,
        "bytes": len(data),
        "colour": colour,
    }
    return Item(image=data, fields=fields)


def _jpeg(picture: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
