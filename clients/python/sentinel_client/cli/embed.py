"""`sentinel embed` and `sentinel rank`: vectors of texts and images, and what fits best."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
from rich.text import Text

from sentinel_client import (
    Box,
    Embedding,
    EmbedOptions,
    ImageUri,
    Q,
    RankedCandidate,
    Role,
    SentinelClient,
    Vector,
)
from sentinel_client.cli import _options, _queries
from sentinel_client.cli._console import (
    Failure,
    Options,
    err,
    explain,
    json_line,
    new_table,
    out,
)

_ATTEMPTS = 5


def _contents(what: str) -> _options.Decorator:
    """Return the options that name images and files of texts."""

    def add(command: Any) -> Any:
        for option in (
            click.option("--model", default="", help="A model's name, if there are several."),
            click.option(
                "-f",
                "--file",
                "lines",
                type=click.File("rb"),
                help=f"{what} in UTF-8, one per line; - reads standard input. Blank lines count "
                "for nothing.",
            ),
            click.option(
                "--crop",
                type=_queries.parse_crop,
                metavar="LEFT,TOP,RIGHT,BOTTOM",
                help="Use only this part of each --image, in fractions.",
            ),
            click.option(
                "--image",
                "images",
                multiple=True,
                type=_queries.parse_image,
                metavar="FILE|URI",
                help="An image; the gateway fetches URIs. Repeatable.",
            ),
        ):
            command = option(command)
        return command

    return add


@click.command()
@click.argument("texts", nargs=-1)
@_contents("Texts")
@click.option(
    "--dimensions",
    type=click.IntRange(1),
    help="Elements to keep of each vector, if the model offers it.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="What the contents are for. Asymmetric models embed the two differently; most models "
    "ignore it.  [default: document]",
)
@click.option("--no-normalize", is_flag=True, help="Keep the length that the model gives a vector.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the vectors to this .npy file: float32, one row for each content. Rows of contents "
    "that failed are NaN.",
)
@click.pass_obj
def embed(
    options: Options,
    /,
    *,
    texts: tuple[str, ...],
    images: tuple[Path | ImageUri, ...],
    crop: Box | None,
    lines: BinaryIO | None,
    model: str,
    dimensions: int | None,
    role: str | None,
    no_normalize: bool,
    output: Path | None,
) -> None:
    """Embed texts and images without storing them: JSON lines, or a NumPy file.

    \b
    sentinel embed "a dog on the beach" "a cat"
    sentinel embed --image a.jpg --image b.jpg -o vectors.npy
    sentinel embed -f - < lines.txt > vectors.jsonl

    Exit code 1 if some of the contents could not be embedded.
    """  # noqa: D301 - a real backspace, for click
    if not (texts or images or lines):
        raise click.UsageError("say what to embed: texts, --image or -f")
    given = _given(texts, images, crop, lines)
    how: EmbedOptions = {"model": model, "normalize": not no_normalize}
    if dimensions is not None:
        how["dimensions"] = dimensions
    if role is not None:
        how["role"] = Role(role)
    pending: deque[_queries.Query] = deque()
    failed = False
    with (
        options.open(SentinelClient, max_attempts=_ATTEMPTS) as client,
        _open_rows(output) as rows,
    ):
        for embedding in client.embed_many(_noted(given, pending), **how):
            query = pending.popleft()
            if embedding.error is not None:
                failed = True
                err().print(f"{query.title}: {explain(embedding.error)}", style="red", markup=False)
            if rows is not None:
                rows.add(embedding.vector)
            elif embedding.vector is not None:
                click.echo(json_line(_record(query, embedding, embedding.vector)))
    raise SystemExit(1 if failed else 0)


def _given(
    texts: tuple[str, ...],
    images: tuple[Path | ImageUri, ...],
    crop: Box | None,
    lines: BinaryIO | None,
) -> Iterator[_queries.Query]:
    if crop is not None and not images:
        raise click.UsageError("--crop is for --image")
    return chain(
        map(_queries.text_query, texts),
        (_queries.image_query(one, crop) for one in images),
        () if lines is None else _queries.stream_queries(lines),
    )


def _noted(given: Iterator[_queries.Query], pending: deque[_queries.Query]) -> Iterator[Q]:
    """Yield what is sent, and keep it until its answer comes."""
    for query in given:
        pending.append(query)
        yield query.sent


def _record(query: _queries.Query, embedding: Embedding, vector: Vector) -> dict[str, Any]:
    record: dict[str, Any] = {query.kind: query.title, "model": embedding.model.model}
    if embedding.truncated:
        record["truncated"] = True
    # Of all numbers that become this float32 again, the shortest.
    record["vector"] = [float(str(element)) for element in vector]
    return record


class _Rows:
    """Writes rows to a .npy file; their number is known at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._dimensions = 0
        self._count = 0

    def add(self, vector: Vector | None) -> None:
        """Write a row; None is one of NaN."""
        self._count += 1
        if vector is not None and not self._dimensions:
            self._dimensions = len(vector)
            self._write_header()
            self._file.write(self._nothing() * (self._count - 1))
        if self._dimensions:
            data = self._nothing() if vector is None else vector.astype("<f4").tobytes()
            self._file.write(data)

    def finish(self) -> None:
        """Write the number of rows."""
        self._file.seek(0)
        self._write_header()

    def _nothing(self) -> bytes:
        return np.full(self._dimensions, np.nan, "<f4").tobytes()

    def _write_header(self) -> None:
        # NumPy leaves room in it for a larger number of rows.
        header = {
            "descr": "<f4",
            "fortran_order": False,
            "shape": (self._count, self._dimensions),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def _open_rows(output: Path | None) -> Iterator[_Rows | None]:
    """Write a file beside `output`, and move it there once it is complete."""
    if output is None:
        yield None
        return
    if output.exists() and not output.is_file():
        raise Failure(f"{output} is no ordinary file; name one")
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from error
    try:
        with file:
            rows = _Rows(file)
            yield rows
            rows.finish()
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--query-image",
    type=_queries.parse_image,
    metavar="FILE|URI",
    help="Rank by how well they match this image; then all texts are candidates.",
)
@_contents("Candidates")
@click.option("--top", type=click.IntRange(0), default=0, help="Most candidates.  [default: all]")
@_options.json_option("candidate")
@click.pass_obj
def rank(
    options: Options,
    /,
    *,
    texts: tuple[str, ...],
    query_image: Path | ImageUri | None,
    images: tuple[Path | ImageUri, ...],
    crop: Box | None,
    lines: BinaryIO | None,
    model: str,
    top: int,
    as_json: bool,
) -> None:
    """Rank texts and images by how well they match a text or an image; the first text is the query.

    \b
    sentinel rank "a dog on the beach" --image a.jpg --image b.jpg
    sentinel rank --query-image pet.jpg "a cat" "a dog" "a bird"

    Exit code 1 if some of the candidates could not be ranked.
    """  # noqa: D301 - a real backspace, for click
    if query_image is None and not texts:
        raise click.UsageError("say what to rank by: a text, or --query-image")
    query = (
        _queries.image_query(query_image, None)
        if query_image is not None
        else _queries.text_query(texts[0])
    )
    candidates = list(_given(texts if query_image is not None else texts[1:], images, crop, lines))
    if not candidates:
        raise click.UsageError("say what to rank: texts, --image or -f")
    with options.open(SentinelClient) as client:
        ranked = client.rank(query.sent, [one.sent for one in candidates], model=model, top_k=top)
    _show(query, [(candidates[one.index], one) for one in ranked], as_json=as_json)
    raise SystemExit(1 if any(one.error for one in ranked) else 0)


def _show(
    query: _queries.Query,
    ranked: Sequence[tuple[_queries.Query, RankedCandidate]],
    *,
    as_json: bool,
) -> None:
    """Print candidates as a table or as JSON lines, and those with an error elsewhere."""
    table = new_table(title=Text(query.heading, style="bold"), title_justify="left")
    for name in ("#", "cosine", "probability"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("candidate")
    for number, (candidate, place) in enumerate(ranked, 1):
        if place.error is not None:
            err().print(f"{candidate.title}: {explain(place.error)}", style="red", markup=False)
        elif as_json:
            record = {
                "rank": number,
                "index": place.index,
                candidate.kind: candidate.title,
                "cosine": place.cosine,
                "probability": place.probability,
            }
            click.echo(json_line(record))
        else:
            numbers = (str(number), f"{place.cosine:.3f}", f"{place.probability:.1%}")
            table.add_row(*numbers, Text(candidate.title))
    if not as_json:
        out().print(table)
