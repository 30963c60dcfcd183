"""What all commands share: where text goes, how errors read, how a client is opened."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from rich.console import Console

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig, RetryPolicy
from sentinel_client._errors import SentinelError

T = TypeVar("T")

# In a pipe there is no window to fit into; narrow columns would only cut paths.
_PIPE_WIDTH = 200

# What to do about an error, where the error's own message does not say it.
_HINTS = {
    "UNREACHABLE": "start one with `sentinel up`, or name it with --address or SENTINEL_ADDRESS",
    "NO_HEALTHY_WORKER": "is an embedder running? `sentinel health` tells when it is",
    "COLLECTION_NOT_FOUND": "`sentinel collections` lists them, `sentinel index` makes one",
    "MODEL_MISMATCH": "index into another --collection, or start the embedder with its old model",
    "OUT_OF_TIME": "is the server overloaded? try again",
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options that stand before the command."""

    address: str

    def open_client(self, *, max_attempts: int = 3) -> AsyncSentinelClient:
        """Return a client; by default one that soon says so when nobody answers.

        Raises:
            Failure: The address is none.
        """
        config = ClientConfig(retry=RetryPolicy(max_attempts=max_attempts))
        try:
            return AsyncSentinelClient(self.address, config=config)
        except ValueError as error:
            raise Failure(str(error)) from error


class Failure(click.ClickException):
    """The command could not do its work: one line on stderr, exit code 2."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.secho(f"sentinel: {self.message}", file=file or sys.stderr, fg="red")


def explain(error: SentinelError) -> str:
    """Return one line: what is wrong, the reason's name, what to do."""
    line = " ".join(f"{error.message.rstrip('.')} [{error.reason}]".split())
    hint = _HINTS.get(error.reason)
    return f"{line}: {hint}" if hint else line


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on a loop of its own."""
    return asyncio.run(work)


def out() -> Console:
    """Return a console for results."""
    return _console(sys.stdout)


def err() -> Console:
    """Return a console for progress and complaints, which keeps results clean in a pipe."""
    return _console(sys.stderr)


def _console(file: IO[str]) -> Console:
    width = None if file.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False)


def cache_folder() -> Path:
    """Return the folder for what may be lost at any time; it may not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "sentinel"


def short_path(path: str) -> str:
    """Return `path` as people write it: `~` for their home."""
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path


def duration(seconds: float) -> str:
    """Return `seconds` for people: `3.2 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(seconds: float) -> str:
    """Return a short time in milliseconds: `3.4 ms`, `128 ms`."""
    value = seconds * 1_000
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
