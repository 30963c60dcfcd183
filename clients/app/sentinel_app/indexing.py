"""Putting pictures in: where they are dropped, and how far the last ones have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import streamlit as st

from sentinel_app.archives import MAX_FILES
from sentinel_app.backend import Backend
from sentinel_app.index_job import IndexJob
from sentinel_app.markdown import plain
from sentinel_app.pictures import MAX_BYTES
from sentinel_app.uploads import MAX_UPLOAD_BYTES
from sentinel_client import Collection

_POLL_S = 0.3
_MOST_NAMED = 50
_KINDS = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "zip"]


class _Sized(Protocol):
    size: int


def too_much(files: Sequence[_Sized]) -> str:
    """Return why these are too many files, or too large ones, for a browser; empty if not."""
    if len(files) > MAX_FILES:
        return f"{len(files):,} files are too many for a browser, which takes {MAX_FILES:,} at once"
    byte_count = sum(file.size for file in files)
    if byte_count > MAX_UPLOAD_BYTES:
        return (
            f"{_megabytes(byte_count)} are too much for a browser, which takes "
            f"{_megabytes(MAX_UPLOAD_BYTES)} at once"
        )
    return ""


def index_tab(backend: Backend, collection: Collection) -> None:
    """Draw it."""
    job: IndexJob | None = st.session_state.get("index_job")
    if job is not None:
        _progress(job)
    generation = st.session_state.setdefault("uploads", 0)
    # Its key is what page.css hides Streamlit's own words about limits by: ours say it once.
    with st.container(key="drop"):
        files = st.file_uploader(
            f"Drop pictures, or a zip of them, into **{plain(collection.name)}**",
            type=_KINDS,
            accept_multiple_files=True,
            key=f"upload:{generation}",
            disabled=job is not None and job.running,
            max_upload_size=MAX_UPLOAD_BYTES >> 20,
        )
    st.caption(
        f"JPEG, PNG, WebP, GIF, BMP or TIFF of up to {_megabytes(MAX_BYTES)} each; "
        f"{MAX_FILES:,} files and {_megabytes(MAX_UPLOAD_BYTES)} at once. A big folder goes "
        "faster by command line, which goes on where it was stopped:"
    )
    st.code(f"sentinel index FOLDER --collection {collection.name}", language="sh")
    if not files:
        return
    if refusal := too_much(files):
        st.warning(
            f"{refusal}: drop fewer, or use the command above.", icon=":material/folder_off:"
        )
        return
    counted = "1 file" if len(files) == 1 else f"{len(files):,} files"
    if st.button(f"Store {counted}", type="primary", icon=":material/upload:"):
        contents = [(file.name, file.getvalue()) for file in files]
        st.session_state.index_job = IndexJob.start(backend, collection, contents)
        st.session_state.uploads = generation + 1  # an empty uploader
        st.rerun()


def _progress(job: IndexJob) -> None:
    @st.fragment(run_every=_POLL_S if job.running else None)
    def draw() -> None:
        running = job.running
        if running:
            _under_way(job)
        else:
            _outcome(job)
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


def _under_way(job: IndexJob) -> None:
    if not job.total:
        st.progress(0.0, "Looking at what was dropped …")
    else:
        rate = job.done / job.seconds if job.seconds else 0.0
        st.progress(
            min(1.0, job.done / job.total),
            f"{job.done:,} of {job.total:,} · {_counts(job)} · {rate:,.1f} a second",
        )
    if st.button("Stop", help="What is stored stays"):
        job.stop()
        st.rerun()


def _outcome(job: IndexJob) -> None:
    missing = f"{max(0, job.total - job.done):,} of {job.total:,} were not stored"
    if job.error is not None:
        st.error(
            f"{_counts(job)}; {missing}. {plain(job.error.message)} "
            "Drop the same files again to go on."
        )
    elif job.stopped:
        st.warning(
            f"Stopped: {_counts(job)}; {missing}. Drop the same files again to go on.",
            icon=":material/stop_circle:",
        )
    elif job.failures:
        st.warning(f"{_counts(job)} in {job.seconds:.1f} s", icon=":material/rule:")
    else:
        st.success(f"{_counts(job)} in {job.seconds:.1f} s", icon=":material/check:")


def _counts(job: IndexJob) -> str:
    return f"{job.stored:,} stored · {job.unchanged:,} there already · {len(job.failures):,} failed"


def _megabytes(byte_count: int) -> str:
    return f"{byte_count / 2**20:,.0f} MB"
