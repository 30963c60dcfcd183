"""Run one import: progress bar, list of failures, summary, exit code."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Task, TextColumn
from rich.text import Text

from sentinel_client import AsyncSentinelClient, NotFound, SentinelError
from sentinel_client._processes import in_thread
from sentinel_client._text import valid_text
from sentinel_client.cli._console import (
    Failure,
    Options,
    duration,
    err,
    new_table,
    progress_bar,
    short_path,
)
from sentinel_client.cli._importer import Importer, Tally
from sentinel_client.cli._journal import Journal
from sentinel_client.importers import BrokenEntry, Dataset, LayoutError

# A worker or gateway may be replaced during a long import: retry for about half a minute.
_MAX_ATTEMPTS = 12
# Failures that are printed one by one. A broken disk may have a hundred thousand.
_MAX_PRINTED = 20
_MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What to import."""

    options: Options
    collection: str  # created if missing
    read_dataset: Callable[[], Dataset]  # reads the layout only; blocks
    noun: str  # name of the entries in messages: pictures, rows
    refresh: bool  # whether to send stored items again
    report: Path | None  # file for the failures


def run_import(plan: ImportPlan) -> None:
    """Import and exit: 0 all stored, 1 something failed, 2 it could not run, 130 interrupted."""
    run = _ImportRun(plan)
    try:
        asyncio.run(run.run())
    except KeyboardInterrupt:
        run.print_summary("stopped; run it again to continue")
        raise SystemExit(130) from None
    except SentinelError:
        if run.tally.done:
            run.print_summary("stopped by the error below; run it again to continue")
        raise
    finally:
        run.failures.close()
    run.print_summary()
    raise SystemExit(1 if run.tally.failed else 0)


class _ImportRun:
    def __init__(self, plan: ImportPlan) -> None:
        self._plan = plan
        self._console = err()
        self.failures = _Failures(self._console, plan.report)
        self.tally = Tally()

    async def run(self) -> None:
        plan = self._plan
        async with plan.options.open(AsyncSentinelClient) as client:
            # Fails at once if no gateway answers; the client below retries for longer.
            collection = None
            with suppress(NotFound):
                collection = await client.get_collection(plan.collection)
            dataset = await self._read_dataset()
            if collection is None:
                collection = await client.get_or_create_collection(plan.collection, dataset.fields)
        journal = await asyncio.to_thread(Journal)
        progress = progress_bar(self._console, _RateColumn(plan.noun))
        bar = progress.add_task("importing", total=dataset.total)
        try:
            async with plan.options.open(AsyncSentinelClient, max_attempts=_MAX_ATTEMPTS) as client:
                importer = Importer(
                    client=client,
                    collection=collection,
                    dataset=dataset,
                    journal=journal,
                    on_done=lambda count: progress.advance(bar, count),
                    on_failed=self.failures.add,
                    refresh=plan.refresh,
                )
                self.tally = importer.tally
                self._print_left_out(dataset, importer.fields)
                with progress:
                    await importer.run()
        finally:
            journal.close()

    async def _read_dataset(self) -> Dataset:
        with self._console.status(f"looking for {self._plan.noun}"):
            try:
                return await in_thread(self._plan.read_dataset)
            except LayoutError as error:
                raise Failure(str(error)) from error
            except OSError as error:
                raise Failure(f"cannot read {error.filename}: {error.strerror}") from error

    def _print_left_out(self, dataset: Dataset, fields: list[str]) -> None:
        undeclared = [schema.name for schema in dataset.fields if schema.name not in fields]
        for names, why in (
            (undeclared, f"which {self._plan.collection} does not declare as such"),
            (dataset.left_out, "which no field can hold"),
        ):
            if names:
                self._console.print(
                    f"Left out: {', '.join(names)}, {why}.", markup=False, soft_wrap=True
                )

    def print_summary(self, note: str = "") -> None:
        """Print the failures and the number of entries by result."""
        tally, plan = self.tally, self._plan
        self.failures.print_summary()
        if not tally.done:
            click.echo(note or f"No {plan.noun} found.")
            return
        parts = [
            f"{tally.stored:,} stored",
            f"{tally.unchanged:,} unchanged",
            *([f"{tally.duplicates:,} duplicates of another"] if tally.duplicates else []),
            f"{tally.failed:,} failed",
        ]
        rate = tally.done / max(tally.seconds, 1e-3)
        line = f"{plan.collection}: {', '.join(parts)} in {duration(tally.seconds)}"
        click.echo(f"{line} ({rate:,.1f} {plan.noun}/s)")
        if note:
            click.echo(note)
        elif tally.done > tally.failed:
            option = "" if plan.collection == "photos" else f" -c {plan.collection}"
            click.secho(f'Next: sentinel search{option} "a dog on the beach"', dim=True, err=True)


class _RateColumn(TextColumn):
    """Entries per second."""

    def __init__(self, noun: str) -> None:
        super().__init__("")
        self._noun = noun

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self._noun}/s", style="cyan")


class _Failures:
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
