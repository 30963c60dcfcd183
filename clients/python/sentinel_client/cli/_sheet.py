"""The contact sheet: one HTML file with everything in it, thumbnails too, and no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath

from sentinel_client._search_types import Hit, SearchResult
from sentinel_client.cli._console import milliseconds, short_path
from sentinel_client.cli._hits import local_uri, path_of
from sentinel_client.cli._queries import Query

# A query's own picture is embedded as it is, since nothing here can shrink it.
_MAX_QUERY_IMAGE_BYTES = 4 * 1024 * 1024
_MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="generator" content="Sentinel">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p>{about}</p>
{contents}
</header>
<main>
{sections}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark;
  --paper: #f6f5f2; --card: #fff; --ink: #1c1b19; --soft: #77736b; --line: #e4e1da;
  --accent: #b4541a; --well: #ebe8e1; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #141414; --card: #1e1e1f; --ink: #eeebe5; --soft: #98938a; --line: #2e2d2c;
  --accent: #f0945a; --well: #262626; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 2.5rem clamp(1rem, 4vw, 3.5rem) 5rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header h1 { margin: 0; font-size: 1.15rem; letter-spacing: .01em; }
header p { margin: .15rem 0 0; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: 1.2rem; }
nav a { padding: .2rem .75rem; border: 1px solid var(--line); border-radius: 99px;
  background: var(--card); color: inherit; text-decoration: none; font-size: .87rem; }
nav a:hover { border-color: var(--accent); color: var(--accent); }
section { margin-top: 3rem; scroll-margin-top: 1rem; }
.query { display: flex; align-items: center; gap: 1.1rem; padding-bottom: .9rem;
  margin-bottom: 1.3rem; border-bottom: 1px solid var(--line); }
.query img { width: 92px; height: 92px; object-fit: cover; border-radius: 12px; }
h2 { margin: 0; font-size: clamp(1.35rem, 3vw, 1.9rem); line-height: 1.2; font-weight: 650;
  letter-spacing: -.015em; overflow-wrap: anywhere; }
.query p { margin: .3rem 0 0; color: var(--soft); font-size: .9rem; }
.grid { display: grid; gap: 1.1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(210px, 44vw), 1fr)); }
figure { margin: 0; overflow: hidden; border: 1px solid var(--line); border-radius: 14px;
  background: var(--card); transition: transform .15s, box-shadow .15s; }
figure:hover { transform: translateY(-3px); box-shadow: 0 10px 28px rgb(0 0 0 / .16); }
figure a { display: block; }
.well { position: relative; aspect-ratio: 1; background: var(--well); }
.well img { width: 100%; height: 100%; display: block; object-fit: contain; }
.well .words { position: absolute; inset: 0; overflow: hidden; padding: 2.6rem 1rem 1rem;
  font-family: Georgia, serif; color: var(--ink); }
.rank, .score { position: absolute; top: .55rem; padding: .06rem .5rem; border-radius: 99px;
  background: rgb(0 0 0 / .62); color: #fff; font-size: .76rem;
  font-variant-numeric: tabular-nums; }
.rank { left: .55rem; } .score { right: .55rem; font-weight: 650; }
.bar { height: 3px; background: var(--line); } .bar i { display: block; height: 100%;
  background: var(--accent); }
figcaption { padding: .6rem .8rem .75rem; font-size: .87rem; }
figcaption b, figcaption span { display: block; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; font-weight: 600; }
figcaption span { color: var(--soft); font-size: .79rem; font-weight: 400; }
.none { color: var(--soft); font-style: italic; }
@media print { figure { break-inside: avoid; } nav { display: none; } }
"""


def render(results: Sequence[tuple[Query, SearchResult]], collection: str) -> str:
    """Return the page for the queries and their hits; every text in it is escaped."""
    when = datetime.now().astimezone()
    hits = sum(len(result) for _, result in results)
    models = {result.model.model for _, result in results if result.model.model}
    about = [
        f"{hits:,} {'hit' if hits == 1 else 'hits'}",
        collection,
        *sorted(models),
        f"{when:%Y-%m-%d %H:%M}",
    ]
    single = len(results) == 1
    title = results[0][0].heading if single else f"{len(results):,} searches"
    name = "Sentinel" if single else f"Sentinel · {title}"
    contents = ""
    if not single:
        links = (
            f'<a href="#q{number}">{html.escape(query.heading)}</a>'
            for number, (query, _) in enumerate(results, 1)
        )
        contents = f"<nav>{''.join(links)}</nav>"
    return _PAGE.format(
        title=html.escape(f"{title} · Sentinel"),
        name=html.escape(name),
        style=_STYLE,
        about=html.escape(" · ".join(about)),
        contents=contents,
        sections="\n".join(
            _section(number, query, result) for number, (query, result) in enumerate(results, 1)
        ),
    )


def _section(number: int, query: Query, result: SearchResult) -> str:
    best = max((hit.score for hit in result), default=0.0)
    cards = "\n".join(_card(hit, best) for hit in result)
    grid = f'<div class="grid">\n{cards}\n</div>' if cards else '<p class="none">Nothing found.</p>'
    count = f"{len(result)} {'hit' if len(result) == 1 else 'hits'}"
    return f"""<section id="q{number}">
<div class="query">{_query_image(query)}<div><h2>{html.escape(query.heading)}</h2>
<p>{count} in {milliseconds(result.timings.total)}</p></div></div>
{grid}
</section>"""


def _query_image(query: Query) -> str:
    if not isinstance(query.image, Path):  # one that only the gateway fetches is not shown
        return ""
    media_type = _MEDIA_TYPES.get(query.image.suffix.lower())
    if media_type is None or query.image.stat().st_size > _MAX_QUERY_IMAGE_BYTES:
        return ""
    return f'<img src="{_data_uri(media_type, query.image.read_bytes())}" alt="the query">'


def _card(hit: Hit, best: float) -> str:
    path = PurePosixPath(short_path(path_of(hit)))
    name = path.name or hit.id[:12]
    folder = "" if str(path.parent) == "." else str(path.parent)
    if hit.thumbnail:
        source = _data_uri("image/webp", hit.thumbnail)
        picture = f'<img src="{source}" alt="{html.escape(name)}" loading="lazy">'
    else:
        picture = f'<div class="words">{html.escape(hit.text[:600])}</div>'
    uri = local_uri(hit)
    if uri is not None:
        picture = f'<a href="{html.escape(uri)}" style="height:100%">{picture}</a>'
    width = round(100 * max(0.0, hit.score) / best) if best > 0 else 0
    return f"""<figure title="{html.escape(path_of(hit) or hit.id)}">
<div class="well">{picture}<span class="rank">{hit.rank}</span>\
<span class="score">{hit.score:.3f}</span></div>
<div class="bar"><i style="width:{width}%"></i></div>
<figcaption><b>{html.escape(name)}</b><span>{html.escape(folder) or "&nbsp;"}</span></figcaption>
</figure>"""


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
