"""How the options of `sentinel search` are written, and what they mean to the client."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import click

from sentinel_client._query import Box, Q
from sentinel_client._search_types import Diversity, GroupBy, Hybrid, SearchOptions
from sentinel_client._types import Consistency, ImageUri
from sentinel_client.cli import _shown
from sentinel_client.cli._queries import Query, valid

_URI = re.compile(r"(https?|s3|file)://")
_WEIGHTED = re.compile(r"(?:(?P<weight>\d+(?:\.\d+)?)\*)?(?P<what>.+)", re.DOTALL)


class Picture(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """The path of a file that is there, or a URI that the gateway fetches."""

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
            self.fail(f"{value!r} is no LEFT,TOP,RIGHT,BOTTOM between 0 and 1", param, ctx)
        return box


class MixedTerm(NamedTuple):
    """Something to mix into a query, as it was written and as it is sent."""

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
            self.fail("say what: words, @FILE or id:ID", param, ctx)
        what, weight = match["what"], float(match["weight"] or 1)
        if not 0 < weight <= 100:
            self.fail(f"the weight of {value!r} is not above 0 and at most 100", param, ctx)
        if what.startswith("@"):
            query = Q(image=Picture().convert(what[1:], param, ctx))
        elif what.startswith("id:"):
            query = Q(item_id=_shown.full_id(what[3:]))
        else:
            query = Q(valid(what))
        return MixedTerm(valid(str(value)), weight * query)


class IndexParam(click.ParamType):  # type: ignore[type-arg]
    """NAME=NUMBER."""

    name = "name=number"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return the name and the number."""
        if isinstance(value, tuple):
            return value
        name, sign, number = str(value).partition("=")
        if not (name and sign and number.strip().isdecimal()):
            self.fail(f"{value!r} is not NAME=NUMBER", param, ctx)
        return name.strip(), int(number)


def mix(
    queries: Iterable[Query],
    crop: Box | None,
    plus: Sequence[MixedTerm],
    minus: Sequence[MixedTerm],
) -> list[tuple[Query, Q]]:
    """Return each query as it is shown and as it is sent."""
    shown = "".join(f" + {one.text}" for one in plus) + "".join(f" - {one.text}" for one in minus)
    terms = [*(one.query for one in plus), *(-one.query for one in minus)]
    return [
        (replace(query, mixed=shown), reduce(operator.add, terms, query.alone(crop)))
        for query in queries
    ]


def search_options(
    *,
    include_thumbnails: bool,
    min_score: float | None,
    hybrid: bool,
    keywords: str | None,
    text_weight: float | None,
    collapse: float | None,
    diversity: float | None,
    group_by: str | None,
    group_size: int,
    consistency: str | None,
    index_params: tuple[tuple[str, int], ...],
) -> SearchOptions:
    """Return the client's options for those of the command line.

    Raises:
        click.UsageError: Some do not go together.
    """
    if not hybrid and (keywords is not None or text_weight is not None):
        raise click.UsageError("--keywords and --text-weight are for --hybrid")
    spread = collapse is not None or diversity is not None
    if hybrid and (spread or group_by is not None):
        raise click.UsageError("--hybrid goes with none of --collapse, --diversity and --group-by")
    return {
        "include_thumbnails": include_thumbnails,
        "min_score": min_score,
        "hybrid": Hybrid(text=keywords or "", text_weight=text_weight) if hybrid else None,
        "diversity": (
            Diversity(duplicate_threshold=collapse, mmr_lambda=diversity) if spread else None
        ),
        "group_by": None if group_by is None else GroupBy(group_by, group_size),
        "consistency": None if consistency is None else Consistency(consistency),
        "index_params": dict(index_params),
    }
