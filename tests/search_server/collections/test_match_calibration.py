"""How match levels are found: by which gateway, when again, and from which scores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from search_server.collections import match_levels
from search_server.collections.catalog import Catalog
from search_server.collections.match_levels import (
    MatchCalibrator,
    background_queries,
    levels_from,
)
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import Embedded, EmbeddedItem, EmbedOptions
from sentinel_core.calls import Deadline
from sentinel_core.errors import Unavailable
from sentinel_core.metrics import ServerMetrics
from sentinel_core.vectors import Role
from sentinel_store.collections import CollectionInfo, MatchLevels, MatchRun
from sentinel_store.items import Content, Row
from sentinel_store.values import ModelRef
from tests import waiting

INFO = CollectionInfo("photos", ModelRef("m", "r", "f"), 8, {})
NEVER = 3600.0


class Pool:
    """Workers of one model, with random vectors; they may be away."""

    def __init__(self, **details: object) -> None:
        facts: dict[str, object] = {"languages": (), "sigmoid": False, **details}
        self.details = SimpleNamespace(logit_scale=100.0, logit_bias=0.0, **facts)
        self.calls: list[EmbedOptions] = []
        self.away = False

    def known(self, fingerprint: str) -> Any:
        return SimpleNamespace(details=self.details)

    async def embed(
        self, contents: Sequence[Content], *, options: EmbedOptions, **_: object
    ) -> Embedded:
        self.calls.append(options)
        if self.away:
            raise Unavailable("NO_HEALTHY_WORKER", "no worker is up")
        vectors = np.random.default_rng(1).normal(size=(len(contents), 8)).astype(np.float32)
        return Embedded([EmbeddedItem(vector) for vector in vectors], "f")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_AFTER_WRITE_S", "_AFTER_SEARCH_S", "_PAUSE_S", "_SETTLE_S", "_REST"):
        monkeypatch.setattr(match_levels, name, 0.01)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SearchStore]:
    store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
    await store.create_collection(INFO, deadline())
    await fill(store, 0, 20)
    yield store
    await store.close()


async def fill(store: SearchStore, first: int, end: int) -> None:
    vectors = np.random.default_rng(2).normal(size=(end, 8)).astype(np.float32)
    rows = [Row(str(n), "d", f"{n:064x}", "", {}, vectors[n]) for n in range(first, end)]
    await store.upsert(INFO, rows, deadline())


def deadline() -> Deadline:
    return Deadline.within(30.0)


def calibrator_of(store: SearchStore, pool: Pool, *, enabled: bool = True) -> MatchCalibrator:
    nothing: Any = None
    fake_pool: Any = pool
    metrics = ServerMetrics("gateway", CollectorRegistry())
    catalog = Catalog(store, nothing, nothing)
    return MatchCalibrator(catalog, fake_pool, store, metrics, enabled=enabled)


@asynccontextmanager
async def running(*calibrators: MatchCalibrator) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in calibrators]
    yield
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def described(store: SearchStore) -> CollectionInfo:
    info = await store.describe_collection(INFO.name, deadline())
    assert info is not None
    return info


async def levels_in(store: SearchStore, item_count: int) -> MatchLevels:
    """Wait until the collection has levels of so many items."""
    while True:
        levels = (await described(store)).match_levels
        if levels is not None and levels.item_count == item_count:
            return levels
        await asyncio.sleep(0.01)


async def test_queries_are_embedded_once_in_bulk_and_what_is_found_is_kept(
    store: SearchStore,
) -> None:
    pool = Pool()
    calibrator = calibrator_of(store, pool)
    async with running(calibrator):
        calibrator.note_write(INFO)
        first = await levels_in(store, 20)
        await fill(store, 20, 40)
        calibrator.note_write(INFO)
        second = await levels_in(store, 40)
    assert first != second
    assert pool.calls == [EmbedOptions(bulk=True, role=Role.QUERY)]
    assert calibrator.levels_of(await described(store)) == second
    assert calibrator_of(store, pool, enabled=False).levels_of(await described(store)) is None


async def test_a_little_growth_changes_nothing(store: SearchStore) -> None:
    calibrator = calibrator_of(store, Pool())
    async with running(calibrator):
        calibrator.note_write(INFO)
        levels = await levels_in(store, 20)
        await fill(store, 20, 29)
        looked = calibrator._looked.get(INFO.name, 0.0)
        calibrator.note_write(INFO)
        await waiting.eventually(lambda: calibrator._looked[INFO.name] > looked)
    assert (await described(store)).match_levels == levels


async def test_one_of_several_gateways_does_it(store: SearchStore) -> None:
    pools = [Pool() for _ in range(3)]
    calibrators = [calibrator_of(store, pool) for pool in pools]
    async with running(*calibrators):
        for calibrator in calibrators:
            calibrator.note_write(INFO)
        await levels_in(store, 20)
        await waiting.eventually(lambda: all(INFO.name in one._looked for one in calibrators))
    assert [len(pool.calls) for pool in pools].count(1) == 1
    assert sum(len(pool.calls) for pool in pools) == 1


@pytest.mark.parametrize(("age_s", "is_theirs"), [(1.0, True), (NEVER, False)])
async def test_another_gateway_is_left_alone_until_it_must_have_ended(
    store: SearchStore, age_s: float, is_theirs: bool
) -> None:
    info = await described(store)
    run = MatchRun("another", time.time() - age_s)
    await store.set_match(replace(info, match_run=run), deadline())
    pool = Pool()
    calibrator = calibrator_of(store, pool)
    async with running(calibrator):
        calibrator.note_search(INFO)
        await waiting.eventually(lambda: INFO.name in calibrator._looked)
    assert len(pool.calls) == (0 if is_theirs else 1)
    assert ((await described(store)).match_levels is None) == is_theirs


async def test_without_workers_it_tries_again(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_levels, "_RETRY_S", 0.01)
    pool = Pool()
    pool.away = True
    calibrator = calibrator_of(store, pool)
    async with running(calibrator):
        calibrator.note_search(INFO)
        await waiting.eventually(lambda: len(pool.calls) > 1)
        pool.away = False
        await levels_in(store, 20)


async def test_a_deleted_collection_is_forgotten(store: SearchStore) -> None:
    calibrator = calibrator_of(store, Pool())
    await store.drop_collection(INFO.name, deadline())
    async with running(calibrator):
        calibrator.note_write(INFO)
        await waiting.eventually(lambda: INFO.name in calibrator._looked)
        assert not calibrator._due


async def test_levels_of_an_earlier_collection_of_this_name_do_not_count(
    store: SearchStore,
) -> None:
    old = replace(await described(store), match_levels=MatchLevels(0.1, 0.2, 20))
    await store.drop_collection(INFO.name, deadline())
    await store.create_collection(INFO, deadline())
    await store.set_match(old, deadline())
    assert (await described(store)).match_levels is None


@pytest.mark.parametrize(
    ("languages", "does"), [((), True), (("en",), True), (("mul",), True), (("zh",), False)]
)
async def test_models_without_english_are_left_out(
    store: SearchStore, languages: tuple[str, ...], does: bool
) -> None:
    pool = Pool(languages=languages)
    calibrator = calibrator_of(store, pool)
    async with running(calibrator):
        calibrator.note_write(INFO)
        await waiting.eventually(lambda: INFO.name in calibrator._looked)
    assert bool(pool.calls) == does


def sigmoid_levels(scale: float, bias: float, **changes: object) -> MatchLevels | None:
    nothing: Any = None
    pool = Pool(sigmoid=True)
    pool.details.logit_scale, pool.details.logit_bias = scale, bias
    return calibrator_of(nothing, pool).levels_of(replace(INFO, **changes))  # type: ignore[arg-type]


def test_a_trained_sigmoid_tells_the_levels_by_itself() -> None:
    levels = sigmoid_levels(117.3, -12.9)  # those of SigLIP's base model
    assert levels is not None and levels.item_count == 0
    for level, probability in ((levels.fair, 0.01), (levels.strong, 0.1)):
        logit = 117.3 * level - 12.9
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(probability)


def test_a_sigmoid_that_was_not_trained_tells_nothing() -> None:
    assert sigmoid_levels(10.0, -10.0) is None  # of ONNX files: those that training begins with
    assert sigmoid_levels(117.3, -12.9, shortened=True) is None  # other cosines


async def test_a_trained_sigmoid_needs_no_background_queries(store: SearchStore) -> None:
    pool = Pool(sigmoid=True)
    calibrator = calibrator_of(store, pool)
    async with running(calibrator):
        calibrator.note_write(INFO)
        await waiting.eventually(lambda: INFO.name in calibrator._looked)
    assert pool.calls == []


def test_levels_bear_that_some_background_queries_are_about_present_things() -> None:
    random = np.random.default_rng(3)
    absent = random.normal(0.22, 0.02, 200)
    clean = levels_from(absent.tolist(), 1)
    assert clean.fair == pytest.approx(0.24, abs=0.005)
    assert clean.strong == pytest.approx(0.26, abs=0.01)
    present = random.normal(0.32, 0.02, 60)
    mixed = levels_from([*absent, *present], 1)
    assert mixed.fair < 0.27  # a percentile would be where present things are
    assert mixed.strong < 0.30 < float(np.percentile([*absent, *present], 90))


def test_levels_never_exceed_the_largest_cosine() -> None:
    levels = levels_from([0.2, 0.5, 0.99, 0.99, 0.99], 5)
    assert levels.fair == levels.strong == 1.0


def test_background_queries_are_many_and_short_and_all_different() -> None:
    found = background_queries()
    assert 200 <= len(found) == len(set(found)) <= 300
    assert all(query == query.strip() and 3 <= len(query) <= 50 for query in found)
