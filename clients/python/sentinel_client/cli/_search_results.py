"""Show the hits of a search: as a table, as JSON lines, or as a contact sheet in HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from string import Template

from rich.table import Table
from rich.text import Text

from sentinel_client import Hit, SearchResult, SearchTimings
from sentinel_client.cli._console import (
    SHORT_ID_CHARS,
    json_line,
    milliseconds,
    new_table,
    out,
    short_path,
)
from sentinel_client.cli._matches import BAR_CHARS, bar, percent, remarks
from sentinel_client.cli._queries import Query

# The other columns of the table, with a rank of four digits, and the space between columns.
_OTHER_CHARS = 4 + 7 + BAR_CHARS + SHORT_ID_CHARS + 11
_MIN_FILE_CHARS = 16
_WIDTH_WITH_ID, _WIDTH_WITH_BAR = 72, 56
# The contact sheet contains the image of a query as it is, because nothing here can resize it.
_MAX_QUERY_IMAGE_BYTES = 4 * 1024 * 1024
_MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}


def result_table(result: SearchResult) -> Table | Text:
    """Return the hits as a table that fits: narrow ones leave out the id, the bar, the folder."""
    if not result.hits:
        return Text("nothing found", style="dim")
    width = out().width
    with_id = width >= _WIDTH_WITH_ID
    with_bar = width >= _WIDTH_WITH_BAR and any(hit.match for hit in result)
    table = new_table()
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    table.add_column("score", no_wrap=True)
    # Cut long paths here; otherwise the table would shrink all columns.
    others = _OTHER_CHARS - (not with_id) * (SHORT_ID_CHARS + 2) - (not with_bar) * BAR_CHARS
    room = max(_MIN_FILE_CHARS if width >= _WIDTH_WITH_BAR else 1, width - others)
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=room)
    if with_id:
        table.add_column("id", style="dim", no_wrap=True)
    for hit in result.hits:
        score = Text(f"{hit.score:6.3f}", "bold")
        if with_bar:
            score = Text.assemble(score, " ", bar(hit))
        more = [hit.id[:SHORT_ID_CHARS]] if with_id else []
        table.add_row(str(hit.rank), score, _file_or_text(hit), *more)
    return table


def heading(query: Query, result: SearchResult) -> Text:
    """Return the lines above the hits: what was searched for, and what to know about it."""
    lines = [Text(query.heading, style="bold")]
    lines += (Text(line, style="yellow") for line in remarks(result))
    return Text("\n").join(lines)


def timing_line(timings: SearchTimings) -> str:
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
    for hit in result:
        fields = {
            "query": query.title,
            "query_kind": query.kind,
            "rank": hit.rank,
            "id": hit.id,
            "score": round(hit.score, 6),
            "match": hit.match.value if hit.match else None,
            "path": _path(hit) or None,
            "image_uri": hit.image_uri or None,
            "text": hit.text or None,
            "fields": dict(hit.fields),
            "notices": [
                {"kind": notice.kind.value, "message": notice.message} for notice in result.notices
            ],
        }
        yield json_line(fields)


def contact_sheet(results: Sequence[tuple[Query, SearchResult]], collection: str) -> str:
    """Return one HTML page with all hits and thumbnails, without scripts; all text is escaped."""
    hits = sum(len(result) for _, result in results)
    models = {result.model.model for _, result in results if result.model.model}
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
    single = len(results) == 1
    title = results[0][0].heading if single else f"{len(results):,} searches"
    contents = ""
    if not single:
        links = (
            f'<a href="#q{number}">{html.escape(query.heading)}</a>'
            for number, (query, _) in enumerate(results, 1)
        )
        contents = f"<nav>{''.join(links)}</nav>"
    page = Path(__file__).with_name("contact_sheet.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        title=html.escape(f"{title} · Sentinel"),
        name=html.escape("Sentinel" if single else f"Sentinel · {title}"),
        about=html.escape(" · ".join([_count(hits, ","), collection, *sorted(models), now])),
        contents=contents,
        sections="\n".join(
            _section(number, query, result) for number, (query, result) in enumerate(results, 1)
        ),
    )


def _section(number: int, query: Query, result: SearchResult) -> str:
    cards = "\n".join(_card(hit) for hit in result)
    said = "".join(f'<p class="remark">{html.escape(line)}</p>\n' for line in remarks(result))
    grid = f'<div class="grid">\n{cards}\n</div>' if cards else '<p class="none">Nothing found.</p>'
    return f"""<section id="q{number}">
<div class="query">{_query_image(query)}<div><h2>{html.escape(query.heading)}</h2>
<p>{_count(len(result))} in {milliseconds(result.timings.total)}</p></div></div>
{said}{grid}
</section>"""


def _query_image(query: Query) -> str:
    if query.file is None:  # only the gateway fetches URIs
        return ""
    media_type = _MEDIA_TYPES.get(query.file.suffix.lower())
    if media_type is None or query.file.stat().st_size > _MAX_QUERY_IMAGE_BYTES:
        return ""
    return f'<img src="{_data_uri(media_type, query.file.read_bytes())}" alt="the query">'


def _card(hit: Hit) -> str:
    path = PurePosixPath(short_path(_path(hit)))
    name = path.name or hit.id[:SHORT_ID_CHARS]
    folder = "" if str(path.parent) == "." else str(path.parent)
    if hit.thumbnail:
        source = _data_uri("image/webp", hit.thumbnail)
        picture = f'<img src="{source}" alt="{html.escape(name)}" loading="lazy">'
    else:
        picture = f'<div class="words">{html.escape(hit.text[:600])}</div>'
    below = html.escape(folder) or "&nbsp;"
    uri = _file_uri(hit)
    if uri is not None:
        picture = f'<a href="{html.escape(uri)}" style="height:100%">{picture}</a>'
    match, scale = "", ""
    if hit.match is not None:
        match = f" {hit.match.value}"
        scale = f'<div class="bar"><i style="width:{percent(hit.match)}%"></i></div>\n'
    return f"""<figure title="{html.escape(_path(hit) or hit.id)}">
<div class="well">{picture}<span class="rank">{hit.rank}</span>\
<span class="score">{hit.score:.3f}{match}</span></div>
{scale}<figcaption><b>{html.escape(name)}</b><span>{below}</span></figcaption>
</figure>"""


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _count(hits: int, separator: str = "") -> str:
    return f"{hits:{separator}} {'hit' if hits == 1 else 'hits'}"


def _file_or_text(hit: Hit) -> Text:
    path = _path(hit)
    if not path:
        return Text(" ".join(hit.text.split()) or hit.id)
    uri = _file_uri(hit)
    short = PurePosixPath(short_path(path))
    name = Text(short.name, style=f"bold link {uri}" if uri else "bold")
    folder = str(short.parent)
    return Text.assemble(name, ("" if folder == "." else f"  {folder}", "dim"))


def _path(hit: Hit) -> str:
    """Return the path of the indexed file, else the URI of the stored image, else ""."""
    path = hit.fields.get("path")
    return path if isinstance(path, str) and path else hit.image_uri


def _file_uri(hit: Hit) -> str | None:
    """Return a `file:` link to the indexed file, or None if the item has no absolute path."""
    path = hit.fields.get("path")
    if isinstance(path, str) and Path(path).is_absolute():
        return Path(path).as_uri()
    return None
