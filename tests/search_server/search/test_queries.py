"""Every kind of query, and several of them weighed against each other, over gRPC."""

from __future__ import annotations

import io
import math

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests import photos, processes
from tests.processes import metric
from tests.search_server.conftest import Gateway, error_info, image, photo_item, text

Query = search_service_pb2.Query
Term = search_service_pb2.WeightedTerm
Hit = search_service_pb2.Hit


def words(text_: str, weight: float | None = None) -> Term:
    return Term(content=content_pb2.Content(text=text_), weight=weight)


def composite(*terms: Term) -> Query:
    return Query(composite=search_service_pb2.CompositeQuery(terms=terms))


def elements(vector: content_pb2.Vector) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.frombuffer(vector.data, "<f4").astype(np.float64)


def unit(vector: np.ndarray[tuple[int], np.dtype[np.float64]]) -> content_pb2.Vector:
    scaled = (vector / np.linalg.norm(vector)).astype("<f4")
    return content_pb2.Vector(data=scaled.tobytes(), dimensions=len(scaled))


def all_by_path(gateway: Gateway, album: str, query: Query) -> dict[str, Hit]:
    hits = gateway.hits(album, query, limit=100, include_vectors=True)
    return {hit.fields["path"].string_value: hit for hit in hits}


def field_of(error: grpc.RpcError) -> str:
    """Return the path of the field at fault."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
    return info.metadata.get("field", "")


def test_a_composite_is_the_weighted_sum_of_unit_vectors(gateway: Gateway, album: str) -> None:
    """Of all kinds together; scores are checked against the sum computed here."""
    every = all_by_path(gateway, album, text("a cat"))
    cat, coffee, rocket = (every[name] for name in ("chelsea.png", "coffee.png", "rocket.jpg"))
    flower = photos.photo("flower").read_bytes()
    long = elements(rocket.vector) * 40.0
    query = composite(
        Term(item_id=cat.id, weight=2.0),
        Term(content=image(flower)),  # weight 1 by default
        Term(vector=content_pb2.Vector(data=long.astype("<f4").tobytes(), dimensions=len(long)),
             weight=0.5),
        Term(item_id=coffee.id, weight=-1.5),
    )  # fmt: skip
    total = (
        2.0 * elements(cat.vector)
        + elements(every["flower.jpg"].vector)
        + 0.5 * elements(rocket.vector)
        - 1.5 * elements(coffee.vector)
    )
    expected = total / np.linalg.norm(total)
    hits = gateway.hits(album, query, limit=100, include_vectors=True)
    assert cat.id not in {hit.id for hit in hits}
    assert coffee.id not in {hit.id for hit in hits}
    assert len(hits) == len(photos.all_photos()) - 2
    for hit in hits:
        assert hit.score == pytest.approx(float(expected @ elements(hit.vector)), abs=1e-5)


def test_a_negative_term_steers_away(gateway: Gateway, album: str) -> None:
    def score(query: Query) -> float:
        return all_by_path(gateway, album, query)["chelsea.png"].score

    both = words("a cat and a cup of coffee")
    assert score(composite(both, words("a cat", -0.8))) < score(composite(both)) - 0.1
    without = all_by_path(gateway, album, composite(both, words("a cat", -0.8)))
    assert without["coffee.png"].score > without["chelsea.png"].score


def test_a_composite_of_one_term_is_that_query(gateway: Gateway, album: str) -> None:
    def ranking(query: Query) -> list[tuple[str, float]]:
        return [(hit.id, round(hit.score, 5)) for hit in gateway.hits(album, query, limit=10)]

    assert ranking(composite(words("a rocket", 7.5))) == ranking(text("a rocket"))
    # And its opposite turns the order round.
    forth = all_by_path(gateway, album, text("a rocket"))
    back = all_by_path(gateway, album, composite(words("a rocket", -1)))
    for path, hit in forth.items():
        assert back[path].score == pytest.approx(-hit.score, abs=1e-5)


def test_all_contents_of_a_composite_are_one_embed_call(
    gateway: Gateway, album: str, worker: processes.Server
) -> None:
    def calls() -> float:
        return metric(
            worker.metrics_address,
            "sentinel_embedder_request_duration_seconds_count",
            method="/sentinel.embedding.v1.EmbeddingService/Embed",
        )

    before = calls()
    picture = image(photos.photo("coffee").read_bytes())
    gateway.hits(album, composite(words("one new text"), words("another"), Term(content=picture)))
    assert calls() == before + 1


def test_a_crop_is_searched_for_alone(gateway: Gateway, album: str) -> None:
    with Image.open(photos.photo("chelsea")) as cat, Image.open(photos.photo("coffee")) as coffee:
        both = Image.new("RGB", (800, 300))
        both.paste(cat.convert("RGB").resize((400, 300)), (0, 0))
        both.paste(coffee.convert("RGB").resize((400, 300)), (400, 0))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    for box, first in (
        (content_pb2.BoundingBox(right=0.5, bottom=1), "chelsea.png"),
        (content_pb2.BoundingBox(left=0.5, right=1, bottom=1), "coffee.png"),
    ):
        content = content_pb2.Content(image=content_pb2.Image(data=buffer.getvalue(), crop=box))
        hits = gateway.hits(album, Query(content=content), limit=1)
        assert hits[0].fields["path"].string_value == first


def test_more_like_several_leaves_all_of_them_out(gateway: Gateway, album: str) -> None:
    """Also together with a filter, and when one is named twice."""
    cat, other = (hit.id for hit in gateway.hits(album, text("a cat"), limit=2))
    query = composite(Term(item_id=cat), Term(item_id=other), Term(item_id=cat, weight=0.5))
    ids = {hit.id for hit in gateway.hits(album, query, limit=100)}
    assert len(ids) == len(photos.all_photos()) - 2
    assert not ids & {cat, other}


BAD_BOX = content_pb2.BoundingBox(left=0.6, right=0.4, bottom=1)
CAT = photos.photo("chelsea").read_bytes()
GOOD = words("a cat")
TERMS: dict[str, tuple[Term, str, str, str]] = {
    "empty text": (words(" "), "INVALID_ARGUMENT", "TEXT_EMPTY", ".content.text"),
    "no content": (
        Term(content=content_pb2.Content()), "INVALID_ARGUMENT", "CONTENT_MISSING", ".content",
    ),
    "too long a text": (
        words("cat " * 100_000), "INVALID_ARGUMENT", "TEXT_TOO_LONG", ".content.text",
    ),
    "no picture": (
        Term(content=image(b"%PDF-1.7")), "INVALID_ARGUMENT", "IMAGE_FORMAT_UNSUPPORTED",
        ".content.image.data",
    ),
    "no bytes": (
        Term(content=image(b"")), "INVALID_ARGUMENT", "IMAGE_EMPTY", ".content.image.data",
    ),
    "a crop the wrong way round": (
        Term(content=content_pb2.Content(image=content_pb2.Image(data=CAT, crop=BAD_BOX))),
        "INVALID_ARGUMENT", "CROP_INVALID", ".content.image.crop",
    ),
    "a URI": (
        Term(content=content_pb2.Content(image=content_pb2.Image(uri="https://example.com/a"))),
        "PERMISSION_DENIED", "URI_FORBIDDEN", ".content.image.uri",
    ),
    "a vector of other dimensions": (
        Term(vector=unit(np.ones(7))), "INVALID_ARGUMENT", "VECTOR_DIMENSIONS", ".vector",
    ),
    "a vector without direction": (
        Term(vector=content_pb2.Vector(data=bytes(4 * 384), dimensions=384)),
        "INVALID_ARGUMENT", "VECTOR_INVALID", ".vector",
    ),
    "a vector with missing bytes": (
        Term(vector=content_pb2.Vector(data=b"123", dimensions=384)),
        "INVALID_ARGUMENT", "VECTOR_INVALID", ".vector",
    ),
    "an unknown item": (Term(item_id="nope"), "NOT_FOUND", "ITEM_NOT_FOUND", ".item_id"),
    "no kind": (Term(weight=1.0), "INVALID_ARGUMENT", "QUERY_MISSING", ""),
    "weight 0": (words("x", 0.0), "INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE", ".weight"),
    "weight NaN": (words("x", math.nan), "INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE", ".weight"),
    "weight -101": (words("x", -101), "INVALID_ARGUMENT", "PARAMETER_OUT_OF_RANGE", ".weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", TERMS)
def test_a_bad_term_is_refused_by_its_path(gateway: Gateway, album: str, name: str) -> None:
    term, code, reason, inside = TERMS[name]
    with pytest.raises(grpc.RpcError) as caught:
        gateway.hits(album, composite(GOOD, GOOD, term))
    assert error_info(caught.value) == (code, reason)
    assert field_of(caught.value) == f"params.query.composite.terms[2]{inside}"


def test_terms_that_cancel_each_other_out_are_refused(gateway: Gateway) -> None:
    """Not only when they do so exactly: the same picture embedded anew is rounded otherwise."""
    name = gateway.create()
    [stored] = gateway.upsert(name, photo_item("chelsea"))
    for query in (
        composite(words("a cat", 3), words("a cat", -3)),
        composite(Term(item_id=stored.id), Term(content=image(CAT), weight=-1)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits(name, query)
        assert error_info(caught.value) == ("INVALID_ARGUMENT", "QUERY_CANCELS_OUT")
        assert field_of(caught.value) == "params.query.composite"


def test_a_crop_of_an_item_to_store_is_refused_for_that_item_alone(gateway: Gateway) -> None:
    name = gateway.create()
    cropped = photo_item("coffee")
    cropped.content.image.crop.CopyFrom(content_pb2.BoundingBox(right=0.5, bottom=0.5))
    good, bad = gateway.upsert(name, photo_item("chelsea"), cropped)
    assert good.outcome == item_service_pb2.ItemResult.OUTCOME_STORED
    assert bad.outcome == item_service_pb2.ItemResult.OUTCOME_FAILED
    assert gateway.count(name) == 1
