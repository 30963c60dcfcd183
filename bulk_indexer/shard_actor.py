"""What one actor is: an embedding engine on a device of its own, and one shard after the other.

Knows no data engine. The engine's event loop runs on a thread, so that several shards can be under
way at once and the device has work while one of them is written.
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

from prometheus_client import CollectorRegistry

from bulk_indexer import row_files
from bulk_indexer.errors import BulkError
from bulk_indexer.plan import Run, entries_of_shard
from bulk_indexer.reading import FileReader
from bulk_indexer.run_folder import RunFolder, shard_file
from bulk_indexer.shard import ShardEmbedder, ShardRows
from embedder_server.engine.engine import Engine
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.loading import load_configured
from embedder_server.settings import EmbedderSettings
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

# A passing fault of the network or of a store should not cost the whole run.
_PAUSES_S = (2.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class Job:
    """All that an actor needs; travels to other machines, so it holds plain values only.

    Attributes:
        run_uri: Absolute URI or path of the run folder.
        run: What the run is.
        embedder: Settings of the engine.
        max_image_bytes: Larger images are refused.
    """

    run_uri: str
    run: Run
    embedder: EmbedderSettings
    max_image_bytes: int


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What became of one shard, as its `done` file tells.

    Attributes:
        rows: In its rows file.
        duplicates: Entries whose id another entry of the shard has.
        image_bytes: Of the images read.
        seconds: From its first read to its last write.
        error: Why it is not finished; empty when it is.
    """

    shard: int
    rows: int = 0
    failures: int = 0
    duplicates: int = 0
    image_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


def describe_model(settings: EmbedderSettings) -> tuple[ModelRef, int]:
    """Return the model that the settings name, and its dimensions. Loads it.

    Raises:
        ModelLoadError: It cannot be loaded.
    """
    model = load_configured(settings)
    info = model.info
    model.close()
    return ModelRef(info.name, info.revision, info.fingerprint), info.dimensions


class ShardActor:
    """Loads the model once, then embeds shards; `embed` may be called by several threads."""

    def __init__(self, job: Job) -> None:
        """Load the model and start the engine.

        Raises:
            ModelLoadError: The model cannot be loaded.
            BulkError: It is another one than the run's.
        """
        self._job = job
        self._folder = RunFolder(job.run_uri)
        info = job.run.info
        model = load_configured(job.embedder)
        if model.info.fingerprint != info.model.fingerprint:
            raise BulkError(
                f"this machine's model is {model.info.name} {model.info.fingerprint[:12]}, the "
                f"run's is {info.model.model} {info.model.fingerprint[:12]}; use equal versions"
            )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()

        async def start() -> ShardEmbedder:
            metrics = EmbedderMetrics(CollectorRegistry())
            engine = Engine(model, job.embedder, metrics, _on_failure)
            await engine.start()
            return ShardEmbedder(
                engine,
                ObjectStore(job.run.object_store_uri),
                FileReader(job.max_image_bytes),
                info,
                thumbnail_side=job.run.thumbnail_side,
                max_image_bytes=job.max_image_bytes,
            )

        self._embedder = asyncio.run_coroutine_threadsafe(start(), self._loop).result()

    def embed(self, shard: int, pause: Callable[[float], None] = time.sleep) -> ShardReport:
        """Embed one shard and write its files; what fails for good is told in the report."""
        for wait in (*_PAUSES_S, None):
            try:
                return self._embed(shard)
            except Exception as error:  # of engine, stores or file systems: all may pass
                logger.warning("shard failed", exc_info=error, extra={"shard": shard})
                if wait is None:
                    return ShardReport(shard, error=f"{type(error).__name__}: {error}")
                pause(wait)
        raise AssertionError  # the last round returns

    def _embed(self, shard: int) -> ShardReport:
        start = time.monotonic()
        entries = entries_of_shard(self._folder, shard)
        embedding = asyncio.run_coroutine_threadsafe(self._embedder.embed(entries), self._loop)
        made = embedding.result()
        report = self._write(shard, made, start)
        logger.info("shard done", extra=asdict(report))
        return report

    def _write(self, shard: int, made: ShardRows, start: float) -> ShardReport:
        rows = row_files.encode(made.rows, self._job.run.info)
        lines = [json.dumps(failure.as_line(), default=str) + "\n" for failure in made.failures]
        self._folder.write(shard_file("rows", shard), rows)
        # Written even when empty: an earlier, interrupted attempt may have left another one.
        self._folder.write(shard_file("failures", shard), "".join(lines).encode())
        report = ShardReport(
            shard,
            len(made.rows),
            len(made.failures),
            made.duplicates,
            made.image_bytes,
            round(time.monotonic() - start, 3),
        )
        # Last: it says that the others are whole.
        self._folder.write(shard_file("done", shard), json.dumps(asdict(report)).encode())
        return report


def _on_failure(error: BaseException) -> None:
    logger.critical("the engine's device thread died", exc_info=error)
    logging.shutdown()
    os._exit(1)  # of no use any more; the cluster starts another actor in its place
