r"""Have Milvus Lite read LIKE patterns as Milvus servers do, in every expression.

There a backslash makes the next character plain. Lite 3.2.2 has two functions for patterns: one of
Arrow's, which takes the backslashes of `%back\\slash%` as they are but not those of `%100\%%`, and
one that goes row by row, for expressions over JSON, which knows no backslash. Ours stand in their
place.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import pyarrow.compute
from milvus_lite.search.filter.eval import arrow_backend, python_backend

_PARTS = re.compile(r"\\(?P<plain>.)|(?P<any>%)|(?P<one>_)|(?P<other>.)", re.DOTALL)


class _Compute:
    """Arrow's functions, with our `match_like`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pyarrow.compute, name)

    def match_like(self, values: Any, pattern: str) -> Any:
        """Tell which strings of an Arrow array match `pattern` as a whole."""
        return pyarrow.compute.match_substring_regex(values, rf"\A(?s:{_regex(pattern)})\z")


def _for_python(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?s:{_regex(pattern)})\Z")


def _regex(pattern: str) -> str:
    """Return a pattern as a regular expression of Python and of Arrow."""
    return "".join(map(_part, _PARTS.finditer(pattern)))


def _part(match: re.Match[str]) -> str:
    if match["any"]:
        return ".*"
    if match["one"]:
        return "."
    char = match["plain"] or match["other"]
    return char if char.isalnum() or not char.isascii() else rf"\x{ord(char):02x}"


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    arrow_backend.pc = _Compute()
    python_backend._like_to_regex = _for_python
