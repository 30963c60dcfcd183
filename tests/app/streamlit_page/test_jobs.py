"""What runs in the background of a page: nothing that fails there looks like success."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sentinel_app.streamlit_page import index_job, search_job
from sentinel_app.streamlit_page.backend import Backend
from sentinel_app.streamlit_page.index_job import IndexJob
from sentinel_app.streamlit_page.search_job import SearchJob, SearchRequest, text_term
from sentinel_app.uploads import UploadedImage, pending_uploads
from sentinel_client import Collection, Hit, IngestAck, Item, ModelVersion, SearchOptions
from tests.waiting import until

ALBUM = Collection("album", ModelVersion(), 4, 0)
REQUEST = SearchRequest((text_term("a cat"),), "album", 10, SearchOptions())
FILES = [(f"{n}.png", b"data") for n in range(3)]
MOST = 100


@pytest.fixture
def backend() -> Backend:
    return Backend("127.0.0.1:1")


def ended(job: Any) -> Any:
    until(lambda: not job.running)
    return job


def instead(backend: Backend, name: str, method: Any) -> None:
    setattr(backend.client, name, method)


async def storing(items: Any, **_: Any) -> AsyncGenerator[IngestAck, None]:
    """Store what comes, as the client's `ingest` does."""
    async for item in items:
        yield IngestAck((item,), stored_count=1)


def test_a_connection_closes_when_nobody_uses_it(backend: Backend) -> None:
    closed = threading.Event()

    async def close() -> None:
        closed.set()

    visitor = backend.with_key("sen_one_secret")
    instead(visitor, "close", close)
    assert not closed.is_set()
    del visitor
    gc.collect()
    assert closed.wait(20)


def test_files_are_counted_first_and_stored(backend: Backend) -> None:
    instead(backend, "ingest", storing)
    job = ended(IndexJob(backend, ALBUM, FILES, MOST))
    assert (job.stored, job.total, job.error, job.stopped) == (3, 3, None, False)
    assert pending_uploads == {}


def test_whatever_ends_an_import_early_is_an_error(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(files: Any, most: int) -> Any:
        yield UploadedImage("0.png", b"data")
        raise NotImplementedError("zip file version 9.9")

    monkeypatch.setattr(index_job, "images_in", broken)
    instead(backend, "ingest", storing)
    job = ended(IndexJob(backend, ALBUM, FILES, MOST))
    assert job.stored == 1
    assert job.error is not None
    assert "Its log has the details" in job.error.message
    assert pending_uploads == {}


def test_an_import_that_was_stopped_says_so(backend: Backend) -> None:
    async def slow(items: Any, **_: Any) -> AsyncGenerator[IngestAck, None]:
        async for item in items:
            yield IngestAck((item,), stored_count=1)
            await asyncio.sleep(60)

    instead(backend, "ingest", slow)
    job = IndexJob(backend, ALBUM, FILES, MOST)
    until(lambda: job.stored == 1)
    job.stop()
    assert job.stopped
    assert not job.running
    assert (job.done, job.total) == (1, 3)
    until(lambda: pending_uploads == {})


def test_imports_of_many_people_wait_for_each_other(backend: Backend) -> None:
    gate = threading.Event()
    storing_now: list[int] = []

    async def held(items: Any, **_: Any) -> AsyncGenerator[IngestAck, None]:
        async for item in items:
            storing_now.append(1)
            await asyncio.to_thread(gate.wait)
            yield IngestAck((item,), stored_count=1)

    instead(backend, "ingest", held)
    jobs = [IndexJob(backend, ALBUM, FILES[:1], MOST) for _ in range(4)]
    until(lambda: len(storing_now) == 2 and sum(job.waiting for job in jobs) == 2)
    stopped = next(job for job in jobs if job.waiting)
    stopped.stop()
    gate.set()
    for job in jobs:
        ended(job)
    assert sorted(job.stored for job in jobs) == [0, 1, 1, 1]
    assert not any(job.error for job in jobs)
    until(lambda: pending_uploads == {})


def test_a_stop_after_the_end_is_none(backend: Backend) -> None:
    instead(backend, "ingest", storing)
    job = ended(IndexJob(backend, ALBUM, FILES, MOST))
    job.stop()
    assert not job.stopped


def test_an_unexpected_end_of_a_search_is_not_nothing_found(backend: Backend) -> None:
    async def broken(*_: Any, **__: Any) -> AsyncGenerator[Hit, None]:
        yield Hit(id="one", rank=1, score=0.5)
        raise ZeroDivisionError

    instead(backend, "stream_search", broken)
    job = ended(SearchJob(backend, REQUEST))
    assert len(job.hits) == 1
    assert job.error is not None


def test_a_search_that_nobody_looks_at_is_ended_and_says_so(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = []

    async def endless(*_: Any, **__: Any) -> AsyncGenerator[Hit, None]:
        try:
            yield Hit(id="one", rank=1, score=0.5)
            await asyncio.sleep(60)
        except (asyncio.CancelledError, GeneratorExit):
            cancelled.append(True)
            raise

    monkeypatch.setattr(search_job, "_ABANDONED_AFTER_S", 0.0)
    instead(backend, "stream_search", endless)
    job = ended(SearchJob(backend, REQUEST))
    assert job.abandoned
    until(lambda: cancelled == [True])


def test_items_carry_their_names_where_the_collection_has_a_field_for_it(backend: Backend) -> None:
    from tests.app.album import FIELDS

    seen: list[Item] = []

    async def noting(items: Any, **_: Any) -> AsyncGenerator[IngestAck, None]:
        async for item in items:
            seen.append(item)
            yield IngestAck((item,), stored_count=1)

    instead(backend, "ingest", noting)
    ended(IndexJob(backend, Collection("a", ModelVersion(), 4, 0, FIELDS), FILES[:1], MOST))
    ended(IndexJob(backend, ALBUM, FILES[:1], MOST))
    assert [dict(item.fields) for item in seen] == [{"path": "0.png"}, {}]
