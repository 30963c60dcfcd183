"""Clean texts before a tokenizer reads them, each way as the model's training did it."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

from embedder_server.texts.tokenizer import Clean, canonical
from embedder_server.types import ModelLoadError

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaning(name: str) -> Clean:
    """Return the cleaning of a recipe.

    Args:
        name: `none`, `lower` or `canonical` of transformers; `whitespace`, `lower` or
            `canonicalize` of open_clip, with `open_clip_` before it.

    Raises:
        ModelLoadError: open_clip's cleaning needs a package that is not installed.
    """
    simple: dict[str, Clean] = {"none": str, "lower": str.lower, "canonical": canonical}
    if name in simple:
        return simple[name]
    repaired = _repair()
    of_open_clip: dict[str, Clean] = {
        "open_clip_whitespace": lambda text: _one_line(repaired(text)),
        "open_clip_lower": lambda text: _one_line(repaired(text)).lower(),
        "open_clip_canonicalize": lambda text: _canonicalized(repaired(text)),
    }
    return of_open_clip[name]


def _repair() -> Callable[[str], str]:
    """Return what open_clip does first: mend wrongly decoded text, then resolve HTML entities."""
    try:
        import ftfy
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            "this model's texts are cleaned with ftfy: pip install '.[embedder]' in Sentinel's "
            "folder"
        ) from exc

    def repaired(text: str) -> str:
        return html.unescape(html.unescape(ftfy.fix_text(text))).strip()

    return repaired


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _canonicalized(text: str) -> str:
    return _one_line(text.replace("_", " ").translate(_PUNCTUATION).lower())
