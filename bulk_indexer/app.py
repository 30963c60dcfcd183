"""Composition root of `sentinel bulk-index`: settings → parts → run → exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

from pydantic import ValidationError

from bulk_indexer.bulk_run import BulkRun
from bulk_indexer.cluster import Cluster
from bulk_indexer.delivery import Delivered
from bulk_indexer.errors import BulkError
from bulk_indexer.report import FAILURES_FILE, Summary
from bulk_indexer.run_folder import RunFolder
from bulk_indexer.settings import BulkSettings
from bulk_indexer.target import Target
from sentinel_core import logging as core_logging
from sentinel_core.errors import SentinelError
from sentinel_core.settings import print_settings_errors

logger = logging.getLogger(__name__)

_SOME_FAILED = 1
_STOPPED = 2


async def bulk_index(settings: BulkSettings) -> tuple[Summary, Delivered]:
    """Do what is left of the run that the settings name.

    Raises:
        BulkError: It cannot go on; the same settings go on from there.
        SentinelError: Milvus refuses or does not answer.
    """
    # Actors have working directories of their own.
    settings.inputs = [_absolute(one) for one in settings.inputs]
    storage = settings.storage()
    storage.object_store_uri = _absolute(storage.object_store_uri)
    folder = RunFolder(_absolute(settings.run))
    stopping = asyncio.current_task()
    assert stopping is not None
    # As Ctrl-C does it: what runs is left, Ray's processes ended, connections closed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.cancel)
    with Cluster(settings.ray_address) as cluster:
        run = BulkRun(settings, storage, folder, cluster)
        async with Target(settings, storage) as target:
            info = await target.collection(run.model)
            what, planned = await run.prepare(info)
            delivery = await target.delivery(info, folder, planned.entries)
            return await run.finish(what, planned, delivery), delivery.delivered


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _tell(settings: BulkSettings, summary: Summary, delivered: Delivered, seconds: float) -> int:
    """Print what the run came to; return the exit code."""
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
        print(f"failed: {reasons}; each is in {settings.run}/{FAILURES_FILE}, itself a manifest")
    if summary.unfinished:
        print(f"{summary.unfinished:,} shards are not finished; run the same command again")
    return _STOPPED if summary.unfinished else _SOME_FAILED if failed else 0


def run() -> int:
    """Read the settings, run, tell; return the exit code.

    Returns:
        0: all is indexed; 1: all but the entries in the failures file; 2: it could not go on.
    """
    try:
        settings = BulkSettings(_cli_parse_args=True)
    except ValidationError as error:
        print_settings_errors("sentinel bulk-index", error)
        return _STOPPED
    core_logging.configure(settings.log_level, settings.log_style)
    start = time.monotonic()
    try:
        summary, delivered = asyncio.run(bulk_index(settings))
    except (BulkError, SentinelError) as error:
        print(f"sentinel bulk-index: {error}", file=sys.stderr)
        return _STOPPED
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("sentinel bulk-index: stopped; run it again to go on", file=sys.stderr)
        return 130
    return _tell(settings, summary, delivered, time.monotonic() - start)
