"""Text of others inside of Markdown: file names, captions and errors are shown as they are."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&])")
# Streamlit reads :red[…], :material/…: and :smile: after the backslashes are gone; a character
# without width keeps the colon from being the start of one, or of a link.
_WORD_JOINER = "\u2060"


def plain(text: str) -> str:
    """Return Markdown that shows `text`, and nothing of what it may look like."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return re.sub(r":(?=\S)", f":{_WORD_JOINER}", escaped)
