"""`sentinel index`: a folder of pictures into a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
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

from sentinel_client._errors import SentinelError
from sentinel_client.cli._console import Options, duration, err, run, short_path
from sentinel_client.cli._indexing import FIELDS, Indexer, Tally
from sentinel_client.cli._scan import HashJournal, PictureFile, scan

# A worker or gateway may be replaced while a large folder is indexed: about half a minute.
_MAX_ATTEMPTS = 12


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="FOLDER...",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("--collection", "-c", default="photos", show_default=True, help="Made when missing.")
@click.option(
    "--in-flight",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Requests at once.",
)
@click.option("--refresh", is_flag=True, help="Send files again that are stored already.")
@click.pass_obj
def index(
    options: Options, folders: tuple[Path, ...], collection: str, in_flight: int, refresh: bool
) -> None:
    """Make the pictures in FOLDER, and in the folders inside it, searchable.

    Running it again sends only what is new, so it may be stopped at any time. Hidden files and
    folders are left out. Exit code 1 means that some files failed; each is named.
    """
    job = _Index(options, folders, collection, in_flight, refresh)
    try:
        run(job.run())
    except KeyboardInterrupt:
        job.summary("stopped; run it again to go on")
        raise SystemExit(130) from None
    except SentinelError:
        if job.tally.done:
            job.summary("stopped by the error below; run it again to go on")
        raise
    job.summary()
    raise SystemExit(1 if job.tally.failed else 0)


class _Index:
    """One run of the command."""

    def __init__(
        self,
        options: Options,
        folders: Sequence[Path],
        collection: str,
        in_flight: int,
        refresh: bool,
    ) -> None:
        self._options = options
        self._folders = folders
        self._collection = collection
        self._in_flight = in_flight
        self._refresh = refresh
        self._console = err()
        self.tally = Tally()

    async def run(self) -> None:
        async with self._options.open_client() as client:
            # Says at once when nobody answers; the patient client below would wait.
            collection = await client.get_or_create_collection(self._collection, FIELDS)
        with self._console.status("looking for pictures"):
            files = await asyncio.to_thread(self._scan)
        journal = await asyncio.to_thread(HashJournal)
        progress = _progress(self._console)
        bar = progress.add_task("indexing", total=len(files) + self.tally.failed)
        progress.advance(bar, self.tally.failed)
        try:
            async with self._options.open_client(max_attempts=_MAX_ATTEMPTS) as client:
                indexer = Indexer(
                    client,
                    collection,
                    journal,
                    on_done=lambda count: progress.advance(bar, count),
                    on_failed=self._say_failed,
                    in_flight=self._in_flight,
                    refresh=self._refresh,
                )
                indexer.tally.failed = self.tally.failed
                self.tally = indexer.tally
                with progress:
                    await indexer.run(files)
        finally:
            journal.close()

    def _scan(self) -> list[PictureFile]:
        files = []
        for found in scan(self._folders):
            if isinstance(found, OSError):
                self.tally.failed += 1
                self._say_failed(str(found.filename), f"cannot be read: {found.strerror}")
            else:
                files.append(found)
        return files

    def _say_failed(self, path: str, reason: str) -> None:
        self._console.print(
            f"[red]✗[/] {escape(short_path(path))}[dim]:[/] {escape(reason)}", soft_wrap=True
        )

    def summary(self, note: str = "") -> None:
        """Print what became of the files."""
        tally = self.tally
        if not tally.done:
            click.echo(note or "No pictures found.")
            return
        parts = [
            f"{tally.stored:,} stored",
            f"{tally.unchanged:,} unchanged",
            *([f"{tally.duplicates:,} duplicates of another file"] if tally.duplicates else []),
            f"{tally.failed:,} failed",
        ]
        rate = tally.done / max(tally.seconds, 1e-3)
        line = f"{self._collection}: {', '.join(parts)} in {duration(tally.seconds)}"
        click.echo(f"{line} ({rate:,.1f} files/s)")
        if note:
            click.echo(note)
        elif tally.done > tally.failed:
            chosen = "" if self._collection == "photos" else f" -c {self._collection}"
            click.secho(f'Next: sentinel search{chosen} "a dog on the beach"', dim=True, err=True)


class _RateColumn(TextColumn):
    """Files per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} files/s", style="cyan")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
