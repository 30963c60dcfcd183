r"""Have Milvus Lite read LIKE patterns as Milvus servers do, in every expression.

There a backslash makes the next character plain. Lite 3.2.2 has two functions for patterns: one of
Arrow's, which takes the backslashes of `%back\\slash%` as they are but not those of `%100\%%`, and
one that goes row by row, for expressions over JSON, which knows no backslash. Ours stand in their
place.

They only know a text between two `%`, which is all that our filters ask for, and look for it
without a regular expression: that would take minutes for a long text.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import pyarrow.compute
from milvus_lite.search.filter.eval import arrow_backend, python_backend

_CONTAINING = re.compile(r"%((?:\\.|[^\\%_])*)%", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class _Compute:
    """Arrow's functions, with our `match_like`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pyarrow.compute, name)

    def match_like(self, values: Any, pattern: str) -> Any:
        """Tell which strings of an Arrow array match `pattern` as a whole."""
        return pyarrow.compute.match_substring(values, _text(pattern))


@dataclass(frozen=True, slots=True)
class _Containing:
    """Stands in for a regular expression."""

    text: str

    def match(self, value: str) -> bool | None:
        """Tell whether `value` has the text; None if not, as regular expressions do."""
        return self.text in value or None


def _for_python(pattern: str) -> _Containing:
    return _Containing(_text(pattern))


def _text(pattern: str) -> str:
    """Return the text of a pattern; raise ValueError for a pattern of another kind."""
    found = _CONTAINING.fullmatch(pattern)
    if found is None:
        raise ValueError(f"Milvus Lite takes LIKE with a text between two % only, not {pattern!r}")
    return _ESCAPED.sub(r"\1", found[1])


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    arrow_backend.pc = _Compute()
    python_backend._like_to_regex = _for_python
