"""Text as it can be stored, sent and shown: file names, arguments and items may hold anything."""

from __future__ import annotations

import unicodedata


def valid_text(text: str) -> str:
    """Return a text as valid Unicode; a file name or an argument on Linux can be any bytes."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # not from bytes, but from an escape such as \ud83d
        return text.encode("utf-8", "replace").decode()


def printable(text: str) -> str:
    r"""Return a text with escapes such as `\x1b` for what would command a terminal.

    Line feeds and tabs stay. Besides control characters, those are the marks that turn the
    direction of writing, with which a name can look like another one.
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if " " <= character <= "~" or character in "\n\t":
        return character
    if unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS:
        return ascii(character)[1:-1]
    return character


_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
