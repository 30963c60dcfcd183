"""The fake and a real gateway, which get the same calls; and what must be the same."""

from __future__ import annotations

import dataclasses
import enum
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sentinel_client import (
    FieldSchema,
    FieldType,
    GeoPoint,
    Item,
    SentinelClient,
    SentinelError,
)
from tests import photos

SCHEMA = [
    FieldSchema("title", FieldType.STRING, full_text=True),
    FieldSchema("year", FieldType.INT64, indexed=True),
    FieldSchema("ratio", FieldType.DOUBLE),
    FieldSchema("public", FieldType.BOOL),
    FieldSchema("tags", FieldType.STRING_LIST),
    FieldSchema("taken_at", FieldType.TIMESTAMP),
    FieldSchema("place", FieldType.GEO),
]
START = datetime(2020, 2, 28, 22, 0, 0, 1, UTC)
WORDS = ("dog", "beach", "night", "city", "rocket", "flower")
COUNT = 40
# Left out of comparisons: of the model, of the clock, or random.
LEFT_OUT = {"model", "timings", "next_page_token", "confirmation_token", "request_id"}


class Pair(NamedTuple):
    """Two clients that get the same calls, and a collection that both have."""

    fake: SentinelClient
    real: SentinelClient
    collection: str
    dimensions: int

    def vector(self, seed: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).standard_normal(self.dimensions).astype(np.float32)

    def same(self, call: Call) -> Any:
        """Make a call on both; return its outcome, which must be the same."""
        fake, real = (outcome(call, client, self) for client in (self.fake, self.real))
        assert fake == real
        return real


Call: TypeAlias = Callable[[SentinelClient, Pair], Any]


def outcome(call: Call, client: SentinelClient, pair: Pair) -> Any:
    try:
        result = call(client, pair)
        return plain(list(result) if isinstance(result, Iterator) else result)
    except SentinelError as error:
        return plain(error)


class Near(float):
    """A number that may differ a little: Milvus computes in another order."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and abs(self - other) < 1e-5


def plain(value: Any) -> Any:
    """Return what of a value must be the same."""
    if isinstance(value, SentinelError):
        kind = (type(value).__name__, value.code.name, value.reason, value.field)
        return (*kind, sorted(value.metadata), value.retry_after)
    if isinstance(value, float):
        return Near(value)
    if dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {name: known(name, one) for name, one in fields.items() if name not in LEFT_OUT}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(float(one) if isinstance(one, np.floating) else one) for one in value]
    return value.name if isinstance(value, enum.Enum) else value


def known(name: str, value: Any) -> Any:
    """Return a field of a value; of images and links only whether there are any."""
    return bool(value) if name in ("image_uri", "thumbnail") else plain(value)


def new_name() -> str:
    return f"c_{uuid.uuid4().hex}"


def items(pair: Pair) -> list[Item]:
    """Items of every kind, each with a vector, so that scores do not depend on the model."""
    chance = random.Random(1)
    made = []
    for number in range(COUNT):
        fields = {
            "title": " ".join(chance.sample(WORDS, 3)),
            "year": 2000 + chance.randrange(8),
            "ratio": chance.choice([0.5, 1.0, 1.5]),
            "public": chance.random() < 0.5,
            "tags": chance.sample(WORDS, 2),
            "taken_at": START + timedelta(hours=chance.randrange(12)),
            "place": GeoPoint(chance.uniform(-90, 90), chance.choice([-180, -3.5, 179.5])),
        }
        some = {name: value for name, value in fields.items() if chance.random() < 0.8}
        made.append(Item(id=f"item {number:02}", vector=pair.vector(number), fields=some))
    copy = pair.vector(0) + 0.01 * pair.vector(1)
    picture = photos.photo("chelsea").read_bytes()
    return [
        *made,
        Item(id="copy", vector=copy, fields={"year": 2001}),
        Item(id="text", text="a text of its own", vector=pair.vector(100)),
        Item(id="picture", image=picture, vector=pair.vector(101), fields={"title": "A cat, é"}),
    ]


def search(*, limit: int = 10, **options: Any) -> Call:
    """Return a search with a vector, by default one between those of two items."""

    def call(client: SentinelClient, pair: Pair) -> Any:
        given = options
        if not options.keys() & {"vector", "item_id", "query", "image"}:
            given = options | {"vector": pair.vector(0) + pair.vector(5)}
        return client.search(collection=pair.collection, limit=limit, **given)

    return call


def stored(*given: Item) -> Call:
    return lambda client, pair: client.upsert(given, collection=pair.collection)
