"""From the contract's queries and contents to the gateway's plain types."""

from __future__ import annotations

import numpy as np

from search_server.types.queries import Content, Crop, Kind, Query, Term
from search_server.types.values import FloatArray
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import search_service_pb2
from sentinel_core.errors import InvalidArgument

_MAX_TERMS = 16
_MAX_WEIGHT = 100.0


def query_from(query: search_service_pb2.Query, where: str) -> Query:
    """Read what to look for."""
    match query.WhichOneof("kind"):
        case "content":
            return Query(content=content_from(query.content, f"{where}.content"))
        case "vector":
            return Query(vector=vector_from(query.vector, f"{where}.vector"))
        case "item_id":
            return Query(item_id=query.item_id)
        case "composite":
            return Query(terms=_terms_from(query.composite, f"{where}.composite.terms"))
        case _:
            raise InvalidArgument(
                "QUERY_MISSING", "set one of content, vector, item_id or composite", field=where
            )


def _terms_from(composite: search_service_pb2.CompositeQuery, where: str) -> tuple[Term, ...]:
    if not composite.terms:
        raise InvalidArgument(
            "QUERY_MISSING", "a composite query needs at least one term", field=where
        )
    if len(composite.terms) > _MAX_TERMS:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"a composite query has at most {_MAX_TERMS} terms, not {len(composite.terms)}",
            field=where,
            limit=_MAX_TERMS,
        )
    return tuple(
        _term_from(term, f"{where}[{index}]") for index, term in enumerate(composite.terms)
    )


def _term_from(term: search_service_pb2.WeightedTerm, where: str) -> Term:
    weight = term.weight if term.HasField("weight") else 1.0
    if not 0.0 < abs(weight) <= _MAX_WEIGHT:  # NaN fails it too
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"weight is {weight}; it must not be 0, nor beyond {_MAX_WEIGHT:g} either way",
            field=f"{where}.weight",
        )
    match term.WhichOneof("kind"):
        case "content":
            return Term(content=content_from(term.content, f"{where}.content"), weight=weight)
        case "vector":
            return Term(vector=vector_from(term.vector, f"{where}.vector"), weight=weight)
        case "item_id":
            return Term(item_id=term.item_id, weight=weight)
        case _:
            raise InvalidArgument(
                "QUERY_MISSING", "set one of content, vector or item_id", field=where
            )


def whole_content_from(content: content_pb2.Content, where: str) -> Content:
    """Read a text or a picture that is to be stored, and therefore whole."""
    if content.image.HasField("crop"):
        raise InvalidArgument(
            "CROP_INVALID",
            "pictures are stored as a whole; send the part as a picture, or crop in queries",
            field=f"{where}.image.crop",
        )
    return content_from(content, where)


def content_from(content: content_pb2.Content, where: str) -> Content:
    """Read a text or an image."""
    match content.WhichOneof("kind"):
        case "text":
            if not content.text.strip():
                raise InvalidArgument(
                    "TEXT_EMPTY", "the text is empty or blank", field=f"{where}.text"
                )
            return Content(Kind.TEXT, content.text.encode())
        case "image":
            return _image_from(content.image, f"{where}.image")
        case _:
            raise InvalidArgument("CONTENT_MISSING", "set a text or an image", field=where)


def _image_from(image: content_pb2.Image, where: str) -> Content:
    crop = None
    if image.HasField("crop"):
        box = image.crop
        crop = Crop(box.left, box.top, box.right, box.bottom)
    if image.uri:
        return Content(Kind.IMAGE, b"", crop, image.uri)
    if not image.data:
        source = image.WhichOneof("source") or "data"
        raise InvalidArgument(
            "IMAGE_EMPTY", "the image has neither bytes nor a URI", field=f"{where}.{source}"
        )
    return Content(Kind.IMAGE, image.data, crop)


def vector_from(vector: content_pb2.Vector, where: str) -> FloatArray:
    """Read a vector's elements; what they must be is for the use case to check."""
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if vector.element_type not in known:
        raise InvalidArgument("VECTOR_INVALID", "element_type must be FLOAT32", field=where)
    if len(vector.data) != 4 * vector.dimensions:
        raise InvalidArgument(
            "VECTOR_INVALID",
            f"{len(vector.data)} bytes are not {vector.dimensions} dimensions of 4 bytes each",
            field=where,
        )
    return np.frombuffer(vector.data, dtype="<f4").astype(np.float32, copy=False)
