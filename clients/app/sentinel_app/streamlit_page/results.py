"""Show the hits of a search while they arrive, with timings, errors and retries."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import streamlit as st

from sentinel_app.formatting import caption
from sentinel_app.streamlit_page.components import component, data_uri
from sentinel_app.streamlit_page.errors import rerun_after, retry_delay, show_error
from sentinel_app.streamlit_page.fragments import draw_fragment
from sentinel_app.streamlit_page.search_job import SearchJob
from sentinel_client import Hit, SearchTimings, SentinelError

_POLL_INTERVAL_S = 0.15
# Most searches end within this time. They are drawn only once.
_WAIT_S = 0.2
_MAX_RETRIES = 5
# Streamlit updates the grid only when its data changed. A new number each time makes it update
# always, so that it reports missing hits until it has them.
_updates = count(1)


def show_results(
    job: SearchJob,
    *,
    address: str,
    captions: bool,
    tile_width: int,
    on_action: Callable[[str, int], None],
) -> None:
    """Draw the hits of a search; while it runs, draw them again every 0.15 s.

    Images are at least `tile_width` CSS pixels wide. `on_action` is called with an action (open,
    like, plus, minus) and the position of the hit.
    """
    polling = not job.wait(_WAIT_S)

    def draw() -> None:
        running = job.running  # before the hits are read: the last ones may arrive meanwhile
        job.viewed()
        _summary_line(job)
        action = _grid(job, captions=captions, tile_width=tile_width)
        if action:
            ids = [hit.id for hit in job.hits]
            if action["id"] in ids:
                on_action(action["kind"], ids.index(action["id"]))
        if job.error is not None:
            show_error(job.error, address)
        elif job.abandoned:
            st.warning("This search was stopped because the page was closed. Hits may be missing.")
        elif not job.hits and not running:
            st.info("Nothing found. Lower the minimum score, or remove filters.")
        if polling and not running:
            st.rerun()  # without the timer

    draw_fragment(draw, every=_POLL_INTERVAL_S if polling else None)
    if job.abandoned and st.button("Search again", icon=":material/refresh:"):
        _restart(job)
    if job.error is not None and not job.hits:
        _offer_retry(job, job.error)


def _summary_line(job: SearchJob) -> None:
    """Show the number of hits and where the time went."""
    hits = "1 hit" if len(job.hits) == 1 else f"{len(job.hits):,} hits"
    if job.running or job.abandoned or job.error is not None:
        if job.hits or job.running:
            st.caption(f"{hits} so far" + (" …" if job.running else ""))
        else:
            st.empty()  # what follows keeps its place, or the browser shows it twice for a moment
        return
    stages = _stages(job.timings) if job.timings is not None else []
    st.caption(" · ".join([f"**{hits}** in {_milliseconds(job.seconds)}", *stages]))


def _stages(timings: SearchTimings) -> list[str]:
    stages = [f"gateway {_milliseconds(timings.total)}"]
    if timings.embed_cached:
        stages.append("embedding cached")
    for name, seconds in (
        ("queue", timings.embed_queue),
        ("inference", timings.embed_inference),
        ("Milvus", timings.vector_search),
    ):
        if seconds is not None:
            stages.append(f"{name} {_milliseconds(seconds)}")
    return stages


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def _grid(job: SearchJob, *, captions: bool, tile_width: int) -> dict[str, str] | None:
    """Draw the grid; return the action of a click, with the id of its hit."""
    start, hits = _unsent_hits(job)
    grid = component("grid")(
        key="grid",
        data={
            "update": next(_updates),
            "search": job.number,
            "captions": captions,
            "tile": tile_width,
            "start": start,
            "hits": [_card(hit) for hit in hits],
        },
        on_action_change=lambda: None,
        on_have_change=_resend,
    )
    action: dict[str, str] | None = grid.action
    return action


def _unsent_hits(job: SearchJob) -> tuple[int, list[Hit]]:
    """Return the hits that the browser may not have, and the position of the first of them.

    Sending all thumbnails each time would be megabytes. The hits that were sent last are sent once
    more, because Streamlit drops a message when the next one overtakes it.
    """
    search, start, sent = st.session_state.get("sent", (0, 0, 0))
    if search != job.number:
        start = sent = 0
    hits = job.hits[start:]
    st.session_state.sent = (job.number, sent, start + len(hits))
    return start, hits


def _resend() -> None:
    """Continue after the hits that the grid has: it was drawn anew, or missed a message."""
    have = st.session_state.grid.have
    st.session_state.sent = (have["search"], have["count"], have["count"])


def _card(hit: Hit) -> dict[str, str]:
    return {
        "id": hit.id,
        "image": data_uri(hit.thumbnail),
        "text": hit.text,
        "caption": caption(hit),
        "score": f"{hit.score:.2f}",
    }


def _offer_retry(job: SearchJob, error: SentinelError) -> None:
    """Search again after the delay that the server asks for, or when the button is pressed."""
    delay = retry_delay(error)
    if delay is None:
        return
    if st.button("Try again", icon=":material/refresh:"):
        _restart(job)

    def retry() -> None:
        st.session_state.search_job = job.restart(job.retries + 1)

    if job.retries < _MAX_RETRIES:
        rerun_after(delay, f"Trying again in {delay:.1f} s …", retry)


def _restart(job: SearchJob) -> None:
    st.session_state.search_job = job.restart()
    st.rerun()
