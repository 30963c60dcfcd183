"""Compose `sentinel bulk-index`: run the job, print the result."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from bulk_indexer.bulk_run import FAILURES_FILE, BulkRun, Summary
from bulk_indexer.cluster import Cluster
from bulk_indexer.delivery import Delivered
from bulk_indexer.progress import RunProgress
from bulk_indexer.run_folder import BulkError, RunFolder
from bulk_indexer.settings import BulkSettings
from bulk_indexer.target import open_target
from sentinel_client.cli._console import Failure, duration, tell
from sentinel_core import logging as core_logging
from sentinel_core.errors import SentinelError
from sentinel_core.proxies import bypass_proxies_on_loopback

_SOME_FAILED = 1
_STOPPED = 2


def run(settings: BulkSettings, *, as_json: bool, quiet: bool) -> int:
    """Run one job and print the result; return the exit code.

    0: everything is indexed; 1: everything except the entries in the failures file; 2: some shards
    are not finished.

    Raises:
        Failure: The run could not continue.
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
        ValidationError: The variables of the gateway or the embedder are wrong.
    """
    bypass_proxies_on_loopback()
    progress = RunProgress(quiet=quiet)
    start = time.monotonic()
    try:
        with progress:
            # Now, when its lines go above the bar.
            core_logging.configure(_log_level(settings, progress, quiet=quiet), settings.log_style)
            summary, delivered = asyncio.run(_stoppable(settings, progress))
    except (BulkError, SentinelError) as error:
        raise Failure(str(error)) from error
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    seconds = time.monotonic() - start
    failures = list(_failure_lines(settings, summary))
    if quiet and failures and not as_json:  # the reason of the exit code
        click.echo("\n".join(failures), err=True)
    tell(
        "\n".join([*_lines(settings, summary, delivered, seconds), *failures]),
        _facts(settings, summary, delivered, seconds),
        as_json=as_json,
        quiet=quiet,
    )
    return _STOPPED if summary.unfinished else _SOME_FAILED if summary.failures else 0


def _log_level(settings: BulkSettings, progress: RunProgress, *, quiet: bool) -> str:
    """Return what to log: where a bar shows how far the run is, only what goes wrong."""
    is_chosen = "log_level" in settings.model_fields_set
    return settings.log_level if is_chosen or not (progress.is_shown or quiet) else "warning"


async def _stoppable(settings: BulkSettings, progress: RunProgress) -> tuple[Summary, Delivered]:
    """Run the job; SIGTERM stops it like Ctrl-C, ends Ray's processes and closes connections."""
    job = asyncio.create_task(bulk_index(settings, progress))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, job.cancel)
    return await job


async def bulk_index(settings: BulkSettings, progress: RunProgress) -> tuple[Summary, Delivered]:
    """Do the remaining work of the run that the settings name."""
    # Actors have other working directories.
    settings.inputs = [_absolute(one) for one in settings.inputs]
    storage = settings.storage()
    storage.object_store_uri = _absolute(storage.object_store_uri)
    folder = RunFolder(_absolute(settings.run))
    with Cluster(settings.ray_address, progress.say) as cluster:
        bulk_run = BulkRun(settings, storage, folder, cluster, progress)
        async with open_target(settings, storage) as target:
            info = await target.collection(bulk_run.model)
            job, plan = await bulk_run.prepare(info)
            delivery = await target.delivery(info, folder, plan.entries)
            return await bulk_run.finish(job, plan, delivery), delivery.delivered


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _lines(
    settings: BulkSettings, summary: Summary, delivered: Delivered, seconds: float
) -> Iterator[str]:
    """Yield the result for people."""
    failed = sum(summary.failures.values())
    yield (
        f"{settings.collection}: {summary.entries:,} entries in {summary.shards:,} shards: "
        f"{summary.rows:,} rows, {summary.duplicates:,} duplicates, {failed:,} failed"
    )
    if settings.deliver == "files":
        yield f"rows as Parquet: {settings.run}/rows"
    else:
        yield (
            f"delivered now: {delivered.stored:,} stored, {delivered.unchanged:,} unchanged, "
            f"in {duration(seconds)}"
        )


def _failure_lines(settings: BulkSettings, summary: Summary) -> Iterator[str]:
    """Yield what is not indexed, and what to do then."""
    if summary.failures:
        failed = summary.failures.items()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed)
        yield f"failed: {reasons}; {settings.run}/{FAILURES_FILE} lists them, as a manifest"
    if summary.unfinished:
        yield f"{summary.unfinished:,} shards are not finished; run the same command again"


def _facts(
    settings: BulkSettings, summary: Summary, delivered: Delivered, seconds: float
) -> dict[str, Any]:
    """Return the result for programs."""
    return {
        "collection": settings.collection,
        **asdict(summary),
        "failed": sum(summary.failures.values()),
        "stored": delivered.stored,
        "unchanged": delivered.unchanged,
        "run": settings.run,
        "seconds": round(seconds, 3),
    }
