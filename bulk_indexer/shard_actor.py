"""Embed one shard after another in an actor that owns a device, and write their files.

Knows no data engine. The engine's event loop runs in a thread, so that several shards can be in
progress at once and the device works on one while another is written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from bulk_indexer import row_files
from bulk_indexer.file_reader import FileReader
from bulk_indexer.run_folder import BulkError, Run, RunFolder, read_entries, shard_file
from bulk_indexer.shard_embedder import ShardEmbedder, ShardRows
from embedder_server.in_process import InProcessEmbedder
from embedder_server.settings import EmbedderSettings
from sentinel_store.images.image_store import ImageStore

logger = logging.getLogger(__name__)

# A short fault of the network or of a store must not end the run.
_PAUSES_S = (2.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that an actor needs. It is sent to other machines, so it holds plain values.

    `run_uri` is the absolute URI or path of the run folder.
    """

    run_uri: str
    run: Run
    embedder: EmbedderSettings
    max_image_bytes: int


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The result of one shard, as in its `done` file.

    Attributes:
        duplicates: Entries that share their id with another entry of the shard.
        image_bytes: Size of the images read.
        seconds: From the first read to the last write.
        error: Why the shard is not finished; empty: it is.
    """

    shard: int
    rows: int = 0
    failures: int = 0
    duplicates: int = 0
    image_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


class ShardActor:
    """Loads the model once, then embeds shards; several threads may call `embed`."""

    def __init__(self, job: Job) -> None:
        """Load the model and start the engine; raise BulkError if the model is not the run's."""
        self._job = job
        self._folder = RunFolder(job.run_uri)
        ours, theirs = InProcessEmbedder(job.embedder), job.run.info.model
        if ours.info.fingerprint != theirs.fingerprint:
            asyncio.run(ours.close())
            raise BulkError(
                f"this machine's model is {ours.info.name} {ours.info.fingerprint[:12]}, the "
                f"run's is {theirs.model} {theirs.fingerprint[:12]}; use equal versions"
            )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        starting = asyncio.run_coroutine_threadsafe(_start(ours, job), self._loop)
        self._embedder = starting.result()
        self._close = ours.close

    def close(self) -> None:
        """End the engine and its processes. An actor that Ray kills needs no call."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def embed(self, shard: int, pause: Callable[[float], None] = time.sleep) -> ShardReport:
        """Embed one shard and write its files; the report contains a lasting error."""
        for wait in (*_PAUSES_S, None):
            try:
                return self._embed(shard)
            except Exception as error:  # of engine, stores or file systems: a retry may help
                logger.warning("shard failed", exc_info=error, extra={"shard": shard})
                if wait is None:
                    return ShardReport(shard, error=f"{type(error).__name__}: {error}")
                pause(wait)
        raise AssertionError  # the last attempt returns

    def _embed(self, shard: int) -> ShardReport:
        start = time.monotonic()
        entries = read_entries(self._folder, shard)
        embedding = asyncio.run_coroutine_threadsafe(self._embedder.embed(entries), self._loop)
        report = self._write(shard, embedding.result(), start)
        logger.info("shard done", extra=asdict(report))
        return report

    def _write(self, shard: int, result: ShardRows, start: float) -> ShardReport:
        rows = row_files.encode(result.rows, self._job.run.info)
        lines = [json.dumps(failure.as_line(), default=str) + "\n" for failure in result.failures]
        self._folder.write(shard_file("rows", shard), rows)
        # Written even when empty: an interrupted attempt may have left another file.
        self._folder.write(shard_file("failures", shard), "".join(lines).encode())
        report = ShardReport(
            shard,
            len(result.rows),
            len(result.failures),
            result.duplicates,
            result.image_bytes,
            round(time.monotonic() - start, 3),
        )
        # Last, since it says that the other files are complete.
        self._folder.write(shard_file("done", shard), json.dumps(asdict(report)).encode())
        return report


async def _start(embedder: InProcessEmbedder, job: Job) -> ShardEmbedder:
    await embedder.start(_on_failure)
    return ShardEmbedder(
        embedder,
        ImageStore(job.run.object_store_uri),
        FileReader(job.max_image_bytes),
        job.run.info,
        thumbnail_side=job.run.thumbnail_side,
        max_image_bytes=job.max_image_bytes,
    )


def _on_failure(error: BaseException) -> None:
    logger.critical("the engine died", exc_info=error)
    logging.shutdown()
    os._exit(1)  # the cluster starts another actor
