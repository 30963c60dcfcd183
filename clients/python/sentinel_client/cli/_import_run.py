"""Run one import: progress bar, list of failures, summary, exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, TaskID

from sentinel_client import AsyncSentinelClient, Collection, NotFound, SentinelError
from sentinel_client._processes import in_thread
from sentinel_client.cli._console import (
    Failure,
    Options,
    RateColumn,
    duration,
    err,
    json_line,
    progress_bar,
    short_path,
)
from sentinel_client.cli._failures import Failures
from sentinel_client.cli._importer import Importer, Tally
from sentinel_client.cli._journal import Journal
from sentinel_client.cli._references import References
from sentinel_client.cli._seen import Seen
from sentinel_client.cli._sync import FolderSync, SyncResult
from sentinel_client.importers import PHOTO_FIELDS, Dataset, Folders, LayoutError

# A worker or gateway may be replaced during a long import: retry for about half a minute.
_MAX_ATTEMPTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What to import.

    Attributes:
        options: The options before the command.
        collection: Created if missing.
        read_dataset: Reads the layout only; blocks.
        noun: Name of the entries in messages: pictures, rows.
        verb: What the progress bar shows.
        refresh: Whether to send stored items again.
        report: File for the failures.
        by_reference: Whether files stay where they are, and the gateway stores no copies of them;
            None: if it is on this machine and can read them.
        prune: Folders only: whether to delete items whose files are gone.
        yes: Whether to prune any number without asking.
        as_json: Whether to print the summary as one JSON object.
        quiet: Whether to show failures only: no progress and no summary.
        only_changes: Whether to print a summary only if something happened.
    """

    options: Options
    collection: str
    read_dataset: Callable[[], Dataset]
    noun: str
    verb: str = "importing"
    refresh: bool = False
    report: Path | None = None
    by_reference: bool | None = False
    prune: bool = False
    yes: bool = False
    as_json: bool = False
    quiet: bool = False
    only_changes: bool = False


def run_import(plan: ImportPlan) -> None:
    """Import and exit: 0 all stored, 1 something failed, 2 it could not run, 130 interrupted."""
    run = ImportRun(plan)
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
    raise SystemExit(run.exit_code)


class ImportRun:
    """One pass over a dataset. Run it once; `tally` is always up to date."""

    def __init__(self, plan: ImportPlan) -> None:
        self._plan = plan
        self._console = err()
        self._progress_console = err(quiet=plan.quiet)
        self.failures = Failures(self._console, plan.report)
        self.tally = Tally()
        self._dataset: Dataset | None = None
        self._sync = SyncResult()
        self._references = References(plan.by_reference, plan.options.address)

    @property
    def exit_code(self) -> int:
        """0: all is stored; 1: something failed; 2: not all could be pruned."""
        not_pruned = self._sync.refused or (self._plan.prune and self._sync.kept)
        return 2 if not_pruned else int(self.tally.failed > 0)

    async def run(self) -> None:
        """Import, then make the collection equal to the folders, if they are some."""
        plan = self._plan
        async with plan.options.open(AsyncSentinelClient) as client:
            # Fails at once if no gateway answers; the client below retries for longer.
            collection = None
            with suppress(NotFound):
                collection = await client.get_collection(plan.collection)
            self._dataset = dataset = await self._read_dataset()
            if collection is None:
                collection = await client.get_or_create_collection(plan.collection, dataset.fields)
        with ExitStack() as stack:
            journal = stack.enter_context(closing(await asyncio.to_thread(Journal)))
            seen = stack.enter_context(closing(Seen()))
            client = plan.options.open(AsyncSentinelClient, max_attempts=_MAX_ATTEMPTS)
            async with client:
                await self._import(client, collection, dataset, journal, seen)

    async def _import(
        self,
        client: AsyncSentinelClient,
        collection: Collection,
        dataset: Dataset,
        journal: Journal,
        seen: Seen,
    ) -> None:
        plan = self._plan
        progress = progress_bar(self._progress_console, RateColumn(plan.noun))
        bar = progress.add_task(plan.verb, total=dataset.total)
        importer = Importer(
            client=client,
            collection=collection,
            dataset=dataset,
            journal=journal,
            seen=seen,
            references=self._references,
            on_done=lambda count: progress.advance(bar, count),
            on_failed=self.failures.add,
            refresh=plan.refresh,
        )
        self.tally = importer.tally
        if not plan.only_changes:
            self._print_left_out(dataset, importer.fields)
        with progress:
            counting = asyncio.create_task(self._count_total(dataset, progress, bar))
            try:
                await importer.run()
            finally:
                counting.cancel()
        if isinstance(dataset, Folders):
            with self._progress_console.status("looking for files that are gone") as status:

                def confirm(gone: int, count: int) -> str:
                    status.stop()  # it would wipe the question away
                    return self._confirm(gone, count)

                sync = FolderSync(
                    walk=dataset.walk,
                    journal=journal,
                    seen=seen,
                    prune=plan.prune,
                    confirm=confirm,
                )
                self._sync = await sync.run(client, importer)

    async def _count_total(self, dataset: Dataset, progress: Progress, bar: TaskID) -> None:
        """Count the pictures for the progress bar, if somebody sees it, while the import runs."""
        if isinstance(dataset, Folders) and not progress.disable:
            progress.update(bar, total=await in_thread(dataset.count))

    def _confirm(self, gone: int, count: int) -> str:
        """Ask whether `gone` of `count` items may go; return why not, or an empty text."""
        plan = self._plan
        if plan.yes:
            return ""
        share = f"{gone:,} of {count:,} stored items have no file any more"
        if plan.as_json or plan.quiet or plan.only_changes or not sys.stdin.isatty():
            return f"{share}, more than a tenth: add --yes to remove them"
        # asyncio's own handler would only take note of Ctrl-C, and the question would go on.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            agreed = click.confirm(f"{share}. Remove them?", err=True)
        except click.Abort:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, handler)
        return "" if agreed else f"{share}; you chose to keep them"

    async def _read_dataset(self) -> Dataset:
        with self._progress_console.status(f"looking for {self._plan.noun}"):
            try:
                return await in_thread(self._plan.read_dataset)
            except LayoutError as error:
                raise Failure(str(error)) from error
            except OSError as error:
                raise Failure(f"cannot read {error.filename}: {error.strerror}") from error

    def _print_left_out(self, dataset: Dataset, fields: list[str]) -> None:
        name = self._plan.collection
        undeclared = [schema.name for schema in dataset.fields if schema.name not in fields]
        why = f"which {name} does not declare as such"
        if isinstance(dataset, Folders) and set(undeclared) & {one.name for one in PHOTO_FIELDS}:
            why += f"; `sentinel collections add-fields {name} --photo` adds them"
        for names, reason in ((undeclared, why), (dataset.left_out, "which no field can hold")):
            if names:
                self._console.print(
                    f"Left out: {', '.join(names)}, {reason}.", markup=False, soft_wrap=True
                )

    def print_summary(self, note: str = "") -> None:
        """Print the failures and the number of entries by result."""
        tally, plan = self.tally, self._plan
        self.failures.print_summary()
        if plan.as_json:
            click.echo(json_line({**self._as_dict(), **({"note": note} if note else {})}))
            return
        sync = self._sync
        changed = any(self.counts.values()) or sync.refused
        if plan.only_changes and not changed and not note:
            return
        if plan.quiet:
            if sync.refused:  # the reason of the exit code
                self._tell_note(f"Not removed: {sync.refused}.")
            return
        if tally.done:
            rate = tally.done / max(tally.seconds, 1e-3)
            line = f"{plan.collection}: {', '.join(self._parts())} in {duration(tally.seconds)}"
            click.echo(f"{line} ({rate:,.1f} {plan.noun}/s)")
        elif not note:
            click.echo(f"No {plan.noun} found.")
        for line in self._notes():
            self._tell_note(line)
        if note:
            click.echo(note)
        elif tally.done > tally.failed and not plan.only_changes:
            option = "" if plan.collection == "photos" else f" -c {plan.collection}"
            click.secho(f'Next: sentinel search{option} "a dog on the beach"', dim=True, err=True)

    def _tell_note(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True, style="yellow")

    def _parts(self) -> list[str]:
        tally, sync = self.tally, self._sync
        optional = (
            (tally.duplicates, "duplicates of another"),
            (tally.moved, "moved"),
            (sync.replaced, "replaced"),
            (sync.pruned, "removed"),
        )
        return [
            f"{tally.stored:,} stored",
            f"{tally.unchanged:,} unchanged",
            *(f"{count:,} {what}" for count, what in optional if count),
            f"{tally.failed:,} failed",
        ]

    def _notes(self) -> Iterator[str]:
        """Yield what else a person should know, one line each."""
        if isinstance(self._dataset, Folders) and not self._plan.only_changes:
            skipped = self._dataset.walk.left_out.summary()
            if skipped:
                yield f"Skipped: {skipped}."
        if copied := self._references.copied:
            yield (
                f"Stored {copied:,} {self._plan.noun} as copies, since the gateway may not or "
                "cannot read them where they are."
            )
        if count := self.tally.truncated:
            yield (
                f"{count:,} texts are longer than the model reads; only their beginnings are "
                "searchable."
            )
        sync = self._sync
        for (folder, reason), count in sync.kept.items():
            yield f"Kept {count:,} stored items of {short_path(folder)}, which {reason}."
        if sync.refused:
            yield f"Not removed: {sync.refused}."
        elif sync.gone and not self._plan.prune:
            yield f"{sync.gone:,} stored items have no file any more. --prune removes them."

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by what `print_summary` calls it."""
        tally, sync = self.tally, self._sync
        return {
            "stored": tally.stored,
            "moved": tally.moved,
            "replaced": sync.replaced,
            "removed": sync.pruned,
            "failed": tally.failed,
        }

    def _as_dict(self) -> dict[str, Any]:
        tally, sync = self.tally, self._sync
        skipped: list[dict[str, Any]] = []
        if isinstance(self._dataset, Folders):
            counts = self._dataset.walk.left_out.counts
            skipped = [
                {"what": what, "why": why, "count": count}
                for (what, why), count in counts.most_common()
            ]
        return {
            "collection": self._plan.collection,
            "stored": tally.stored,
            "moved": tally.moved,
            "unchanged": tally.unchanged,
            "duplicates": tally.duplicates,
            "truncated": tally.truncated,
            "failed": tally.failed,
            "failures": self.failures.counts,
            "replaced": sync.replaced,
            "gone": sync.gone,
            "removed": sync.pruned,
            "not_removed": sync.refused,
            "kept": [
                {"folder": folder, "why": why, "count": count}
                for (folder, why), count in sync.kept.items()
            ],
            "skipped": skipped,
            "copied": self._references.copied,
            "seconds": round(tally.seconds, 3),
        }
