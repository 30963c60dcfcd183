"""`sentinel search`: one query or many, shown as a table, JSON lines or a contact sheet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TextIO

import click

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._errors import InvalidArgument, NotFound, SentinelError
from sentinel_client._filters import Filter
from sentinel_client._query import Box, Q
from sentinel_client._search_types import SearchOptions, SearchResult
from sentinel_client._types import Consistency, ImageUri
from sentinel_client.cli import _hits, _sheet, _shown
from sentinel_client.cli._console import Options, err, explain, out, run
from sentinel_client.cli._queries import Query
from sentinel_client.cli._search_options import (
    Crop,
    IndexParam,
    Mixed,
    MixedTerm,
    Picture,
    mix,
    search_options,
)
from sentinel_client.cli._where import where

_IN_FLIGHT = 8


@click.command()
@click.argument("words", nargs=-1)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=Picture(),
    help="Find pictures like this file, or like one that the gateway fetches. Repeatable.",
)
@click.option("--crop", type=Crop(), help="Only this part of each --image, in fractions of it.")
@click.option(
    "--like",
    multiple=True,
    metavar="ID",
    help="Find more like this item; the short id of a hit shown before will do. Repeatable.",
)
@click.option(
    "-f",
    "--file",
    "lines",
    type=click.File("r", encoding="utf-8"),
    help="Queries, one per line; - reads standard input.",
)
@click.option("--collection", "-c", default="photos", show_default=True, help="Where to search.")
@click.option("--limit", "-n", default=10, show_default=True, help="Most hits per query.")
@click.option(
    "--plus",
    multiple=True,
    type=Mixed(),
    help="Mix into each query: words, @FILE, @URI or id:ID, with a weight or not: 0.5*night. "
    "Repeatable.",
)
@click.option(
    "--minus", multiple=True, type=Mixed(), help="Steer each query away from this. Repeatable."
)
@click.option("--hybrid", is_flag=True, help="Search the words of the full-text fields, too.")
@click.option(
    "--keywords", metavar="TEXT", help="With --hybrid: words for the fields.  [default: the query]"
)
@click.option(
    "--text-weight",
    type=click.FloatRange(0, 1000),
    help="With --hybrid: how much the fields count; the pictures count 1.",
)
@click.option(
    "--collapse",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Show one of pictures that are as alike as this; 0.95 is about the same picture.",
)
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    metavar="LAMBDA",
    help="Spread the hits: 1 is relevance only, 0 is difference only.",
)
@click.option("--group-by", metavar="FIELD", help="Only the best hits of each value of a field.")
@click.option(
    "--group-size", type=click.IntRange(1, 100), default=1, show_default=True, help="How many."
)
@click.option(
    "--consistency",
    type=click.Choice([level.value for level in Consistency]),
    help="How fresh the answer is.  [default: the collection's]",
)
@click.option(
    "--index-param",
    "index_params",
    multiple=True,
    type=IndexParam(),
    help="A parameter of the index's search, such as ef=128. Repeatable.",
)
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Least score of a hit.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="'FIELD OP VALUE'",
    help="Only items whose field fits; OP is = != < <= > >= or ^= (begins with). Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per hit.")
@click.option(
    "--html",
    "sheet",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a contact sheet of the hits to this file.",
)
@click.pass_obj
def search(
    options: Options,
    /,
    *,
    words: tuple[str, ...],
    images: tuple[Path | ImageUri, ...],
    crop: Box | None,
    like: tuple[str, ...],
    lines: TextIO | None,
    collection: str,
    limit: int,
    plus: tuple[MixedTerm, ...],
    minus: tuple[MixedTerm, ...],
    conditions: tuple[str, ...],
    as_json: bool,
    sheet: Path | None,
    **given: Any,
) -> None:
    """Find pictures by words, by a picture, or by one that was found before.

    \b
    sentinel search a dog on the beach
    sentinel search --image photo.jpg --limit 30 --html out.html
    sentinel search --image beach.jpg --plus 0.5*night --minus people
    sentinel search sunset --where 'modified_at>=2024-06-01' --json
    """  # noqa: D301 - a real backspace, for click
    queries = [Query.of_text(" ".join(words))] if words else []
    queries += [Query.of_image(image) for image in images] + [
        Query.of_item(_shown.full_id(one)) for one in like
    ]
    if lines is not None:
        queries += [Query.of_text(line.strip()) for line in lines if line.strip()]
    if not queries:
        raise click.UsageError("say what to look for: words, --image, --like or -f")
    if crop is not None and not images:
        raise click.UsageError("--crop is for --image")
    job = _Search(
        options,
        mix(queries, crop, plus, minus),
        collection,
        limit,
        search_options(include_thumbnails=sheet is not None, **given),
        as_json=as_json,
        sheet=sheet,
    )
    raise SystemExit(run(job.run(conditions)))


class _Search:
    """All queries of one command; runs some of them at once and shows them in order."""

    def __init__(
        self,
        options: Options,
        queries: list[tuple[Query, Q]],
        collection: str,
        limit: int,
        shared: SearchOptions,
        *,
        as_json: bool,
        sheet: Path | None,
    ) -> None:
        self._options = options
        self._queries = queries
        self._collection = collection
        self._limit = limit
        self._shared = shared
        self._as_json = as_json
        self._sheet = sheet

    async def run(self, conditions: Sequence[str]) -> int:
        """Return the exit code: 1 if some of several queries failed."""
        failed = 0
        shown: list[tuple[Query, SearchResult]] = []
        async with self._options.open_client() as client:
            if conditions:
                self._shared["filter"] = await self._filter(client, conditions)
            async with aclosing(self._results(client)) as results:
                async for query, result in results:
                    if isinstance(result, SentinelError):
                        failed += 1
                        err().print(f"{query.title}: {explain(result)}", style="red", markup=False)
                    else:
                        self._show(query, result)
                        if self._sheet is not None:
                            shown.append((query, result))
        if self._sheet is not None:
            page = await asyncio.to_thread(_sheet.render, shown, self._collection)
            await asyncio.to_thread(self._sheet.write_text, page, encoding="utf-8")
            err().print(f"Contact sheet: {self._sheet}", markup=False, soft_wrap=True)
        return 1 if failed else 0

    async def _filter(self, client: AsyncSentinelClient, conditions: Sequence[str]) -> Filter:
        return where(conditions, await client.get_collection(self._collection))

    async def _results(
        self, client: AsyncSentinelClient
    ) -> AsyncGenerator[tuple[Query, SearchResult | SentinelError], None]:
        """Yield the results in the order of the queries, a few searches ahead."""
        waiting: list[asyncio.Task[SearchResult | SentinelError]] = []
        ahead = iter(self._queries)
        try:
            for query, _ in self._queries:
                while len(waiting) < _IN_FLIGHT and (following := next(ahead, None)) is not None:
                    waiting.append(asyncio.create_task(self._search(client, following[1])))
                yield query, await waiting.pop(0)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _search(self, client: AsyncSentinelClient, query: Q) -> SearchResult | SentinelError:
        try:
            return await client.search(
                query, collection=self._collection, limit=self._limit, **self._shared
            )
        except (InvalidArgument, NotFound) as error:
            # Of many queries one may be wrong in itself; whatever else fails, fails for all.
            if len(self._queries) == 1 or error.reason == "COLLECTION_NOT_FOUND":
                raise
            return error

    def _show(self, query: Query, result: SearchResult) -> None:
        if self._as_json:
            for line in _hits.json_lines(query, result):
                click.echo(line)
        elif self._sheet is None or len(self._queries) == 1:
            out().print(_hits.table(query, result))
            out().print(_hits.timing_line(result.timings), style="dim")
            _shown.remember([hit.id for hit in result])
