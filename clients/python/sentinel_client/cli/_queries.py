"""The queries of `sentinel search`: option types, titles, and how queries are mixed."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import click

from sentinel_client._query import Box, Q
from sentinel_client._types import ImageUri
from sentinel_client.cli._console import valid_text
from sentinel_client.cli._options import full_id

_URI = re.compile(r"(https?|s3|file)://")
_WEIGHTED = re.compile(r"(?:(?P<weight>\d+(?:\.\d+)?)\*)?(?P<what>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """A text, an image, or a stored item.

    Attributes:
        title: The query as people read it.
        text: Text to search for, or None.
        image: Image to search for, or None.
        item_id: Stored item to search for, or None.
        mixed: The terms of --plus and --minus, as people read them.
    """

    title: str
    text: str | None = None
    image: Path | ImageUri | None = None
    item_id: str | None = None
    mixed: str = ""

    @classmethod
    def of_text(cls, text: str) -> Query:
        """Return a query for a text."""
        text = valid_text(text)
        return cls(text, text=text)

    @classmethod
    def of_image(cls, image: Path | ImageUri) -> Query:
        """Return a query for an image."""
        name = image.uri if isinstance(image, ImageUri) else str(image)
        return cls(valid_text(name), image=image)

    @classmethod
    def of_item(cls, item_id: str) -> Query:
        """Return a query for a stored item."""
        return cls(item_id, item_id=item_id)

    @property
    def kind(self) -> str:
        """`text`, `image` or `item`."""
        if self.image is not None:
            return "image"
        return "item" if self.item_id is not None else "text"

    @property
    def heading(self) -> str:
        """The heading of the hits."""
        prefix = {"text": "", "image": "like ", "item": "like item "}[self.kind]
        title = self.title if self.image is None else PurePosixPath(self.title).name
        return f"{prefix}{title[:16] if self.kind == 'item' else title}{self.mixed}"

    def term(self, crop: Box | None) -> Q:
        """Return the query for the client, without --plus and --minus."""
        return Q(
            self.text,
            image=self.image,
            item_id=self.item_id,
            crop=None if self.image is None else crop,
        )


class Picture(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """The path of an existing file, or a URI that the gateway fetches."""

    name = "file|uri"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | ImageUri:
        """Return the path or the URI."""
        if _URI.match(text := str(value)):
            return ImageUri(text)
        path = Path(text)
        if not path.is_file():
            self.fail(f"there is no file {text!r}", param, ctx)
        return path


class Crop(click.ParamType):  # type: ignore[type-arg]
    """LEFT,TOP,RIGHT,BOTTOM in fractions."""

    name = "left,top,right,bottom"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Box:
        """Return the box."""
        try:
            box = Box(*map(float, str(value).split(",")))
        except (ValueError, TypeError):
            box = Box(1, 1, 0, 0)
        if not (0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1):
            self.fail(f"{value!r} is not LEFT,TOP,RIGHT,BOTTOM between 0 and 1", param, ctx)
        return box


class MixedTerm(NamedTuple):
    """A term of --plus or --minus: as it was written, and as it is sent."""

    text: str
    query: Q


class Mixed(click.ParamType):  # type: ignore[type-arg]
    """[WEIGHT*]WHAT: words, @FILE or @URI, or id:ID."""

    name = "[weight*]what"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> MixedTerm:
        """Return the weighted term."""
        if isinstance(value, MixedTerm):
            return value
        match = _WEIGHTED.fullmatch(str(value))
        if match is None:
            self.fail("give words, @FILE or id:ID", param, ctx)
        what, weight = match["what"], float(match["weight"] or 1)
        if not 0 < weight <= 100:
            self.fail(f"the weight of {value!r} must be above 0 and at most 100", param, ctx)
        if what.startswith("@"):
            query = Q(image=Picture().convert(what[1:], param, ctx))
        elif what.startswith("id:"):
            query = Q(item_id=full_id(what[3:]))
        else:
            query = Q(valid_text(what))
        return MixedTerm(valid_text(str(value)), weight * query)


def mix(
    queries: Iterable[Query],
    crop: Box | None,
    plus: Sequence[MixedTerm],
    minus: Sequence[MixedTerm],
) -> list[tuple[Query, Q]]:
    """Return each query as it is shown and as it is sent."""
    mixed = "".join(f" + {one.text}" for one in plus) + "".join(f" - {one.text}" for one in minus)
    terms = [*(one.query for one in plus), *(-one.query for one in minus)]
    return [
        (replace(query, mixed=mixed), reduce(operator.add, terms, query.term(crop)))
        for query in queries
    ]
