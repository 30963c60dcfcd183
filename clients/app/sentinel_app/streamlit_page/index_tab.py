"""The tab that adds images: upload them, and follow the progress of the import."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.uploaded_file_manager import DeletedFile

from sentinel_app.formatting import escape_markdown, index_command, plain
from sentinel_app.streamlit_page.backend import Backend
from sentinel_app.streamlit_page.fragments import draw_fragment
from sentinel_app.streamlit_page.index_job import IndexJob
from sentinel_app.streamlit_page.upload_space import release
from sentinel_app.uploads import IMAGE_TYPES, MAX_IMAGE_BYTES, UploadLimit, megabytes
from sentinel_client import Collection

_POLL_INTERVAL_S = 0.3
_MAX_LISTED_FAILURES = 50


def index_tab(backend: Backend, collection: Collection, limit: UploadLimit) -> None:
    """Draw the tab; `limit` is for one upload."""
    job: IndexJob | None = st.session_state.get("index_job")
    with st.container():  # always drawn, so that the uploader keeps its place
        if job is not None:
            _show_job(job)
    generation = st.session_state.setdefault("uploads", 0)
    key = f"upload:{generation}"
    # page.css finds the container by its key and hides Streamlit's own text about limits.
    with st.container(key="upload"):
        files = st.file_uploader(
            f"Drop images or a zip of images into **{escape_markdown(collection.name)}**",
            type=[*IMAGE_TYPES, "zip"],
            accept_multiple_files=True,
            key=key,
            disabled=job is not None and job.running,
            max_upload_size=limit.bytes >> 20,
        )
    st.caption(
        "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC of up to "
        f"{megabytes(MAX_IMAGE_BYTES)} each; "
        f"{limit.files:,} files and {megabytes(limit.bytes)} at once. For a large folder, use "
        "the command line. It is faster, and it can be stopped and continued:"
    )
    command = index_command(backend.client.address)
    st.code(f"{command} FOLDER --collection {collection.name}", language="sh")
    if lost := _lost_files(key):
        st.warning(
            f"{'1 file is' if lost == 1 else f'{lost:,} files are'} no longer here, because the "
            "page was away for too long or its server restarted. Remove and drop again what the "
            "list above still names.",
            icon=":material/history:",
        )
    if not files:
        return
    if problem := limit.exceeded_by([file.size for file in files]):
        st.warning(
            f"{problem}. Drop fewer, or use the command above.", icon=":material/folder_off:"
        )
        return
    label = "Store 1 file" if len(files) == 1 else f"Store {len(files):,} files"
    if st.button(label, type="primary", icon=":material/upload:"):
        contents = [(file.name, file.getvalue()) for file in files]
        st.session_state.index_job = IndexJob(backend, collection, contents, limit.files)
        release(files)
        st.session_state.uploads = generation + 1  # another key: an empty uploader
        st.rerun()


def _lost_files(key: str) -> int:
    """Return how many of the files that the browser lists are no longer in the server's memory."""
    kept = st.session_state.get(key) or []
    return sum(isinstance(file, DeletedFile) for file in kept)


def _show_job(job: IndexJob) -> None:
    polling = job.running

    def draw() -> None:
        running = job.running
        if running:
            _progress(job)
        else:
            _outcome(job)
        if job.failures:
            with st.expander(f"{len(job.failures):,} failed", expanded=not running):
                for name, reason in job.failures[:_MAX_LISTED_FAILURES]:
                    st.text(plain(f"{name}: {reason}"))
                if len(job.failures) > _MAX_LISTED_FAILURES:
                    st.text(f"… and {len(job.failures) - _MAX_LISTED_FAILURES:,} more")
        if not running and st.session_state.get("finished_job") is not job:
            st.session_state.finished_job = job
            st.rerun()  # without the timer, and with the new item count in the sidebar

    draw_fragment(draw, every=_POLL_INTERVAL_S if polling else None)


def _progress(job: IndexJob) -> None:
    if job.waiting:
        st.progress(0.0, "Waiting until another import ends …")
    elif not job.total:
        st.progress(0.0, "Reading the files …")
    else:
        rate = job.done / job.seconds if job.seconds else 0.0
        st.progress(
            min(1.0, job.done / job.total),
            f"{job.done:,} of {job.total:,} · {_counts(job)} · {rate:,.1f} a second",
        )
    if st.button("Stop", help="Images that are stored stay"):
        job.stop()
        st.rerun()


def _outcome(job: IndexJob) -> None:
    counts = _counts(job)
    missing = f"{max(0, job.total - job.done):,} of {job.total:,} were not stored"
    resume = "Drop the same files again to continue."
    if job.error is not None:
        st.error(f"{counts}; {missing}. {escape_markdown(job.error.message)} {resume}")
    elif job.stopped:
        st.warning(f"Stopped: {counts}; {missing}. {resume}", icon=":material/stop_circle:")
    elif job.failures:
        st.warning(f"{counts} in {job.seconds:.1f} s", icon=":material/rule:")
    else:
        st.success(f"{counts} in {job.seconds:.1f} s", icon=":material/check:")


def _counts(job: IndexJob) -> str:
    return f"{job.stored:,} stored · {job.unchanged:,} unchanged · {len(job.failures):,} failed"
