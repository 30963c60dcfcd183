"""Decide which files and folders of a photo library are no pictures of its owner, and say why."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sentinel_client.importers.dataset import LayoutError

RAW_EXTENSIONS = frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw"})
IMAGE_EXTENSIONS = RAW_EXTENSIONS | frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".heic", ".heif", ".hif", ".avif", ".jxl"),
    }
)
SIDECAR_EXTENSION = ".xmp"

# Why something is left out; the summary shows these words.
NOT_PICTURES = "not pictures"
HIDDEN = "hidden"
SYSTEM = "of programs, not yours"
EXCLUDED = "excluded"
EMPTY = "empty"
UNFINISHED = "unfinished downloads"
BESIDE_PICTURE = "RAW beside a picture of the same name"

_SYSTEM_FOLDERS = frozenset(
    name.casefold()
    for name in (
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),  # NAS
        *("$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"),
    )
)
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})
_UNFINISHED = frozenset({".part", ".crdownload", ".tmp", ".partial", ".download"})
# Packages of Apple Photos and iPhoto: the folders with the originals. The rest is derived.
_PACKAGES = (".photoslibrary", ".photolibrary")
_ORIGINALS = frozenset({"originals", "masters"})
# Other endings that get a number of their own in the summary; the rest counts as one.
_MAX_KINDS = 1_000


class LeftOut:
    """Rules of what a walk leaves out, and how often each was used."""

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        """Read the patterns of `exclude`, which are written as in a .gitignore file.

        Raises:
            LayoutError: A pattern is wrong, or the package that reads them is missing.
        """
        self.counts: Counter[tuple[str, str]] = Counter()  # by what and why
        self._patterns = _patterns(exclude) if exclude else None

    def add(self, what: str, why: str) -> None:
        """Count something that is left out: an ending such as `.mov`, or a folder's name."""
        if (what, why) in self.counts or len(self.counts) < _MAX_KINDS:
            self.counts[what, why] += 1
        else:
            self.counts["other files", why] += 1

    def folder(self, name: str, parent: str, relative: str) -> bool:
        """Tell whether a folder is left out, and count it. `relative` is its path in the root."""
        why = ""
        if parent.lower().endswith(_PACKAGES) and name.lower() not in _ORIGINALS:
            why, name = SYSTEM, f"{name} of Apple Photos"
        elif name.startswith("."):
            why = HIDDEN
        elif name.casefold() in _SYSTEM_FOLDERS or name.lower().endswith(".lrdata"):
            why = SYSTEM
        elif self._excludes(f"{relative}/"):
            why = EXCLUDED
        if why:
            self.add(f"{name}/", why)
        return bool(why)

    def file(self, name: str, relative: str) -> bool:
        """Tell whether a file is left out because of its name, and count it."""
        _stem, ending = os.path.splitext(name)
        ending = ending.lower()
        if name.startswith("."):
            self.add("files", HIDDEN)
        elif ending == SIDECAR_EXTENSION:
            return True  # it is read together with its picture
        elif ending in _UNFINISHED:
            self.add(ending, UNFINISHED)
        elif name.lower() in _SYSTEM_FILES:
            self.add(name, SYSTEM)
        elif ending not in IMAGE_EXTENSIONS:
            self.add(ending or "files without an ending", NOT_PICTURES)
        elif self._excludes(relative):
            self.add(ending, EXCLUDED)
        else:
            return False
        return True

    def _excludes(self, relative: str) -> bool:
        return self._patterns is not None and self._patterns.match_file(relative)

    def summary(self) -> str:
        """Return one line: how many of which kind, grouped by the reason; empty: nothing."""
        by_reason: dict[str, list[str]] = {}
        for (what, why), count in sorted(self.counts.items(), key=lambda pair: -pair[1]):
            by_reason.setdefault(why, []).append(f"{count:,} {_counted(what, count)}")
        groups = [f"{', '.join(_first(kinds))} ({why})" for why, kinds in by_reason.items()]
        return "; ".join(groups)


def _counted(what: str, count: int) -> str:
    # An ending has a dot, a folder a slash; only our own words are plurals.
    is_ours = what in ("files", "other files", "files without an ending")
    return what.replace("files", "file") if is_ours and count == 1 else what


def _first(kinds: list[str], most: int = 8) -> list[str]:
    more = len(kinds) - most
    return kinds if more <= 0 else [*kinds[:most], f"{more} more kinds"]


def _patterns(exclude: Sequence[str]) -> Any:
    if importlib.util.find_spec("pathspec") is None:
        raise LayoutError(
            "--exclude needs pathspec: pip install 'sentinel-retrieval-client[photos]'"
        )
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - an extra

    try:
        return GitIgnoreSpec.from_lines(exclude)
    except ValueError as error:
        raise LayoutError(f"--exclude: {error}") from None
