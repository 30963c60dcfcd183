"""`sentinel search`: run one or more queries and show the hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO

import click

from sentinel_client import (
    AsyncSentinelClient,
    Box,
    Consistency,
    Diversity,
    GroupBy,
    Hybrid,
    ImageUri,
    InvalidArgument,
    NotFound,
    SearchOptions,
    SearchResult,
    SentinelError,
)
from sentinel_client.cli import _filters, _options, _queries, _search_results
from sentinel_client.cli._commands import tell_error
from sentinel_client.cli._console import Failure, Options, err, out
from sentinel_client.cli._files import echo_paths, path_of
from sentinel_client.cli._matches import remarks

_IN_FLIGHT = 8


@click.command()
@click.argument("words", nargs=-1)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=_queries.parse_image,
    metavar="FILE|URI",
    help="Find images similar to this file or URI; the gateway fetches URIs. With words or other "
    "images: similar to all of them at once. Repeatable.",
)
@click.option(
    "--crop",
    type=_queries.parse_crop,
    metavar="LEFT,TOP,RIGHT,BOTTOM",
    help="Use only this part of each --image, in fractions.",
)
@click.option(
    "--like",
    multiple=True,
    type=_options.full_id,
    metavar="ID",
    help="Find items similar to this one. Accepts the short ids of earlier results. Repeatable.",
)
@click.option(
    "-f",
    "--file",
    "lines",
    type=click.File("rb"),
    help="Further queries in UTF-8, one per line; - reads standard input.",
)
@_options.collection_option("Where to search.")
@click.option("--limit", "-n", default=10, show_default=True, help="Most hits per query.")
@click.option(
    "--plus",
    multiple=True,
    type=_queries.parse_mixed_term,
    metavar="[WEIGHT*]WHAT",
    help="Add to each query: words, @FILE, @URI or id:ID, with an optional weight: 0.5*night. "
    "Repeatable.",
)
@click.option(
    "--minus",
    multiple=True,
    type=_queries.parse_mixed_term,
    metavar="[WEIGHT*]WHAT",
    help="Find less that is like this. Repeatable.",
)
@click.option("--hybrid", is_flag=True, help="Also search the full-text fields for keywords.")
@click.option("--keywords", metavar="TEXT", help="Keywords of --hybrid.  [default: the query]")
@click.option(
    "--text-weight",
    type=click.FloatRange(0, 1000),
    help="Weight of the keyword search of --hybrid; the vector search has weight 1.",
)
@click.option(
    "--collapse",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Show only one of several images at least this similar; 0.95 is almost the same image.",
)
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    metavar="LAMBDA",
    help="Make the hits more different: 1 is relevance only, 0 is difference only.",
)
@click.option("--group-by", metavar="FIELD", help="Only the best hits of each value of a field.")
@click.option(
    "--group-size",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Hits per group.",
)
@_options.consistency_option("Which writes the search sees.  [default: the collection's setting]")
@_options.index_param_option("A search parameter of the index, such as ef=128. Repeatable.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Minimum score of a hit.")
@_options.where_option(_filters.HELP)
@_options.json_option("hit")
@_options.paths_options
@_options.quiet_option("Only the hits: no headings and no times.")
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
    lines: BinaryIO | None,
    plus: tuple[_queries.MixedTerm, ...],
    minus: tuple[_queries.MixedTerm, ...],
    collection: str,
    limit: int,
    conditions: tuple[str, ...],
    as_json: bool,
    paths: bool,
    nul: bool,
    quiet: bool,
    sheet: Path | None,
    **given: Any,
) -> None:
    """Find images by words, by an image, or by an earlier result.

    \b
    sentinel search a dog on the beach
    sentinel search --image photo.jpg --limit 30 --html out.html
    sentinel search a red car --image beach.jpg
    sentinel search --image beach.jpg --plus 0.5*night --minus people
    sentinel search sunset --where 'modified_at>=2024-06-01' --json
    sentinel search sunset -n 50 -0 | xargs -0 cp -t sunsets/

    --json prints one object per hit, --paths and -0 the hits' paths; the latter two skip items
    without a file. `sentinel open 3` opens the third hit of the table.
    """  # noqa: D301 - a real backspace, for click
    asked = [_queries.text_query(" ".join(words))] if words else []
    asked += [
        *(_queries.image_query(one, crop) for one in images),
        *map(_queries.item_query, like),
    ]
    queries = [_queries.together(asked)] if asked else []
    if lines is not None:
        queries += _queries.read_queries(lines)
    if not queries:
        raise click.UsageError("say what to look for: words, --image, --like or -f")
    if crop is not None and not images:
        raise click.UsageError("--crop is for --image")
    if as_json and (paths or nul):
        raise click.UsageError("--json excludes --paths and -0")
    search = _Search(
        queries=[_queries.mix(query, plus, minus) for query in queries],
        collection=collection,
        limit=limit,
        conditions=conditions,
        options=_search_options(include_thumbnails=sheet is not None, **given),
    )
    with _open_sheet(sheet) as page:
        many = page is not None and len(queries) > 1
        shown = _Shown(
            as_json,
            paths=paths or nul,
            nul=nul,
            table=not many,
            quiet=quiet,
            address=options.address,
        )
        code = asyncio.run(_run(options, search, shown, page))
        if page is not None and not quiet:
            err().print(f"Contact sheet: {sheet}", markup=False, soft_wrap=True)
    raise SystemExit(code)


@contextmanager
def _open_sheet(sheet: Path | None) -> Iterator[IO[str] | None]:
    """Open the file of the contact sheet before the work; after an error, leave it as it was."""
    if sheet is None:
        yield None
        return
    existed = sheet.exists()
    try:
        page = sheet.open("a", encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot write {sheet}: {error.strerror}") from error
    with page:
        try:
            yield page
        except BaseException:
            if not existed:
                sheet.unlink(missing_ok=True)
            raise


def _search_options(
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
    """Convert the options of the command line to those of the client."""
    if not hybrid and (keywords is not None or text_weight is not None):
        raise click.UsageError("--keywords and --text-weight are for --hybrid")
    diverse = collapse is not None or diversity is not None
    if hybrid and (diverse or group_by is not None):
        raise click.UsageError("--hybrid excludes --collapse, --diversity and --group-by")
    return {
        "include_thumbnails": include_thumbnails,
        "min_score": min_score,
        "hybrid": Hybrid(text=keywords or "", text_weight=text_weight) if hybrid else None,
        "diversity": (
            Diversity(duplicate_threshold=collapse, mmr_lambda=diversity) if diverse else None
        ),
        "group_by": None if group_by is None else GroupBy(group_by, group_size),
        "consistency": None if consistency is None else Consistency(consistency),
        "index_params": dict(index_params),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """All queries of one command and the options they share."""

    queries: list[_queries.Query]
    collection: str
    limit: int
    conditions: Sequence[str]
    options: SearchOptions

    async def results(
        self, client: AsyncSentinelClient
    ) -> AsyncGenerator[tuple[_queries.Query, SearchResult | SentinelError], None]:
        """Yield the results in the order of the queries, with a few searches in flight."""
        options = self.options
        if self.conditions:
            collection = await client.get_collection(self.collection)
            options = {**options, "filter": _filters.parse_filter(self.conditions, collection)}
        in_flight: list[asyncio.Task[SearchResult | SentinelError]] = []
        unsent = iter(self.queries)
        try:
            for query in self.queries:
                for following in islice(unsent, _IN_FLIGHT - len(in_flight)):
                    in_flight.append(asyncio.create_task(self._one(client, following, options)))
                yield query, await in_flight.pop(0)
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    async def _one(
        self, client: AsyncSentinelClient, query: _queries.Query, options: SearchOptions
    ) -> SearchResult | SentinelError:
        try:
            return await client.search(
                query.sent, collection=self.collection, limit=self.limit, **options
            )
        except (InvalidArgument, NotFound) as error:
            # One of many queries may be invalid itself; all other errors end the command.
            if len(self.queries) == 1 or error.reason == "COLLECTION_NOT_FOUND":
                raise
            return error


@dataclass(frozen=True, slots=True)
class _Shown:
    """In which form the hits of a search are printed: JSON, paths, else a table or nothing."""

    as_json: bool
    paths: bool
    nul: bool
    table: bool
    quiet: bool
    address: str

    def show(self, query: _queries.Query, result: SearchResult, collection: str) -> None:
        if self.as_json:
            for line in _search_results.json_lines(query, result):
                click.echo(line)
        elif self.paths:
            for line in () if self.quiet else remarks(result):
                err().print(line, style="yellow", markup=False)
            echo_paths((path_of(hit.fields, hit.image_uri) for hit in result), nul=self.nul)
        elif self.table:
            if not self.quiet:
                out().print(_search_results.heading(query, result), soft_wrap=True)
            out().print(_search_results.result_table(result))
            if not self.quiet:
                out().print(_search_results.timing_line(result.timings), style="dim")
            ids = tuple(hit.id for hit in result)
            _options.remember_search(_options.LastSearch(self.address, collection, ids))


async def _run(options: Options, search: _Search, shown: _Shown, page: IO[str] | None) -> int:
    """Search and show the hits; return exit code 1 if some of several queries failed."""
    failed = False
    on_sheet: list[tuple[_queries.Query, SearchResult]] = []
    async with (
        options.open(AsyncSentinelClient) as client,
        aclosing(search.results(client)) as results,
    ):
        async for query, result in results:
            if isinstance(result, SentinelError):
                failed = True
                tell_error(query.title, result)
                continue
            shown.show(query, result, search.collection)
            if page is not None:
                on_sheet.append((query, result))
    if page is not None:
        text = await asyncio.to_thread(_search_results.contact_sheet, on_sheet, search.collection)
        if page.seekable():
            page.truncate(0)
        await asyncio.to_thread(page.write, text)
    return 1 if failed else 0
