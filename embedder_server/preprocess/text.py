"""Checks texts before they reach a tokenizer and keeps out what tokenizers choke on."""

from __future__ import annotations

import unicodedata

from sentinel_core.errors import InvalidArgument

# Space, line and paragraph separators, control and format characters: nothing to embed.
_BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def clean_text(text: str, max_chars: int) -> str:
    """Return `text` as any tokenizer can take it: no NUL, no lone surrogates.

    Raises:
        InvalidArgument: TEXT_TOO_LONG or TEXT_EMPTY.
    """
    if len(text) > max_chars:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {len(text)} characters; at most {max_chars} are read. "
            "Split it into passages.",
            limit=max_chars,
        )
    # Nearly every text begins with a letter or a digit, and then holds something to embed.
    if not text[:1].isalnum() and all(unicodedata.category(char) in _BLANK for char in text):
        raise InvalidArgument("TEXT_EMPTY", "the text is empty or blank; leave it out")
    if not text.isascii():
        # Protobuf lets no lone surrogate in, but a caller in this process might.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ")
