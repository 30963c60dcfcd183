"""Format hits, sizes and other people's text, safely for Markdown and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from sentinel_client import Hit

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&])")
# Streamlit expands :red[…], :material/…: and :smile: after it has removed the backslashes. This
# invisible character after a colon prevents that, and links.
_WORD_JOINER = "\u2060"


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally, in one line."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return re.sub(r":(?=\S)", f":{_WORD_JOINER}", escaped)


def html_table(rows: Mapping[str, str]) -> str:
    """Return names and values as an HTML list, escaped."""
    cells = (f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in rows.items())
    return f'<dl class="fields">{"".join(cells)}</dl>'


def field_value(name: str, value: Any) -> str:
    """Return a field's value as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name in ("bytes", "size") or name.endswith("_bytes")):
        return human_size(value)
    return str(value)


def human_size(byte_count: int) -> str:
    """Return a number of bytes with a unit, in powers of 1,000."""
    size = float(byte_count)
    for unit in ("bytes", "KB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def file_name(hit: Hit) -> str:
    """Return the name of a hit's file; empty if it is unknown."""
    return str(hit.fields.get("path", "")).rpartition("/")[2]


def caption(hit: Hit) -> str:
    """Return the text that describes a hit best: a caption, its text or its file's name."""
    for name in ("caption", "title", "captions", "description"):
        value = hit.fields.get(name)
        if value:
            return str(value[0]) if isinstance(value, list) else str(value)
    return hit.text or file_name(hit)


def title(hit: Hit) -> str:
    """Return the name of a hit's file, or else its caption or its id."""
    return file_name(hit) or caption(hit)[:80] or hit.id[:12]
