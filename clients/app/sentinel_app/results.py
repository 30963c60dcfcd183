"""The hits, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from sentinel_app import problems
from sentinel_app.components import component, data_uri
from sentinel_app.details import caption_of
from sentinel_app.searching import SearchJob
from sentinel_client import Hit, SearchTimings

_POLL_S = 0.15
_MOST_RETRIES = 5

Act = Callable[[str, Hit], None]


def results(job: SearchJob, *, address: str, captions: bool, tile: int, act: Act) -> None:
    """Draw the hits of a search; while it runs, again and again.

    Args:
        job: The search.
        address: Of the gateway, for what is said when it is away.
        captions: Whether pictures carry their captions.
        tile: Least width of a picture, in CSS pixels.
        act: Called with what was pressed (open, like, plus, minus) and the hit.
    """

    @st.fragment(run_every=_POLL_S if job.running else None)
    def draw() -> None:
        running = job.running
        job.seen()
        _line(job)
        pressed = component("grid")(
            key="grid",
            data={
                "search": job.number,
                "captions": captions,
                "tile": tile,
                "hits": [_card(hit) for hit in job.hits],
            },
            on_action_change=lambda: None,
        )
        if pressed.action:
            found = next((hit for hit in job.hits if hit.id == pressed.action["id"]), None)
            if found is not None:
                act(pressed.action["kind"], found)
        if job.error is not None:
            problems.show(job.error, address)
        elif not job.hits and not running:
            st.info("Nothing found. Ask for less: a lower score, fewer filters.")
        if not running and st.session_state.get("drawn") != job.number:
            st.session_state.drawn = job.number
            st.rerun()  # without the clock

    draw()
    if job.error is not None and not job.hits:
        _try_again(job)


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
    if job.running:
        st.caption(f"{len(job.hits):,} hits so far …")
        return
    parts = [f"**{len(job.hits):,} hits** in {_ms(job.seconds)}"]
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
    if tries >= _MOST_RETRIES:
        return
    st.caption(f"Trying again in {pause:.1f} s …")
    time.sleep(pause)
    st.session_state.tries = tries + 1
    _restart()


def _restart() -> None:
    st.session_state.job = None
    st.rerun()
