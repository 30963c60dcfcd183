"""A run, step by step: know the model, claim the folder, plan, embed, deliver, report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeVar

from bulk_indexer import plan
from bulk_indexer.cluster import Cluster, Layout
from bulk_indexer.delivery import Delivery
from bulk_indexer.errors import BulkError
from bulk_indexer.inputs import entries_of
from bulk_indexer.manifests import Columns
from bulk_indexer.plan import Plan, Run
from bulk_indexer.report import Summary, write_report
from bulk_indexer.run_folder import RunFolder
from bulk_indexer.settings import BulkSettings
from bulk_indexer.shard_actor import Job, describe_model
from embedder_server.settings import EmbedderSettings
from embedder_server.types import ModelLoadError
from sentinel_store.collections import CollectionInfo
from sentinel_store.settings import StoreSettings
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

T = TypeVar("T")
# So many shards one after the other without a success: that is no bad luck.
_GIVE_UP_AFTER = 5


class BulkRun:
    """One run. Use from one event loop; what blocks runs on a thread of its own.

    Args:
        settings: Of the command.
        storage: Where things are kept, and the limits of the online path.
        folder: The run's.
        cluster: Started when it is needed.
    """

    def __init__(
        self,
        settings: BulkSettings,
        storage: StoreSettings,
        folder: RunFolder,
        cluster: Cluster,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._folder = folder
        self._cluster = cluster
        # One, since the cluster is one thread's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run")

    async def model(self) -> tuple[ModelRef, int]:
        """Return the run's model and its dimensions, from its folder or else by loading it.

        Raises:
            BulkError: It cannot be loaded.
        """
        known = await self._blocking(lambda: plan.read_run(self._folder))
        if known is not None:
            return known.info.model, known.dimensions
        return await self._blocking(self._describe_model)

    def _describe_model(self) -> tuple[ModelRef, int]:
        if self._settings.device == "cuda":  # which this machine need not have
            return self._cluster.describe_model(self._embedder(), self._layout())
        try:
            return describe_model(self._settings.embedder())
        except ModelLoadError as error:
            raise BulkError(f"cannot load the model: {error}") from error

    async def prepare(self, info: CollectionInfo) -> tuple[Run, Plan]:
        """Make the folder this run's and cut the dataset, unless that is done.

        Raises:
            BulkError: The folder holds another run, or the inputs cannot be read.
        """
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
        )
        columns = Columns(
            settings.image_column, settings.id_column, settings.text_column, frozenset(info.fields)
        )

        def claim_and_plan() -> Plan:
            plan.claim(self._folder, run)
            return plan.read_plan(self._folder) or plan.write_plan(
                self._folder, entries_of(run.inputs, columns), run.shard_items
            )

        return run, await self._blocking(claim_and_plan)

    async def finish(self, run: Run, planned: Plan, delivery: Delivery) -> Summary:
        """Embed and deliver what is left of it, then report on all of it.

        Raises:
            BulkError: It cannot go on.
        """
        done = await self._blocking(lambda: self._folder.numbers("done"))
        delivered = await self._blocking(lambda: self._folder.numbers("delivered"))
        todo = [shard for shard in range(planned.shards) if shard not in done]
        logger.info(
            "planned",
            extra={"entries": planned.entries, "shards": planned.shards, "to_do": len(todo)},
        )
        for shard in sorted(done - delivered):
            await delivery.add(shard)
        if todo:
            await self._embed(run, todo, delivery)
        await delivery.finish()
        return await self._blocking(lambda: write_report(self._folder, planned))

    async def _embed(self, run: Run, todo: list[int], delivery: Delivery) -> None:
        job = Job(self._folder.uri, run, self._embedder(), self._storage.max_image_bytes)
        start, items, finished, in_a_row = time.monotonic(), 0, 0, 0
        reports = await self._blocking(lambda: self._cluster.embed(job, todo, self._layout()))
        while (report := await self._blocking(lambda: next(reports, None))) is not None:
            if report.error:
                logger.error("shard not finished", extra=asdict(report))
                in_a_row += 1
                if in_a_row == _GIVE_UP_AFTER:
                    raise BulkError(f"{in_a_row} shards in a row failed, at last: {report.error}")
                continue
            in_a_row = 0
            finished += 1
            items += report.rows + report.failures + report.duplicates
            logger.info(
                "shard finished",
                extra={
                    **asdict(report),
                    "finished": f"{finished}/{len(todo)}",
                    "items_per_second": round(items / (time.monotonic() - start), 1),
                },
            )
            await delivery.add(report.shard)

    def _layout(self) -> Layout:
        return self._cluster.layout(
            on_gpu=self._settings.device == "cuda",
            actors=self._settings.actors,
            cpus_per_actor=self._settings.cpus_per_actor,
        )

    def _embedder(self) -> EmbedderSettings:
        """Return the engine's settings; an actor's threads are as many as its cores."""
        settings, cpus = self._settings.embedder(), self._layout().cpus
        unset = [name for name in ("threads", "decode_threads") if not getattr(settings, name)]
        return settings.model_copy(update=dict.fromkeys(unset, cpus))

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
