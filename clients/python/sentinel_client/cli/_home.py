"""Where the library of this machine is: its home.

Every command finds the same one, whatever folder it runs in:

    1  --data, or the variable SENTINEL_DATA
    2  the home folder of this user, if it has a library
    3  the library that the home folder names, in its file `library-folder`
    4  ./sentinel-data, where older versions kept it; `sentinel up` has the home folder name it
    5  the home folder, for a new library

So a library of an older version stays where it is and becomes the one library. A command makes a
second one only if you name its folder. If there are two, it says which one it uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import platformdirs

from sentinel_client.cli._console import Failure, short_path

HOME_VARIABLE = "SENTINEL_DATA"
_OLD_NAME = "sentinel-data"
_POINTER = "library-folder"
# What any `sentinel up` has left in its folder.
_MARKS = ("milvus.db", "run", "objects", "models.json")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a library, and what a person should know about the choice; else empty."""

    folder: Path
    note: str = ""

    @property
    def exists(self) -> bool:
        """Whether it has a library."""
        return _has_library(self.folder)


def data_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --data; pass its value to `find_home`."""
    return click.option(
        "--data",
        envvar=HOME_VARIABLE,
        show_envvar=True,
        type=click.Path(file_okay=False, path_type=Path),
        help=f"{text}  [default: {_shown_home()}]",
    )


def home_folder() -> Path:
    """Return the home folder of this user; it may not exist yet.

    Raises:
        Failure: The system does not know this user, as in some containers.
    """
    try:
        return platformdirs.user_data_path("sentinel", appauthor=False)
    except RuntimeError:
        raise Failure(
            f"there is no home folder: set HOME, or name the library with --data or {HOME_VARIABLE}"
        ) from None


def _shown_home() -> str:
    try:
        return short_path(str(home_folder()))
    except Failure:  # the command says so if it needs one
        return "~/.local/share/sentinel"


def find_home(given: Path | None, *, adopt: bool = False) -> Home:
    """Return the library's home.

    Args:
        given: The value of --data.
        adopt: Have every folder find a library of an older version that is in this one.

    Raises:
        Failure: The home folder names a library that is not there.
    """
    if given is not None:
        return Home(Path(os.path.abspath(given.expanduser())))
    home, old = home_folder(), Path(_OLD_NAME)
    with suppress(OSError):  # this folder may be deleted
        old = old.absolute()
    named = None if _has_library(home) else _named(home)
    chosen = named or home
    if not _has_library(old) or _same(old, chosen):
        return Home(chosen)
    if _has_library(chosen):
        return Home(chosen, f"this folder has another library: `--data {_OLD_NAME}` uses that one")
    if not adopt:
        return Home(old)
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / _POINTER).write_text(f"{old}\n", encoding="utf-8")
    except OSError:  # it stays the library of this folder, as before
        return Home(old)
    return Home(old, f"every folder uses this library from now on; {home / _POINTER} names it")


def _named(home: Path) -> Path | None:
    """Return the library that the home folder names; None: none."""
    try:
        folder = Path((home / _POINTER).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return None
    if not folder.is_dir():
        raise Failure(
            f"your library is {folder}, which is not there: is its disk connected? If you have "
            f"moved it, name its new place in {home / _POINTER}; to begin anew, delete that file"
        )
    return folder


def _has_library(folder: Path) -> bool:
    return any((folder / name).exists() for name in _MARKS)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
