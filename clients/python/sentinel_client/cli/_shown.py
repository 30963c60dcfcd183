"""The ids of hits shown lately, so that `--like` takes the short ones of the table.

A small text file in the user's cache folder; without it, `--like` takes whole ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from sentinel_client.cli._console import cache_folder

_KEPT = 2_000


def remember(ids: Sequence[str]) -> None:
    """Keep these ids, newest first."""
    with suppress(OSError):
        kept = dict.fromkeys([one for one in ids if "\n" not in one] + _known())
        _path().parent.mkdir(parents=True, exist_ok=True)
        _path().write_text("\n".join(list(kept)[:_KEPT]), encoding="utf-8")


def full_id(given: str) -> str:
    """Return the one shown id that begins with `given`, else `given` itself.

    Raises:
        click.UsageError: Several begin so.
    """
    known = _known()
    if given in known:
        return given
    matches = [one for one in known if one.startswith(given)]
    if len(matches) > 1:
        raise click.UsageError(f"several hits have an id that begins with {given!r}: give more")
    return matches[0] if matches else given


def _known() -> list[str]:
    try:
        return _path().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _path() -> Path:
    return cache_folder() / "shown-ids"
