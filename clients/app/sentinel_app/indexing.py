"""Putting pictures in: dropped files and zips, stored in the background of the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import streamlit as st

from sentinel_app.archives import MAX_FILES, Entry, entries
from sentinel_app.backend import Backend
from sentinel_client import Collection, FieldType, Item, SentinelError

_POLL_S = 0.3
_MOST_NAMED = 50
_KINDS = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "zip"]
# The field that `sentinel index` keeps a file's name in.
_NAME_FIELD = "path"


@dataclass
class IndexJob:
    """Files on their way into a collection. Goes on when the page is left."""

    collection: str
    stored: int = 0
    unchanged: int = 0
    total: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    error: SentinelError | None = None
    seconds: float = 0.0
    _future: Future[None] | None = None

    @classmethod
    def start(
        cls, backend: Backend, collection: Collection, files: list[tuple[str, bytes]]
    ) -> IndexJob:
        """Begin to store the pictures among `files`, (name, bytes) each."""
        job = cls(collection.name, total=len(files))
        named = any(
            schema.name == _NAME_FIELD and schema.type is FieldType.STRING
            for schema in collection.fields
        )
        job._future = backend.start(job._run(backend, files, named=named))
        return job

    @property
    def running(self) -> bool:
        """Whether files are still on their way."""
        return self._future is not None and not self._future.done()

    @property
    def done(self) -> int:
        """Files that are decided."""
        return self.stored + self.unchanged + len(self.failures)

    def stop(self) -> None:
        """End it; what is stored stays."""
        if self._future is not None:
            self._future.cancel()

    async def _run(self, backend: Backend, files: list[tuple[str, bytes]], *, named: bool) -> None:
        names: dict[int, str] = {}
        started = time.perf_counter()

        async def items() -> AsyncGenerator[Item, None]:
            following: Iterator[Entry] = entries(files)
            # Unpacking is work for another thread than the one that all pages' calls run on.
            while (entry := await asyncio.to_thread(next, following, None)) is not None:
                self.total = max(self.total, self.done + len(names) + 1)
                if entry.problem:
                    self.failures.append((entry.name, entry.problem))
                    continue
                item = Item(image=entry.data, fields={_NAME_FIELD: entry.name} if named else {})
                names[id(item)] = entry.name
                yield item

        try:
            acks = backend.client.ingest(items(), collection=self.collection)
            async for ack in acks:
                self.stored += ack.stored_count
                self.unchanged += ack.unchanged_count
                self.failures += [(names[id(i)], e.message) for i, e in ack.failed_items]
                for item in ack.items:
                    names.pop(id(item), None)
                self.seconds = time.perf_counter() - started
        except SentinelError as error:
            self.error = error
        self.seconds = time.perf_counter() - started


def index_tab(backend: Backend, collection: Collection) -> None:
    """Draw where pictures are dropped, and how far the last ones have come."""
    job: IndexJob | None = st.session_state.get("index_job")
    if job is not None:
        _progress(job)
    generation = st.session_state.setdefault("uploads", 0)
    files = st.file_uploader(
        f"Drop pictures, or a zip of them, into **{collection.name}**",
        type=_KINDS,
        accept_multiple_files=True,
        key=f"upload:{generation}",
        disabled=job is not None and job.running,
    )
    st.caption(
        f"At most {MAX_FILES:,} at once, 16 MB each. A big folder goes faster by command line, "
        "which goes on where it was stopped:"
    )
    st.code(f"sentinel index FOLDER --collection {collection.name}", language="sh")
    if not files:
        return
    if len(files) > MAX_FILES:
        st.warning(
            f"{len(files):,} files are too many for a browser, which takes {MAX_FILES:,} at once: "
            "drop fewer, or use the command above.",
            icon=":material/folder_off:",
        )
        return
    if st.button(f"Store {len(files):,} files", type="primary", icon=":material/upload:"):
        contents = [(file.name, file.getvalue()) for file in files]
        st.session_state.index_job = IndexJob.start(backend, collection, contents)
        st.session_state.uploads = generation + 1  # an empty uploader
        st.rerun()


def _progress(job: IndexJob) -> None:
    @st.fragment(run_every=_POLL_S if job.running else None)
    def draw() -> None:
        running = job.running
        rate = job.done / job.seconds if job.seconds else 0.0
        counts = f"{job.stored:,} stored · {job.unchanged:,} there already"
        counts += f" · {len(job.failures):,} failed"
        if running:
            st.progress(min(1.0, job.done / max(job.total, 1)), f"{counts} · {rate:,.1f} a second")
            if st.button("Stop", help="What is stored stays"):
                job.stop()
        elif job.error is not None:
            st.error(f"{counts}. Stopped: {job.error.message} Drop the same files again to go on.")
        else:
            st.success(f"{counts} in {job.seconds:.1f} s", icon=":material/check:")
        if job.failures:
            with st.expander(f"{len(job.failures):,} failed", expanded=not running):
                for name, why in job.failures[:_MOST_NAMED]:
                    st.text(f"{name}: {why}")
                if len(job.failures) > _MOST_NAMED:
                    st.text(f"… and {len(job.failures) - _MOST_NAMED:,} more")
        if not running and st.session_state.get("index_drawn") != id(job):
            st.session_state.index_drawn = id(job)
            st.rerun()  # without the clock; the counts at the side are new

    draw()
