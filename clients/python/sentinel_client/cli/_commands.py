"""The group `sentinel`: how its help is ordered, and how errors of commands look."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import click

from sentinel_client import SentinelError
from sentinel_client._text import printable
from sentinel_client.cli._console import (
    Failure,
    err,
    error_hint,
    explain,
    json_line,
    show_all_characters,
)

_JSON = "sentinel.json"


class _ReadableCommand(click.Command):
    """A command that prints one readable line, or a JSON object, instead of a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Here, and not in the option: its command may fail before it is read.
        ctx.meta[_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        show_all_characters()
        with _readable_errors(as_json=ctx.meta[_JSON]):
            return super().invoke(ctx)


class SentinelGroup(_ReadableCommand, click.Group):
    """A group whose commands print one readable line instead of a traceback.

    Args:
        sections: The commands by title, in the order of the help.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[click.Command]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the commands by what they are for; click sorts them by name."""
        longest = max(map(len, self.commands))
        limit = formatter.width - 6 - longest
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (str(one.name).ljust(longest), one.get_short_help_str(limit))
                        for one in commands
                    ]
                )


class SentinelCommand(_ReadableCommand):
    """A program of its own with one command, whose errors look like those of `sentinel`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _readable_errors(as_json="--json" in args):
            return super().make_context(info_name, args, parent, **extra)


@contextmanager
def _readable_errors(*, as_json: bool) -> Iterator[None]:
    """Have the errors of a block shown as one line, or as one JSON object."""
    try:
        yield
    except SentinelError as error:
        if as_json:
            raise _JsonFailure(_as_dict(error), 2) from error
        raise Failure(printable(explain(error))) from error
    except click.ClickException as error:
        if as_json:
            cause = error.__cause__
            known = _as_dict(cause) if isinstance(cause, SentinelError) else {}
            shown = {"reason": "COMMAND_FAILED", "message": error.format_message(), **known}
            raise _JsonFailure(shown, error.exit_code) from error
        error.message = printable(error.message)  # type: ignore[misc] # shown from there
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = error.filename or "the output"
        raise Failure(f"cannot write {place}: the disk is full") from error


class DefaultGroup(click.Group):
    """A group that means one of its commands if none is named: `collections` is its `list`."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own_help = set(args) & set(ctx.help_option_names)
        if not own_help and (not args or args[0].startswith("-")):
            args = [self._default, *args]
        return super().parse_args(ctx, args)


class _JsonFailure(click.ClickException):
    """The command failed: one JSON object on stderr."""

    def __init__(self, error: Mapping[str, object], exit_code: int) -> None:
        super().__init__(str(error["message"]))
        self._error = error
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(json_line({"error": self._error}), file=file, err=True)


def tell_error(subject: str, error: SentinelError) -> None:
    """Print an error on stderr that concerns one item; the command continues."""
    if click.get_current_context().meta.get(_JSON):
        click.echo(json_line({"error": {"subject": subject, **_as_dict(error)}}), err=True)
    else:
        err().print(f"✗ {subject}: {explain(error)}", style="red", markup=False, soft_wrap=True)


def _as_dict(error: SentinelError) -> dict[str, object]:
    hint = error_hint(error)
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        **({"hint": hint} if hint else {}),
        **({"metadata": error.metadata} if error.metadata else {}),
    }
