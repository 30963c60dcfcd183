"""What all commands share: the client, error messages, consoles, and formats for people."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    GeoPoint,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    Tls,
)
from sentinel_client._text import printable

ClientT = TypeVar("ClientT", SentinelClient, AsyncSentinelClient)

# Characters of an id in a table; commands accept these short ids.
SHORT_ID_CHARS = 12
# A pipe has no window width; narrow columns would only cut paths.
_PIPE_WIDTH = 200

_ESCAPED_IN_JSON = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Advice for errors whose own message does not say what to do.
_HINTS = {
    "UNREACHABLE": "start one with `sentinel up`, or name it with --address or SENTINEL_ADDRESS",
    "NO_HEALTHY_WORKER": "is an embedder running? Check with `sentinel health`",
    "COLLECTION_NOT_FOUND": "`sentinel collections` lists them, `sentinel index` creates one",
    "MODEL_MISMATCH": "index into another --collection, or start the embedder with its old model",
    "CONFIRMATION_OUTDATED": "run the command again",
    "CREDENTIALS_MISSING": "put it into SENTINEL_API_KEY, or its file into SENTINEL_API_KEY_FILE",
    "OUT_OF_TIME": "is the server overloaded? Try again",
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options before the command."""

    address: str
    tls: Tls | None = None

    def open(self, client: type[ClientT], *, max_attempts: int = 3) -> ClientT:
        """Return a client of this kind; by default one that soon fails if no gateway answers."""
        config = ClientConfig(retry=RetryPolicy(max_attempts=max_attempts), tls=self.tls)
        try:
            return client(self.address, config=config)
        except ValueError as error:
            raise Failure(str(error)) from error


class Failure(click.ClickException):
    """The command failed: one line on stderr, exit code 2."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.secho(f"sentinel: {self.message}", file=file or sys.stderr, fg="red")


def explain(error: SentinelError) -> str:
    """Return one line: what is wrong, the reason's name, what to do."""
    line = " ".join(f"{error.message.rstrip('.')} [{error.reason}]".split())
    hint = error_hint(error)
    return f"{line}: {hint}" if hint else line


def error_hint(error: SentinelError) -> str:
    """Return what to do about an error whose own message does not say it; else an empty text."""
    return _HINTS.get(error.reason, "")


def require_modules(names: Sequence[str], subject: str, install: str) -> None:
    """Fail if an optional part of Sentinel is not installed; `install` says how to."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"{subject} not installed ({', '.join(missing)} missing): {install}")


def install_servers(extra: str) -> str:
    """Return how to install an extra of the servers: of the client's own version, so with it."""
    return f"pip install ./clients/python '.[{extra}]' in Sentinel's folder"


def out() -> Console:
    """Return a console for results."""
    return _console(sys.stdout)


def err(*, quiet: bool = False) -> Console:
    """Return a console for progress and errors, so that a pipe receives only results.

    With `quiet` it shows nothing: for the progress of a command with --quiet.
    """
    return _console(sys.stderr, quiet=quiet)


def _console(file: IO[str], *, quiet: bool = False) -> Console:
    width = None if file.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return _SafeConsole(file=file, width=width, highlight=False, quiet=quiet)


class _SafeConsole(Console):
    """A console on which no file name and no text of an item can command the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def json_line(value: object) -> str:
    """Return a value as one line of JSON that any terminal can show and any program can read."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, default=_plain)
    # JSON escapes the other control characters itself.
    return _ESCAPED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: object) -> object:
    """Return what JSON has no type for: a time as ISO 8601, a place as an object."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, GeoPoint):
        return asdict(value)
    raise TypeError(f"no JSON for {value!r}")


def tell(
    text: str, facts: Mapping[str, object], *, as_json: bool = False, quiet: bool = False
) -> None:
    """Say what a command did: as a sentence, as one JSON object, or not at all."""
    if as_json:
        click.echo(json_line(facts))
    elif not quiet:
        click.echo(text)


def show_all_characters() -> None:
    """Have escapes printed for characters that the output's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def new_table(**options: Any) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, **options)


class RateColumn(TextColumn):
    """Entries per second; `noun` names them."""

    def __init__(self, noun: str) -> None:
        super().__init__("")
        self._noun = noun

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self._noun}/s", style="cyan")


def progress_bar(console: Console, *more: ProgressColumn, rate_over_s: float = 30.0) -> Progress:
    """Return a progress bar with `more` columns before the remaining time.

    The rate and the remaining time follow from the last `rate_over_s` seconds.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        speed_estimate_period=rate_over_s,
        # Into a file or pipe it would write an empty line at its end.
        disable=console.quiet or not console.is_interactive,
    )


def cache_folder() -> Path:
    """Return the folder for data that can be deleted at any time; it may not exist yet.

    Raises:
        OSError: This user has no home folder.
    """
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "sentinel"
    try:
        return Path.home() / ".cache" / "sentinel"
    except RuntimeError:  # a user of a container may have none
        why = "there is no home folder: set HOME or XDG_CACHE_HOME"
        raise FileNotFoundError(errno.ENOENT, why, "~/.cache") from None


def short_path(path: str) -> str:
    """Return `path` with `~` for the home folder."""
    home = os.path.expanduser("~")
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path


def duration(seconds: float) -> str:
    """Format a duration: `3.2 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(seconds: float) -> str:
    """Format a short duration in milliseconds: `3.4 ms`, `128 ms`."""
    value = seconds * 1_000
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
