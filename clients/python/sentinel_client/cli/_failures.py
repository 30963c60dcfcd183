"""What an import could not store, and why: told as it happens, summed up at the end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import IO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sentinel_client.cli._console import Failure, short_path
from sentinel_client.importers import BrokenEntry

# Told one by one; of a broken disk nobody reads a hundred thousand lines.
_TOLD = 20
_EXAMPLES = 3


class Failures:
    """The failures of one run. Close it.

    Args:
        console: Where they are told.
        report: A file that gets all of them, one JSON object each; None for none.

    Raises:
        Failure: The file cannot be written.
    """

    def __init__(self, console: Console, report: Path | None) -> None:
        self._console = console
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[BrokenEntry]] = {}
        self._report: IO[str] | None = None
        self._path = report
        if report is not None:
            try:
                self._report = report.open("w", encoding="utf-8")
            except OSError as error:
                raise Failure(f"cannot write {report}: {error.strerror}") from error

    def add(self, failure: BrokenEntry) -> None:
        """Tell one failure."""
        told = self._counts.total()
        self._counts[failure.reason] += 1
        examples = self._examples.setdefault(failure.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(failure)
        if self._report is not None:
            line = {
                "entry": shown(failure.key),
                "reason": failure.reason,
                "message": failure.message,
            }
            print(json.dumps(line, ensure_ascii=False), file=self._report)
        if told < _TOLD:
            self._console.print(
                f"[red]✗[/] {escape(short_path(shown(failure.key)))}[dim]:[/] "
                f"{escape(failure.message)} [dim]\\[{failure.reason}][/]",
                soft_wrap=True,
            )
        elif told == _TOLD:
            self._console.print("[red]✗[/] [dim]… and more; the table at the end sums them up[/]")

    def summary(self) -> None:
        """Print the failures by reason, where the single lines do not say it all."""
        if self._counts.total() > _TOLD:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("failed", justify="right", style="red")
            table.add_column("reason")
            table.add_column("for example", style="dim", overflow="fold")
            for reason, count in self._counts.most_common():
                examples = [
                    f"{short_path(shown(one.key))}: {one.message}" for one in self._examples[reason]
                ]
                table.add_row(f"{count:,}", reason, Text("\n".join(examples)))
            self._console.print(table)
        if self._report is not None and self._counts:
            self._console.print(f"All failures: {self._path}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Close the report."""
        if self._report is not None:
            self._report.close()
            self._report = None


def shown(key: str) -> str:
    """Return a key as valid Unicode, which the name of a file need not be."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
