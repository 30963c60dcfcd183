"""Queries as weighted sums: `Q(image="beach.jpg") + 0.5 * Q("at night") - Q("people")`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import NamedTuple

import numpy.typing as npt

from sentinel_client._names import suggest_for_fields
from sentinel_client._types import ImageSource


class Box(NamedTuple):
    """A part of an image, in fractions of its width and height from the upper left corner."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a query: a text, an image, both as one, a vector, or an item's id."""

    text: str | None = None
    image: ImageSource | None = None
    crop: Box | None = None
    vector: npt.ArrayLike | None = None
    item_id: str | None = None
    weight: float = 1.0


@suggest_for_fields
class Q:
    """A query: a text, an image or a part of one, a vector, or a stored item.

        client.search(Q(image="beach.jpg", crop=Box(right=0.5)), collection="photos")
        client.search(Q(image="beach.jpg") + 0.5 * Q("at night") - Q("people"), collection="photos")
        client.search(Q("at night", image="beach.jpg"), collection="photos")  # one vector of both

    The vectors of a sum are normalised, added with their weights, and normalised again. Subtract
    a query to get results that are less like it. At most 16 terms, and weights up to 100.
    """

    __slots__ = ("terms",)
    # Let `numpy.float64 * Q` call our `__rmul__`.
    __array_ufunc__ = None

    def __init__(
        self,
        text: str | None = None,
        *,
        image: ImageSource | None = None,
        crop: Box | tuple[float, float, float, float] | None = None,
        vector: npt.ArrayLike | None = None,
        item_id: str | None = None,
    ) -> None:
        """Create a query of one term.

        Args:
            text: A text. Together with an image: one vector of both, by models that have
                `EmbeddingModel.embeds_image_with_text`; others refuse it.
            image: An image: bytes, a path, or an `ImageUri`.
            crop: The part of the image to use; None: the whole image.
            vector: A vector of the collection's space.
            item_id: The id of a stored item.

        Raises:
            TypeError: None or several of these are given, or a crop without an image.
        """
        content = image if text is None else text
        if sum(kind is not None for kind in (content, vector, item_id)) != 1:
            raise TypeError(
                "give exactly one of a text, an image, both as one, a vector, and an item_id"
            )
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{text!r} is not a text; pass an image as Q(image=...)")
        if crop is not None and image is None:
            raise TypeError("only an image has a crop")
        box = None if crop is None else Box(*crop)
        self.terms: tuple[Term, ...] = (
            Term(text=text, image=image, crop=box, vector=vector, item_id=item_id),
        )

    def __add__(self, other: Q) -> Q:
        return _of((*self.terms, *other.terms)) if isinstance(other, Q) else NotImplemented

    def __sub__(self, other: Q) -> Q:
        return self + -other if isinstance(other, Q) else NotImplemented

    def __mul__(self, weight: float) -> Q:
        if not isinstance(weight, Real):
            return NotImplemented
        return _of(tuple(replace(term, weight=term.weight * float(weight)) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Q:
        return self * -1.0

    def __repr__(self) -> str:
        return f"Q{self.terms!r}"


def _of(terms: tuple[Term, ...]) -> Q:
    query = Q.__new__(Q)
    query.terms = terms
    return query
