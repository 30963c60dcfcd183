"""Have Milvus Lite read LIKE patterns the same way in every expression.

Lite 3.2.2 evaluates most expressions with Arrow, where a backslash makes the next character plain,
as it does in Milvus servers. Expressions over JSON go row by row through another function, which
knows no backslash; ours stands in its place.
"""

from __future__ import annotations

import functools
import re

from milvus_lite.search.filter.eval import python_backend

_PARTS = re.compile(r"\\(?P<plain>.)|(?P<any>%)|(?P<one>_)|(?P<other>.)", re.DOTALL)


def to_regex(pattern: str) -> re.Pattern[str]:
    """Return a LIKE pattern as a regular expression for whole strings."""
    parts = (_part(match) for match in _PARTS.finditer(pattern))
    return re.compile(rf"{''.join(parts)}\Z", re.DOTALL)


def _part(match: re.Match[str]) -> str:
    if match["any"]:
        return ".*"
    if match["one"]:
        return "."
    return re.escape(match["plain"] or match["other"])


@functools.cache
def install() -> None:
    """Put the function in place, for this process."""
    python_backend._like_to_regex = to_regex
