"""One run of `sentinel index` or `sentinel import`: progress, summary, exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._errors import NotFound, SentinelError
from sentinel_client._types import Collection
from sentinel_client.cli._console import Failure, Options, duration, err, run
from sentinel_client.cli._failures import Failures
from sentinel_client.cli._importing import Importer, Tally
from sentinel_client.cli._journal import Journal
from sentinel_client.importers import Dataset, LayoutError

# A worker or gateway may be replaced while much is imported: about half a minute.
_MAX_ATTEMPTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What to import.

    Attributes:
        options: Where the gateway is.
        collection: Where the items go; made when missing.
        dataset: Makes the dataset; blocks.
        noun: What the entries are, for people: files, rows.
        refresh: Send what is there as well.
        report: File for the failures, or None.
    """

    options: Options
    collection: str
    dataset: Callable[[], Dataset]
    noun: str
    refresh: bool = False
    report: Path | None = None


def run_import(plan: ImportPlan) -> None:
    """Do it and exit: 0 all is stored, 1 something failed, 2 it could not be done, 130 stopped."""
    job = _Job(plan)
    try:
        run(job.run())
    except KeyboardInterrupt:
        job.summary("stopped; run it again to go on")
        raise SystemExit(130) from None
    except SentinelError:
        if job.tally.done:
            job.summary("stopped by the error below; run it again to go on")
        raise
    finally:
        job.failures.close()
    job.summary()
    raise SystemExit(1 if job.tally.failed else 0)


class _Job:
    def __init__(self, plan: ImportPlan) -> None:
        self._plan = plan
        self._console = err()
        self.failures = Failures(self._console, plan.report)
        self.tally = Tally()

    async def run(self) -> None:
        name = self._plan.collection
        async with self._plan.options.open_client() as client:
            # Says at once when nobody answers; the patient client below would wait.
            collection = await _existing(client, name)
            dataset = await self._dataset()
            if collection is None:
                collection = await client.get_or_create_collection(name, dataset.fields)
        journal = await asyncio.to_thread(Journal)
        progress = _progress(self._console, self._plan.noun)
        bar = progress.add_task("importing", total=dataset.total)
        try:
            async with self._plan.options.open_client(max_attempts=_MAX_ATTEMPTS) as client:
                importer = Importer(
                    client,
                    collection,
                    dataset,
                    journal,
                    on_done=lambda count: progress.advance(bar, count),
                    on_failed=self.failures.add,
                    refresh=self._plan.refresh,
                )
                self.tally = importer.tally
                self._say_left_out(dataset, importer.fields)
                with progress:
                    await importer.run()
        finally:
            journal.close()

    async def _dataset(self) -> Dataset:
        with self._console.status(f"looking for {self._plan.noun}"):
            try:
                return await asyncio.to_thread(self._plan.dataset)
            except LayoutError as error:
                raise Failure(str(error)) from error
            except OSError as error:
                raise Failure(f"cannot read {error.filename}: {error.strerror}") from error

    def _say_left_out(self, dataset: Dataset, fields: list[str]) -> None:
        undeclared = [schema.name for schema in dataset.fields if schema.name not in fields]
        for names, why in (
            (undeclared, f"which {self._plan.collection} does not declare as such"),
            (dataset.left_out, "which no field can hold"),
        ):
            if names:
                self._console.print(
                    f"Left out: {', '.join(names)}, {why}.", markup=False, soft_wrap=True
                )

    def summary(self, note: str = "") -> None:
        """Print what became of the entries."""
        tally, plan = self.tally, self._plan
        self.failures.summary()
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
            chosen = "" if plan.collection == "photos" else f" -c {plan.collection}"
            click.secho(f'Next: sentinel search{chosen} "a dog on the beach"', dim=True, err=True)


async def _existing(client: AsyncSentinelClient, name: str) -> Collection | None:
    try:
        return await client.get_collection(name)
    except NotFound:
        return None


class _RateColumn(TextColumn):
    """Entries per second."""

    def __init__(self, noun: str) -> None:
        super().__init__("")
        self._noun = noun

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self._noun}/s", style="cyan")


def _progress(console: Console, noun: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _RateColumn(noun),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
