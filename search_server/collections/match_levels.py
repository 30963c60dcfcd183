"""Find out what scores mean in a collection: from which cosine on an image matches a text.

A model that was trained with a sigmoid tells it by itself. For others, the gateway searches a fixed
list of queries about things that few collections have (background_queries.txt). What they score is
what a query about an absent thing scores. The levels are kept with the collection, and renewed when
its size has changed by half (docs/adr/0028).

All of that happens in the background, some vectors at a time. A search only reads the levels.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np
from prometheus_client import Histogram

from search_server.collections.catalog import Catalog
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import ServedModel
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import EmbedOptions
from search_server.types.searches import Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import NotFound, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_core.vectors import Role
from sentinel_store.collections import CollectionInfo, MatchLevels, MatchRun
from sentinel_store.items import Content, Kind
from sentinel_store.milvus import schema
from sentinel_store.values import Consistency, FloatArray

logger = logging.getLogger(__name__)

# Probabilities of a model's own sigmoid. Those of SigLIP are low: published examples give right
# captions 0.22 to 0.37 and wrong ones less than 0.0005. The models learned from batches of 32,768
# pairs; there, 0.01 says that of 32,768 random pictures, at most 100 match so well (docs/adr/0028).
_FAIR_PROBABILITY, _STRONG_PROBABILITY = 0.01, 0.1
# Training begins with a scale of 10, and files without the trained one leave us that. It would call
# everything weak. Trained scales are above 80.
_TRAINED_SCALE = 20.0

# Fewer images say little about scores.
_LEAST_IMAGES = 10
# The levels are found again when the number of items has changed by this factor.
_CHANGE = 1.5
# How long after a write or a search a collection is looked at, and how often at most, in seconds.
_AFTER_WRITE_S, _AFTER_SEARCH_S, _PAUSE_S = 2.0, 0.1, 10.0
_RETRY_S = 60.0
# How long another gateway's run keeps us away; and how long we wait to see who was the last to say
# that it begins: Milvus has no "compare and set".
_RUN_S, _SETTLE_S = 600.0, 1.0
# Vectors of one call to Milvus. After each call we rest this many times as long as it took.
_AT_ONCE, _REST = 8, 3.0
_TIMEOUT_S = 300.0
_MOST_NOTED = 10_000
_MOST_MODELS = 8
_DURATIONS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class MatchCalibrator:
    """Knows the match levels of collections, and keeps them up to date while it runs.

    Use inside one event loop. Several gateways share the work by what they write to the collection.
    """

    def __init__(
        self,
        catalog: Catalog,
        pool: EmbedderPool,
        store: SearchStore,
        metrics: ServerMetrics,
        *,
        enabled: bool,
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._store = store
        self._enabled = enabled
        self._runner = uuid.uuid4().hex
        self._due: dict[str, float] = {}  # when to look at a collection, by its name
        self._looked: dict[str, float] = {}  # when it was looked at
        self._in_vain: dict[str, int] = {}  # its size when it had too few images, by its id
        self._noted = asyncio.Event()
        # By fingerprint and dimensions: float32 `[queries, dimensions]`.
        self._vectors: dict[tuple[str, int | None], Sequence[FloatArray]] = {}
        self._duration = Histogram(
            f"sentinel_{metrics.process}_match_calibration_duration_seconds",
            "Time to find the match levels of a collection, by outcome: found, too_few (images), "
            "or the error reason.",
            ["outcome"],
            buckets=_DURATIONS,
            registry=metrics.registry,
        )

    def levels_of(self, info: CollectionInfo) -> MatchLevels | None:
        """Return the levels of a collection; None while nobody knows them."""
        if not self._enabled:
            return None
        return _model_levels(info, self._pool.known(info.model.fingerprint)) or info.match_levels

    def note_write(self, info: CollectionInfo) -> None:
        """Look at a collection soon, since its size may have changed."""
        self._note(info, _AFTER_WRITE_S)

    def note_search(self, info: CollectionInfo) -> None:
        """Look at a collection soon if this gateway has not done so for a minute."""
        if info.name not in self._looked or time.monotonic() - self._looked[info.name] > _RETRY_S:
            self._note(info, _AFTER_SEARCH_S)

    def _note(self, info: CollectionInfo, after_s: float) -> None:
        if not self._enabled or info.name in self._due:
            return
        if len(self._due) + len(self._looked) + len(self._in_vain) > _MOST_NOTED:
            for noted in (self._due, self._looked, self._in_vain):
                noted.clear()
        now = time.monotonic()
        self._due[info.name] = max(now + after_s, self._looked.get(info.name, 0.0) + _PAUSE_S)
        self._noted.set()

    async def run(self) -> None:
        """Look at the noted collections, one at a time, for ever."""
        while True:
            self._noted.clear()
            now = time.monotonic()
            for name in [name for name, due in self._due.items() if due <= now]:
                del self._due[name]
                await self._look(name)
            wait_s = min(self._due.values(), default=math.inf) - time.monotonic()
            try:
                async with asyncio.timeout(None if wait_s == math.inf else max(0.0, wait_s)):
                    await self._noted.wait()
            except TimeoutError:
                continue

    async def _look(self, name: str) -> None:
        start = time.monotonic()
        try:
            outcome = await self._renew(name, Deadline.within(_TIMEOUT_S))
        except NotFound:
            return  # it was deleted
        except SentinelError as error:
            outcome = error.reason.lower()
            extra = {"collection": name, "reason": error.reason, "why": error.message}
            logger.info("match levels not found, will try again", extra=extra)
            self._due[name] = time.monotonic() + _RETRY_S
        finally:
            self._looked[name] = time.monotonic()
        if outcome:
            self._duration.labels(outcome).observe(time.monotonic() - start)

    async def _renew(self, name: str, deadline: Deadline) -> str:
        """Find the levels of a collection if it is time; return the outcome, "" if it is not."""
        info = await self._catalog.find_own(name, deadline)
        if info is None or _model_levels(info, self._model(info)) is not None:
            return ""
        count = await self._store.count(info, "", deadline, consistency=Consistency.BOUNDED)
        levels = info.match_levels
        found_at = levels.item_count if levels else self._in_vain.get(info.id, 0)
        if not _has_changed(found_at, count) or not _knows_english(self._model(info)):
            return ""
        if not await self._begin(info, deadline):
            return ""
        start = time.monotonic()
        found = await self._found(info, count, deadline)
        if found is None:
            self._in_vain[info.id] = count
        if found is not None or levels is not None:
            await self._store.set_match(self._marked(info, found), deadline)
            self._catalog.forget(info.name)
        if found is None:
            return "too_few"
        logger.info(
            "match levels found",
            extra={
                "collection": info.name,
                "items": count,
                "fair": round(found.fair, 4),
                "strong": round(found.strong, 4),
                "took_s": round(time.monotonic() - start, 2),
            },
        )
        return "found"

    async def _begin(self, info: CollectionInfo, deadline: Deadline) -> bool:
        """Tell the other gateways that we begin; return False if another one does it."""
        run = info.match_run
        if run is not None and run.runner != self._runner:
            left_s = run.started + _RUN_S - time.time()
            if 0 < left_s <= _RUN_S:
                self._due[info.name] = time.monotonic() + left_s
                return False
        await self._store.set_match(self._marked(info, info.match_levels), deadline)
        await asyncio.sleep(_SETTLE_S * random.uniform(1.0, 1.5))
        now = await self._catalog.get_own(info.name, deadline)
        mine = now.match_run is not None and now.match_run.runner == self._runner
        return mine and now.id == info.id

    def _marked(self, info: CollectionInfo, levels: MatchLevels | None) -> CollectionInfo:
        return replace(info, match_levels=levels, match_run=MatchRun(self._runner, time.time()))

    async def _found(
        self, info: CollectionInfo, count: int, deadline: Deadline
    ) -> MatchLevels | None:
        """Return the levels of a collection; None if it has too few images."""
        vectors = await self._background(info, deadline)
        selection = Selection(info, schema.IS_IMAGE, Consistency.BOUNDED, deadline)
        [nearest] = await self._store.vectors.nearest_ids(
            selection, vectors[:1], limit=_LEAST_IMAGES
        )
        if len(nearest) < _LEAST_IMAGES:
            return None
        scores = [nearest[0][1]]
        for start in range(1, len(vectors), _AT_ONCE):
            began = time.monotonic()
            found = await self._store.vectors.nearest_ids(
                selection, vectors[start : start + _AT_ONCE], limit=1
            )
            scores += [ranking[0][1] for ranking in found if ranking]
            # Searches go first.
            await asyncio.sleep(_REST * (time.monotonic() - began))
        return levels_from(scores, count)

    async def _background(self, info: CollectionInfo, deadline: Deadline) -> Sequence[FloatArray]:
        """Return the vectors of the background queries, which are embedded once for each model."""
        key = (info.model.fingerprint, info.requested_dimensions)
        if key not in self._vectors:
            embedded = await self._pool.embed(
                [Content(Kind.TEXT, query.encode()) for query in background_queries()],
                fingerprint=info.model.fingerprint,
                deadline=deadline,
                options=EmbedOptions(bulk=True, dimensions=key[1], role=Role.QUERY),
            )
            if failed := next((item.error for item in embedded.items if item.error), None):
                raise failed
            while len(self._vectors) >= _MOST_MODELS:
                del self._vectors[next(iter(self._vectors))]
            self._vectors[key] = [item.vector for item in embedded.items if item.vector is not None]
        return self._vectors[key]

    def _model(self, info: CollectionInfo) -> ServedModel | None:
        return self._pool.known(info.model.fingerprint)


def levels_from(scores: Sequence[float], item_count: int) -> MatchLevels:
    """Return the levels that the best scores of the background queries give.

    Some of these queries are about things that the collection does have, and score high. So the
    spread is that of the lower half: from the 16th percentile to the median, which is one standard
    deviation of a normal distribution. A fair match is one above the median, a strong one two.
    """
    low, middle = np.percentile(scores, (16, 50))
    spread = float(middle - low)
    fair, strong = (min(1.0, float(middle) + times * spread) for times in (1, 2))
    return MatchLevels(fair, strong, item_count)


@cache
def background_queries() -> tuple[str, ...]:
    """Return some 250 short English queries about all kinds of things, each in few collections."""
    text = resources.files(__package__).joinpath("background_queries.txt").read_text("utf-8")
    return tuple(text.splitlines())


def _model_levels(info: CollectionInfo, model: ServedModel | None) -> MatchLevels | None:
    """Return the levels of a model that has a trained scale of its own."""
    if model is None or info.shortened:
        return None
    scale, bias = model.details.logit_scale, model.details.logit_bias
    if not model.details.sigmoid or scale < _TRAINED_SCALE:
        return None
    fair, strong = (
        (math.log(probability / (1 - probability)) - bias) / scale
        for probability in (_FAIR_PROBABILITY, _STRONG_PROBABILITY)
    )
    return MatchLevels(fair, strong, item_count=0)


def _has_changed(before: int, now: int) -> bool:
    if not before:
        return now >= _LEAST_IMAGES
    return not before / _CHANGE < now < before * _CHANGE


def _knows_english(model: ServedModel | None) -> bool:
    """Tell whether a model reads the background queries; True if nobody knows."""
    tags = model.details.languages if model is not None else ()
    return not tags or bool({"en", "mul"} & {tag.partition("-")[0] for tag in tags})
