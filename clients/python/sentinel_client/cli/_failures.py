"""The entries of a run that could not be stored: printed as they occur, summarized at the end."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from sentinel_client._text import valid_text
from sentinel_client.cli._console import Failure, new_table, short_path
from sentinel_client.importers import BrokenEntry

# Failures that are printed one by one. A broken disk may have a hundred thousand.
_MAX_PRINTED = 20
_MAX_EXAMPLES = 3


class Failures:
    """The entries that could not be stored: printed as they occur, summarized at the end."""

    def __init__(self, console: Console, report: Path | None) -> None:
        self._console = console
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._report: IO[str] | None = None
        self._path = report
        if report is not None:
            try:
                self._report = report.open("w", encoding="utf-8")
            except OSError as error:
                raise Failure(f"cannot write {report}: {error.strerror}") from error

    def add(self, failure: BrokenEntry) -> None:
        before = self._counts.total()
        self._counts[failure.reason] += 1
        key = valid_text(failure.key).replace("\n", "\\n")
        message = " ".join(valid_text(failure.message).split())
        examples = self._examples.setdefault(failure.reason, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(f"{short_path(key)}: {message}")
        if self._report is not None:
            line = {"entry": key, "reason": failure.reason, "message": message}
            self._write(json.dumps(line, ensure_ascii=False))
        if before < _MAX_PRINTED:
            self._console.print(
                f"[red]✗[/] {escape(short_path(key))}[dim]:[/] "
                f"{escape(message)} [dim]\\[{failure.reason}][/]",
                soft_wrap=True,
            )
        elif before == _MAX_PRINTED:
            self._console.print(
                "[red]✗[/] [dim]… and more; the table at the end has all reasons[/]"
            )

    def _write(self, line: str) -> None:
        try:
            print(line, file=self._report, flush=True)
        except OSError as error:  # the import is worth more than its report
            # Python 3.13 prints a traceback for a file that it cannot write when it collects it.
            with suppress(OSError):
                self.close()
            self._report = None
            self._console.print(
                f"cannot write {self._path}: {error.strerror}; it is not complete",
                style="red",
                markup=False,
                soft_wrap=True,
            )

    @property
    def counts(self) -> dict[str, int]:
        """The number of failures by reason, the most frequent first."""
        return dict(self._counts.most_common())

    def print_summary(self) -> None:
        """Print a table of the failures by reason, if not all of them were printed."""
        if self._counts.total() > _MAX_PRINTED:
            table = new_table()
            table.add_column("failed", justify="right", style="red")
            table.add_column("reason")
            table.add_column("for example", style="dim", overflow="fold")
            for reason, count in self._counts.most_common():
                table.add_row(f"{count:,}", reason, Text("\n".join(self._examples[reason])))
            self._console.print(table)
        if self._report is not None and self._counts:
            self._console.print(f"All failures: {self._path}", markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._report is not None:
            self._report.close()
            self._report = None
