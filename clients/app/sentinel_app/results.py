"""The hits, as they come."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import streamlit as st

from sentinel_app import problems
from sentinel_app.components import component, data_uri
from sentinel_app.details import caption_of
from sentinel_app.searching import SearchJob
from sentinel_app.waiting import after
from sentinel_client import Hit, SearchTimings

_POLL_S = 0.15
# Most searches take less, and are drawn once then.
_PATIENCE_S = 0.2
_MOST_RETRIES = 5
# Streamlit calls the grid for data that changed only: with a number of its own, at each look, so
# that the grid asks for what it misses for as long as it misses it.
_looks = count(1)

# What was pressed, and the place of the hit that it was pressed on.
Act = Callable[[str, int], None]


def results(job: SearchJob, *, address: str, captions: bool, tile: int, act: Act) -> None:
    """Draw the hits of a search; while it runs, again and again.

    Args:
        job: The search.
        address: Of the gateway, for what is said when it is away.
        captions: Whether pictures carry their captions.
        tile: Least width of a picture, in CSS pixels.
        act: Called with what was pressed (open, like, plus, minus) and the place of the hit.
    """
    polled = not job.wait(_PATIENCE_S)

    @st.fragment(run_every=_POLL_S if polled else None)
    def draw() -> None:
        running = job.running
        job.seen()
        _line(job)
        start, hits = _unsent(job)
        pressed = component("grid")(
            key="grid",
            data={
                "look": next(_looks),
                "search": job.number,
                "captions": captions,
                "tile": tile,
                "start": start,
                "hits": [_card(hit) for hit in hits],
            },
            on_action_change=lambda: None,
            on_have_change=_send_again,
        )
        if pressed.action:
            ids = [hit.id for hit in job.hits]
            if pressed.action["id"] in ids:
                act(pressed.action["kind"], ids.index(pressed.action["id"]))
        if job.error is not None:
            problems.show(job.error, address)
        elif job.abandoned:
            st.warning("This search was ended since nobody looked; there may be more hits.")
        elif not job.hits and not running:
            st.info("Nothing found. Ask for less: a lower score, fewer filters.")
        if polled and not running:
            st.rerun()  # without the clock

    draw()
    if job.abandoned and st.button("Search again", icon=":material/refresh:"):
        _restart()
    if job.error is not None and not job.hits:
        _try_again(job)


def _unsent(job: SearchJob) -> tuple[int, list[Hit]]:
    """Return the hits that the browser may not have, and the place of the first of them.

    Thumbnails are large: all hits anew at each look would be megabytes. What was sent last is sent
    once more, for Streamlit drops a message that the next one overtakes.
    """
    search, before, sent = st.session_state.get("sent", (0, 0, 0))
    if search != job.number:
        before = sent = 0
    hits = job.hits[before:]
    st.session_state.sent = (job.number, sent, before + len(hits))
    return before, hits


def _send_again() -> None:
    """Note what the grid says it has: it was drawn anew, or did not see every message."""
    have = st.session_state.grid.have
    st.session_state.sent = (have["search"], have["count"], have["count"])


def _card(hit: Hit) -> dict[str, str]:
    return {
        "id": hit.id,
        "image": data_uri(hit.thumbnail),
        "text": hit.text,
        "caption": caption_of(hit.fields, hit.text),
        "score": f"{hit.score:.2f}",
    }


def _line(job: SearchJob) -> None:
    """Say how many hits there are and where the time went."""
    counted = "1 hit" if len(job.hits) == 1 else f"{len(job.hits):,} hits"
    if job.running or job.abandoned or job.error is not None:
        if job.hits or job.running:
            st.caption(f"{counted} so far" + (" …" if job.running else ""))
        return
    parts = [f"**{counted}** in {_ms(job.seconds)}"]
    if job.timings is not None:
        parts += _stages(job.timings)
    st.caption(" · ".join(parts))


def _stages(timings: SearchTimings) -> list[str]:
    stages = [f"gateway {_ms(timings.total)}"]
    if timings.embed_cached:
        stages.append("embedding from the cache")
    if timings.embed_queue is not None:
        stages.append(f"queue {_ms(timings.embed_queue)}")
    if timings.embed_inference is not None:
        stages.append(f"inference {_ms(timings.embed_inference)}")
    if timings.vector_search is not None:
        stages.append(f"Milvus {_ms(timings.vector_search)}")
    return stages


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def _try_again(job: SearchJob) -> None:
    """Search again after the pause that the server asks for, or when the button is pressed."""
    assert job.error is not None
    pause = problems.pause_of(job.error)
    if pause is None:
        return
    tries = st.session_state.get("tries", 0)
    if st.button("Try again", icon=":material/refresh:"):
        st.session_state.tries = 0
        _restart()
    if tries < _MOST_RETRIES:
        after(pause, f"Trying again in {pause:.1f} s …", _next_try)


def _next_try() -> None:
    st.session_state.tries = st.session_state.get("tries", 0) + 1
    st.session_state.job = None


def _restart() -> None:
    st.session_state.job = None
    st.rerun()
