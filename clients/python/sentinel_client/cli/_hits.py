"""Hits for a terminal and for a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rich import box
from rich.table import Table
from rich.text import Text

from sentinel_client._search_types import Hit, SearchResult, SearchTimings
from sentinel_client.cli._console import milliseconds, out, short_path
from sentinel_client.cli._queries import Query

_BAR = 8
_ID_CHARS = 12
# Of the table: the other columns with a rank of four digits, and the room between columns.
_OTHER_CHARS = 4 + 7 + _BAR + _ID_CHARS + 11
_LEAST_FILE_CHARS = 16


def path_of(hit: Hit) -> str:
    """Return where the item came from: the indexed path, else the stored picture's URI, or ""."""
    path = hit.fields.get("path")
    return path if isinstance(path, str) and path else hit.image_uri


def local_uri(hit: Hit) -> str | None:
    """Return a `file:` link to the indexed file, or None if the item has no absolute path."""
    path = hit.fields.get("path")
    if isinstance(path, str) and Path(path).is_absolute():
        return Path(path).as_uri()
    return None


def table(query: Query, result: SearchResult) -> Table:
    """Return the hits of one query."""
    found = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(query.heading, style="bold"),
        title_justify="left",
        caption=None if result.hits else Text("nothing found", style="dim"),
        caption_justify="left",
    )
    found.add_column("#", justify="right", style="dim", no_wrap=True)
    found.add_column("score", no_wrap=True)
    # What has no room is cut here; left to itself, the table would take it from all columns.
    room = max(_LEAST_FILE_CHARS, out().width - _OTHER_CHARS)
    found.add_column("file", overflow="ellipsis", no_wrap=True, max_width=room)
    found.add_column("id", style="dim", no_wrap=True)
    best = max((hit.score for hit in result.hits), default=0.0)
    for hit in result.hits:
        found.add_row(str(hit.rank), _score(hit.score, best), _what(hit), hit.id[:_ID_CHARS])
    return found


def _score(score: float, best: float) -> Text:
    """Return the number and a bar relative to the best hit, which is what the eye compares."""
    filled = round(_BAR * max(0.0, score) / best) if best > 0 else 0
    return Text.assemble(
        (f"{score:6.3f} ", "bold"), ("━" * filled, "green"), ("─" * (_BAR - filled), "bright_black")
    )


def _what(hit: Hit) -> Text:
    path = path_of(hit)
    if not path:
        return Text(" ".join(hit.text.split()) or hit.id)
    uri = local_uri(hit)
    short = PurePosixPath(short_path(path))
    name = Text(short.name, style=f"bold link {uri}" if uri else "bold")
    folder = str(short.parent)
    return Text.assemble(name, ("" if folder == "." else f"  {folder}", "dim"))


def timing_line(timings: SearchTimings) -> str:
    """Return where the time went, in one line."""
    parts = [f"{milliseconds(timings.total)} total"]
    if timings.embed is not None:
        stages = [
            f"{name} {milliseconds(seconds)}"
            for name, seconds in (
                ("queue", timings.embed_queue),
                ("inference", timings.embed_inference),
            )
            if seconds is not None
        ]
        inside = f" ({', '.join(stages)})" if stages else ""
        parts.append(f"embed {milliseconds(timings.embed)}{inside}")
    if timings.vector_search is not None:
        parts.append(f"Milvus {milliseconds(timings.vector_search)}")
    return " · ".join(parts)


def json_lines(query: Query, result: SearchResult) -> Iterator[str]:
    """Yield one JSON object per hit."""
    for hit in result:
        fields = {
            "query": query.title,
            "query_kind": query.kind,
            "rank": hit.rank,
            "id": hit.id,
            "score": round(hit.score, 6),
            "path": path_of(hit) or None,
            "image_uri": hit.image_uri or None,
            "text": hit.text or None,
            "fields": dict(hit.fields),
        }
        yield json.dumps(fields, ensure_ascii=False)
