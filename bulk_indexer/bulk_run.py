"""Run one bulk index job: identify the model, plan, embed, deliver, report."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeVar

from bulk_indexer.cluster import Cluster, Layout
from bulk_indexer.dataset import ManifestColumns, entries_of
from bulk_indexer.delivery import Delivery
from bulk_indexer.progress import RunProgress
from bulk_indexer.run_folder import (
    BulkError,
    Plan,
    Run,
    RunFolder,
    claim,
    read_plan,
    read_run,
    shard_file,
    write_plan,
)
from bulk_indexer.settings import BulkSettings
from bulk_indexer.shard_actor import Job, ShardReport
from embedder_server.in_process import ModelLoadError, describe_model
from embedder_server.settings import EmbedderSettings
from sentinel_store.collections import CollectionInfo
from sentinel_store.settings import StoreSettings
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

T = TypeVar("T")
FAILURES_FILE = "failures.jsonl"
_MAX_CONSECUTIVE_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of a run, of this and all earlier attempts.

    Attributes:
        rows: Items that have a row; each shard counts its own.
        failures: Number of entries without a row, by reason; the failures file lists them.
        unfinished: Shards that are not finished.
    """

    entries: int
    shards: int
    rows: int
    duplicates: int
    failures: dict[str, int]
    unfinished: int


class BulkRun:
    """One run. Use from one event loop. Methods raise BulkError if the run cannot continue."""

    def __init__(
        self,
        settings: BulkSettings,
        storage: StoreSettings,
        folder: RunFolder,
        cluster: Cluster,
        progress: RunProgress,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._folder = folder
        self._cluster = cluster
        self._progress = progress
        # One thread, since the cluster belongs to one.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run")

    async def model(self) -> tuple[ModelRef, int]:
        """Return the model and its dimensions, from the run folder or by loading the model."""
        known = await self._blocking(lambda: read_run(self._folder))
        if known is not None:
            return known.info.model, known.dimensions
        self._progress.say("loading the model")
        return await self._blocking(self._load_model)

    def _load_model(self) -> tuple[ModelRef, int]:
        if self._settings.device == "cuda":  # this machine may have none
            info = self._cluster.describe_model(self._embedder(), self._layout())
        else:
            try:
                info = describe_model(self._settings.embedder())
            except ModelLoadError as error:
                raise BulkError(f"cannot load the model: {error}") from error
        return ModelRef(info.name, info.revision, info.fingerprint), info.dimensions

    async def prepare(self, info: CollectionInfo) -> tuple[Run, Plan]:
        """Claim the folder and plan the shards, unless an earlier attempt did."""
        settings = self._settings
        run = Run(
            collection=info.name,
            model=info.model.model,
            revision=info.model.revision,
            fingerprint=info.model.fingerprint,
            dimensions=info.dimensions,
            fields={name: str(field_type) for name, field_type in info.fields.items()},
            full_text=info.full_text,
            inputs=tuple(settings.inputs),
            object_store_uri=self._storage.object_store_uri,
            thumbnail_side=self._storage.thumbnail_side,
            shard_items=settings.shard_items,
            shortened=info.shortened,
            element=str(info.storage.element),
            rescore=info.storage.rescore,
        )
        columns = ManifestColumns(
            settings.image_column, settings.id_column, settings.text_column, frozenset(info.fields)
        )

        self._progress.say("reading the inputs")

        def claim_and_plan() -> Plan:
            claim(self._folder, run)
            return read_plan(self._folder) or write_plan(
                self._folder, entries_of(run.inputs, columns), run.shard_items
            )

        return run, await self._blocking(claim_and_plan)

    async def finish(self, run: Run, plan: Plan, delivery: Delivery) -> Summary:
        """Embed and deliver the remaining shards, then report on all shards."""
        done = await self._blocking(lambda: self._folder.numbers("done"))
        delivered = await self._blocking(lambda: self._folder.numbers("delivered"))
        remaining = [shard for shard in range(plan.shards) if shard not in done]
        logger.info(
            "planned",
            extra={"entries": plan.entries, "shards": plan.shards, "to_do": len(remaining)},
        )
        self._progress.plan(plan.entries)
        self._progress.advance(sum(run.entries_of(shard, plan) for shard in done & delivered))
        for shard in sorted(done - delivered):
            await self._deliver(shard, run, plan, delivery)
        if remaining:
            await self._embed(run, plan, remaining, delivery)
        self._progress.say("waiting for Milvus")
        await delivery.finish()
        return await self._blocking(lambda: write_report(self._folder, plan))

    async def _deliver(self, shard: int, run: Run, plan: Plan, delivery: Delivery) -> None:
        await delivery.add(shard)
        self._progress.advance(run.entries_of(shard, plan))

    async def _embed(self, run: Run, plan: Plan, shards: list[int], delivery: Delivery) -> None:
        # In the thread, since it starts the cluster: the loop must hear of Ctrl-C and SIGTERM.
        embedder = await self._blocking(self._embedder)
        job = Job(self._folder.uri, run, embedder, self._storage.max_image_bytes)
        start, items, finished, consecutive_failures = time.monotonic(), 0, 0, 0
        self._progress.say("indexing")
        reports = await self._blocking(lambda: self._cluster.embed(job, shards, self._layout()))
        while (report := await self._blocking(lambda: next(reports, None))) is not None:
            if report.error:
                logger.error("shard not finished", extra=asdict(report))
                consecutive_failures += 1
                if consecutive_failures == _MAX_CONSECUTIVE_FAILURES:
                    raise BulkError(
                        f"stopped after {consecutive_failures} consecutive failed shards; the "
                        f"last error: {report.error}"
                    )
                continue
            consecutive_failures = 0
            finished += 1
            items += report.rows + report.failures + report.duplicates
            logger.info(
                "shard finished",
                extra={
                    **asdict(report),
                    "finished": f"{finished}/{len(shards)}",
                    "items_per_second": round(items / (time.monotonic() - start), 1),
                },
            )
            await self._deliver(report.shard, run, plan, delivery)

    def _layout(self) -> Layout:
        return self._cluster.layout(
            on_gpu=self._settings.device == "cuda",
            actors=self._settings.actors,
            cpus_per_actor=self._settings.cpus_per_actor,
        )

    def _embedder(self) -> EmbedderSettings:
        """Return the engine's settings, with as many threads as an actor has cores."""
        settings, cpus = self._settings.embedder(), self._layout().cpus
        unset = [name for name in ("threads", "decode_processes") if not getattr(settings, name)]
        return settings.model_copy(update=dict.fromkeys(unset, cpus))

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def write_report(folder: RunFolder, plan: Plan) -> Summary:
    """Write all failures into one manifest, and return the summary."""
    done = sorted(folder.numbers("done"))
    reports = [ShardReport(**json.loads(folder.read(shard_file("done", one)))) for one in done]
    reasons: Counter[str] = Counter()
    with folder.open_for_writing(FAILURES_FILE) as file:
        for report in reports:
            if report.failures:
                lines = folder.read(shard_file("failures", report.shard))
                file.write(lines)
                reasons.update(json.loads(line)["error_reason"] for line in lines.splitlines())
    return Summary(
        entries=plan.entries,
        shards=plan.shards,
        rows=sum(report.rows for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        failures=dict(reasons),
        unfinished=plan.shards - len(done),
    )
