"""The queries of `sentinel search`: how they are written, shown and sent."""

from __future__ import annotations

import codecs
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import click

from sentinel_client import Box, ImageUri, Q
from sentinel_client._text import valid_text
from sentinel_client.cli._console import Failure
from sentinel_client.cli._options import full_id

_URI = re.compile(r"(https?|s3|file)://")
_WEIGHTED = re.compile(r"(?:(?P<weight>\d+(?:\.\d+)?)\*)?(?P<what>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """One query as people read it, and as it is sent."""

    kind: str  # text, image, item or mixed
    title: str  # the text, the path or URI, or the id
    heading: str  # of its hits
    sent: Q
    file: Path | None = None  # of an image query


def text_query(text: str) -> Query:
    text = valid_text(text)
    return Query("text", text, text, Q(text))


def read_queries(file: BinaryIO) -> list[Query]:
    """Return the queries of a file in UTF-8, or in UTF-16 with its mark: one per line."""
    data = file.read()
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf_8(data.count(b"\n", 0, error.start) + 1, file) from None
    return [text_query(line.strip()) for line in text.splitlines() if line.strip()]


def stream_queries(file: BinaryIO) -> Iterator[Query]:
    """Yield the lines of a file in UTF-8 that are not blank, as they come."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise _not_utf_8(number, file) from None
        if text:
            yield text_query(text)


def _not_utf_8(number: int, file: BinaryIO) -> Failure:
    name = valid_text(str(file.name))
    return Failure(f"line {number} of {name} is not UTF-8: save the file as UTF-8")


def image_query(image: Path | ImageUri, crop: Box | None) -> Query:
    """Return a query for an image or a part of it."""
    title = valid_text(image.uri if isinstance(image, ImageUri) else str(image))
    file = image if isinstance(image, Path) else None
    heading = f"like {PurePosixPath(title).name}"
    return Query("image", title, heading, Q(image=image, crop=crop), file)


def item_query(item_id: str) -> Query:
    return Query("item", item_id, f"like item {item_id[:16]}", Q(item_id=item_id))


def together(parts: Sequence[Query]) -> Query:
    """Return one query for all of these at once, with equal weights."""
    if len(parts) == 1:
        return parts[0]
    return Query(
        "mixed",
        " + ".join(one.title for one in parts),
        " + ".join(one.heading for one in parts),
        reduce(operator.add, (one.sent for one in parts)),
        next((one.file for one in parts if one.file is not None), None),
    )


class MixedTerm(NamedTuple):
    """A term of --plus or --minus: as it was written, and as it is sent."""

    text: str
    sent: Q


def mix(query: Query, plus: Sequence[MixedTerm], minus: Sequence[MixedTerm]) -> Query:
    """Add the terms of --plus to a query and subtract those of --minus."""
    heading = "".join(f" + {one.text}" for one in plus) + "".join(f" - {one.text}" for one in minus)
    terms = [*(one.sent for one in plus), *(-one.sent for one in minus)]
    return replace(
        query, heading=query.heading + heading, sent=reduce(operator.add, terms, query.sent)
    )


def parse_image(text: str) -> Path | ImageUri:
    """Parse the path of an existing file, or a URI that the gateway fetches."""
    if _URI.match(text):
        return ImageUri(text)
    path = Path(text)
    if not path.is_file():
        raise click.BadParameter(f"there is no file {text!r}")
    return path


def parse_crop(text: str) -> Box:
    """Parse LEFT,TOP,RIGHT,BOTTOM in fractions."""
    try:
        box = Box(*map(float, text.split(",")))
    except (ValueError, TypeError):
        box = Box(1, 1, 0, 0)
    if not (0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1):
        raise click.BadParameter(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM between 0 and 1")
    return box


def parse_mixed_term(text: str) -> MixedTerm:
    """Parse [WEIGHT*]WHAT: words, @FILE or @URI, or id:ID."""
    match = _WEIGHTED.fullmatch(text)
    if match is None:
        raise click.BadParameter("give words, @FILE or id:ID")
    what, weight = match["what"], float(match["weight"] or 1)
    if not 0 < weight <= 100:
        raise click.BadParameter(f"the weight of {text!r} must be above 0 and at most 100")
    if what.startswith("@"):
        term = Q(image=parse_image(what[1:]))
    elif what.startswith("id:"):
        term = Q(item_id=full_id(what[3:]))
    else:
        term = Q(valid_text(what))
    return MixedTerm(valid_text(text), weight * term)
