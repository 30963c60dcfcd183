"""What a person put into the search: words, pictures and hits, each for or against."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from operator import add

from sentinel_client import Box, Q

# What the contract takes.
MAX_TERMS = 16
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Term:
    """One chip. Exactly one of text, image and item_id is set.

    Attributes:
        label: What the chip says.
        weight: Below 0 steers away.
        thumbnail: WebP or JPEG to show in the chip.
        key: Unlike any other chip's.
    """

    label: str
    text: str = ""
    image: bytes = field(default=b"", repr=False)
    crop: Box | None = None
    item_id: str = ""
    weight: float = 1.0
    thumbnail: bytes = field(default=b"", repr=False)
    key: str = field(default_factory=lambda: f"t{next(_numbers)}")

    @property
    def query(self) -> Q:
        """The term as the client takes it, without its weight."""
        if self.image:
            return Q(image=self.image, crop=self.crop)
        return Q(item_id=self.item_id) if self.item_id else Q(self.text)


def words(text: str, weight: float = 1.0) -> Term:
    """Return the term of some words."""
    return Term(text.strip(), text=text.strip(), weight=weight)


def query_of(terms: list[Term]) -> Q | None:
    """Return the query that all terms make together; None if there is none."""
    parts = [term.query if term.weight == 1.0 else term.weight * term.query for term in terms]
    return reduce(add, parts) if parts else None


def reweighted(terms: list[Term], weights: dict[str, float]) -> list[Term]:
    """Return the terms whose keys are in `weights`, with those weights; the others are gone."""
    kept = [term for term in terms if term.key in weights]
    return [replace(term, weight=weights[term.key]) for term in kept]
