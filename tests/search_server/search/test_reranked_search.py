"""Duplicate collapsing, diversity and groups over gRPC, with real copies of real photos."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import filter_pb2, item_service_pb2, search_service_pb2
from tests import photos
from tests.processes import Server
from tests.search_server.conftest import FIELD_TYPES, Gateway, connect, image, string, text

Item = item_service_pb2.Item
Result = item_service_pb2.ItemResult
Query = search_service_pb2.Query
Hit = search_service_pb2.Hit
DiversityParams = search_service_pb2.DiversityParams
GroupParams = search_service_pb2.GroupParams

# Photos that the default model tells apart: no two of them come nearer than a cosine of 0.9.
PICTURES = [
    *("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "horse", "motorcycle_left"),
    *("page", "rocket", "china", "flower"),
]
# What is done to a photo: how it is encoded, and how large it is then.
COPIES = {
    "png": ("PNG", 1.0, {}),
    "jpeg": ("JPEG", 1.0, {"quality": 50}),
    "webp": ("WEBP", 0.7, {"quality": 80}),
    "small": ("PNG", 0.5, {}),
}
NO_COPIES = DiversityParams(duplicate_threshold=0.95)
OPTIONS: dict[str, dict[str, object]] = {
    "no copies": {"diversity": NO_COPIES},
    "MMR": {"diversity": DiversityParams(mmr_lambda=0.4)},
    "MMR without copies": {"diversity": DiversityParams(mmr_lambda=0.4, duplicate_threshold=0.95)},
    "one of each picture": {"group": GroupParams(field="path")},
    "three of each size": {"group": GroupParams(field="year", size=3)},
    "all at once": {
        "diversity": DiversityParams(mmr_lambda=0.5, duplicate_threshold=0.95),
        "group": GroupParams(field="year", size=2),
    },
}


def copy_of(name: str, kind: str) -> Item:
    file_format, scale, options = COPIES[kind]
    with Image.open(photos.photo(name)) as opened:
        size = (int(opened.width * scale), int(opened.height * scale))
        picture = opened.convert("RGB").resize(size)
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    item = Item(content=image(buffer.getvalue()), id=f"{name}-{kind}")
    item.fields["path"].string_value = name
    item.fields["year"].int_value = picture.width
    return item


@pytest.fixture(scope="session")
def copies(gateway_process: Server) -> str:
    """A collection of every picture four times; tests only read it."""
    gateway = connect(gateway_process.address)
    name = gateway.create()
    for picture in PICTURES:
        results = gateway.upsert(name, *(copy_of(picture, kind) for kind in COPIES))
        assert {result.outcome for result in results} == {Result.OUTCOME_STORED}
    return name


def pictures(hits: Iterable[Hit]) -> list[str]:
    return [hit.id.split("-")[0] for hit in hits]


def pages(
    gateway: Gateway, collection: str, query: Query, size: int, **params: object
) -> list[Hit]:
    asked = search_service_pb2.SearchParams(collection=collection, query=query, **params)  # type: ignore[arg-type]
    found: list[Hit] = []
    token = ""
    while True:
        page = gateway.search.SearchPage(
            search_service_pb2.SearchPageRequest(params=asked, page_size=size, page_token=token),
            timeout=20,
        )
        found += page.hits
        token = page.next_page_token
        if not token:
            return found


def test_copies_fill_the_first_page_unless_they_are_collapsed(
    gateway: Gateway, copies: str
) -> None:
    plain = gateway.hits(copies, text("a cat"), limit=12)
    assert pictures(plain)[:4] == ["chelsea"] * 4
    hits = gateway.hits(copies, text("a cat"), limit=12, diversity=NO_COPIES)
    assert sorted(pictures(hits)) == sorted(PICTURES)
    assert [hit.rank for hit in hits] == list(range(1, 13))
    # Of each picture the best copy stayed, where it was among the others.
    every = gateway.hits(copies, text("a cat"), limit=48)
    best: dict[str, Hit] = {}
    for picture, hit in zip(pictures(every), every, strict=True):
        best.setdefault(picture, hit)
    assert [(hit.id, hit.score) for hit in hits] == [
        (hit.id, pytest.approx(hit.score, abs=1e-6)) for hit in best.values()
    ]
    assert not any(hit.HasField("vector") for hit in hits)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("size", [1, 5])
def test_pages_are_the_stream_cut_in_pieces(
    gateway: Gateway, copies: str, name: str, size: int
) -> None:
    whole = gateway.hits(copies, text("a cat"), limit=100, **OPTIONS[name])
    paged = pages(gateway, copies, text("a cat"), size, **OPTIONS[name])
    assert [(hit.id, hit.rank) for hit in paged] == [(hit.id, hit.rank) for hit in whole]
    assert len({hit.id for hit in whole}) == len(whole)
    first = gateway.hits(copies, text("a cat"), limit=5, **OPTIONS[name])
    assert [hit.id for hit in first] == [hit.id for hit in whole[:5]]


def test_mmr_orders_by_relevance_and_novelty(gateway: Gateway, copies: str) -> None:
    plain = gateway.hits(copies, text("a cat"), limit=48, include_vectors=True)
    scores = {hit.id: hit.score for hit in plain}
    hits = gateway.hits(
        copies, text("a cat"), limit=48, diversity=DiversityParams(mmr_lambda=0.4),
        include_vectors=True,
    )  # fmt: skip
    assert hits[0].id == plain[0].id
    assert sorted(scores) == sorted(hit.id for hit in hits)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(scores, abs=1e-6)
    assert len(set(pictures(hits[:6]))) == 6
    assert len(set(pictures(plain[:6]))) < 6
    relevance_only = gateway.hits(
        copies, text("a cat"), limit=48, diversity=DiversityParams(mmr_lambda=1.0)
    )
    assert [hit.id for hit in relevance_only] == [hit.id for hit in plain]


@pytest.mark.parametrize("name", OPTIONS)
def test_score_filter_and_the_query_item_bound_them_too(
    gateway: Gateway, copies: str, name: str
) -> None:
    every = gateway.hits(copies, text("a cat"), limit=48)
    bound = (every[19].score + every[20].score) / 2
    allowed = {hit.id for hit in every[:20]}
    hits = gateway.hits(copies, text("a cat"), limit=48, min_score=bound, **OPTIONS[name])
    assert hits
    assert {hit.id for hit in hits} <= allowed
    cats = filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="path",
            operator=filter_pb2.Comparison.OPERATOR_EQUAL,
            values=[string("chelsea")],
        )
    )
    hits = gateway.hits(copies, text("a cat"), limit=48, filter=cats, **OPTIONS[name])
    assert set(pictures(hits)) == {"chelsea"}
    hits = gateway.hits(copies, Query(item_id="chelsea-png"), limit=48, **OPTIONS[name])
    assert "chelsea-png" not in {hit.id for hit in hits}
    assert pictures(hits)[0] == "chelsea"


def bare(item_id: str, vector: np.ndarray, **values: filter_pb2.FieldValue) -> Item:
    data = vector.astype("<f4").tobytes()
    return Item(
        id=item_id,
        vector=content_pb2.Vector(data=data, dimensions=len(vector)),
        fields=values,
    )


def around(axis: int, share: float, other: int) -> np.ndarray:
    """A vector of length 1 with this cosine to one axis, the rest of it along another."""
    vector = np.zeros(384)
    vector[axis], vector[other] = share, np.sqrt(1 - share * share)
    return vector


def test_it_looks_further_while_too_few_are_left(gateway: Gateway) -> None:
    """Three hundred copies of one thing are nearer than five other things."""
    name = gateway.create()
    crowd = [bare(f"crowd{n:03}", around(0, 0.9999, 10 + n)) for n in range(300)]
    others = [bare(f"other{n}", around(0, 0.5 - n / 100, 350 + n)) for n in range(5)]
    for start in range(0, 300, 100):
        gateway.upsert(name, *crowd[start : start + 100])
    gateway.upsert(name, *others)
    query = Query(vector=bare("", around(0, 0.9999, 10)).vector)
    hits = gateway.hits(name, query, limit=5, diversity=DiversityParams(duplicate_threshold=0.99))
    assert [hit.id for hit in hits] == ["crowd000", "other0", "other1", "other2", "other3"]
    one_by_one = pages(gateway, name, query, 1, diversity=DiversityParams(duplicate_threshold=0.99))
    assert [hit.id for hit in one_by_one][:5] == [hit.id for hit in hits]
    assert len(one_by_one) == 6


def test_equal_hits_are_one_and_of_equals_the_lower_id_stays(gateway: Gateway) -> None:
    name = gateway.create()
    gateway.upsert(name, *(bare(item_id, around(3, 0.8, 4)) for item_id in "dbca"))
    query = Query(vector=bare("", around(3, 1.0, 4)).vector)
    hits = gateway.hits(name, query, diversity=DiversityParams(duplicate_threshold=1.0))
    assert [hit.id for hit in hits] == ["a"]
    by_mmr = gateway.hits(name, query, diversity=DiversityParams(mmr_lambda=0.5))
    assert [hit.id for hit in by_mmr] == ["a", "b", "c", "d"]


VALUES = {
    "path": [string("red"), string("blue"), string("red"), None, string("blue"), None,
             string("red")],
    "year": [filter_pb2.FieldValue(int_value=year) if year is not None else None
             for year in (7, -3, 7, None, -3, None, 7)],
    "public": [filter_pb2.FieldValue(bool_value=bool(flag)) if flag is not None else None
               for flag in (1, 0, 1, None, 0, None, 1)],
}  # fmt: skip


@pytest.mark.parametrize("field", VALUES)
@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0135"), (1, "0135"), (2, "021435"), (100, "0261435")]
)
def test_groups_of_each_type_of_field(
    gateway: Gateway, field: str, size: int, expected: str
) -> None:
    assert field in FIELD_TYPES
    name = gateway.create()
    items = [
        bare(str(place), around(0, 0.9 - place / 10, 1), **({field: value} if value else {}))
        for place, value in enumerate(VALUES[field])
    ]
    gateway.upsert(name, *items)
    hits = gateway.hits(
        name,
        Query(vector=bare("", around(0, 1.0, 1)).vector),
        limit=20,
        group=GroupParams(field=field, size=size),
        output_fields=["ratio"],
    )
    assert "".join(hit.id for hit in hits) == expected
    assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
