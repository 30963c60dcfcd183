"""Compose `sentinel bulk-index`: read the settings, run the job, print the result."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from pydantic import ValidationError

from bulk_indexer.bulk_run import FAILURES_FILE, BulkRun, Summary
from bulk_indexer.cluster import Cluster
from bulk_indexer.delivery import Delivered
from bulk_indexer.run_folder import BulkError, RunFolder
from bulk_indexer.settings import BulkSettings
from bulk_indexer.target import open_target
from sentinel_core import logging as core_logging
from sentinel_core.errors import SentinelError
from sentinel_core.proxies import bypass_proxies_on_loopback
from sentinel_core.settings import print_settings_errors, refuse_secret_flags

_SOME_FAILED = 1
_STOPPED = 2
INTERRUPTED = 130


def run() -> int:
    """Run one job; return the exit code.

    0: everything is indexed; 1: everything except the entries in the failures file; 2: the run
    could not continue; 130: interrupted.
    """
    try:
        if refuse_secret_flags("sentinel-bulk-index", BulkSettings, sys.argv[1:]):
            return 2
        settings = BulkSettings(_cli_parse_args=True)
    except ValidationError as error:
        print_settings_errors("sentinel bulk-index", error)
        return _STOPPED
    bypass_proxies_on_loopback()
    core_logging.configure(settings.log_level, settings.log_style)
    start = time.monotonic()
    try:
        summary, delivered = asyncio.run(_stoppable(settings))
    except ValidationError as error:  # in the variables of the gateway or the embedder
        print_settings_errors("sentinel bulk-index", error)
        return _STOPPED
    except (BulkError, SentinelError) as error:
        print(f"sentinel bulk-index: {error}", file=sys.stderr)
        return _STOPPED
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("sentinel bulk-index: stopped; run it again to continue", file=sys.stderr)
        return INTERRUPTED
    return _print_result(settings, summary, delivered, time.monotonic() - start)


async def _stoppable(settings: BulkSettings) -> tuple[Summary, Delivered]:
    """Run the job; SIGTERM stops it like Ctrl-C, ends Ray's processes and closes connections."""
    job = asyncio.create_task(bulk_index(settings))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, job.cancel)
    return await job


async def bulk_index(settings: BulkSettings) -> tuple[Summary, Delivered]:
    """Do the remaining work of the run that the settings name."""
    # Actors have other working directories.
    settings.inputs = [_absolute(one) for one in settings.inputs]
    storage = settings.storage()
    storage.object_store_uri = _absolute(storage.object_store_uri)
    folder = RunFolder(_absolute(settings.run))
    with Cluster(settings.ray_address) as cluster:
        bulk_run = BulkRun(settings, storage, folder, cluster)
        async with open_target(settings, storage) as target:
            info = await target.collection(bulk_run.model)
            job, plan = await bulk_run.prepare(info)
            delivery = await target.delivery(info, folder, plan.entries)
            return await bulk_run.finish(job, plan, delivery), delivery.delivered


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _print_result(
    settings: BulkSettings, summary: Summary, delivered: Delivered, seconds: float
) -> int:
    """Print the result; return the exit code."""
    failed = sum(summary.failures.values())
    print(
        f"{settings.collection}: {summary.entries:,} entries in {summary.shards:,} shards: "
        f"{summary.rows:,} rows, {summary.duplicates:,} duplicates, {failed:,} failed"
    )
    if settings.deliver == "files":
        print(f"rows as Parquet: {settings.run}/rows")
    else:
        print(
            f"delivered now: {delivered.stored:,} stored, {delivered.unchanged:,} unchanged, "
            f"in {seconds:,.0f} s"
        )
    if failed:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.failures.items())
        print(f"failed: {reasons}; {settings.run}/{FAILURES_FILE} lists them, as a manifest")
    if summary.unfinished:
        print(f"{summary.unfinished:,} shards are not finished; run the same command again")
    return _STOPPED if summary.unfinished else _SOME_FAILED if failed else 0
