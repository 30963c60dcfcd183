"""Show errors with advice, in place or as the whole page, and retry after a delay."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from sentinel_app.formatting import escape_markdown
from sentinel_app.preview_process import NOT_AN_IMAGE
from sentinel_app.streamlit_page.fragments import draw_fragment
from sentinel_client import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    SentinelError,
    Unavailable,
)

_CHECK_INTERVAL_S = 3.0
# People prefer a button to a longer wait.
_MAX_RETRY_DELAY_S = 30.0
# The browser's timer may fire this much early.
_TIMER_TOLERANCE_S = 0.1
_ADVICE = {
    "NO_HEALTHY_WORKER": "No embedder worker answers the gateway. Start one, or wait until it has "
    "loaded its model.",
    "STORE_UNAVAILABLE": "The gateway cannot reach Milvus. No stored data is lost. The page works "
    "again when Milvus is back.",
    "OBJECT_STORE_UNAVAILABLE": "The gateway cannot read or write images. Check the free space and "
    "the permissions of its object store.",
    "MODEL_MISMATCH": "The workers run another model than this collection was made with. Start a "
    "worker with its model, or embed the collection again: `sentinel collections reindex`.",
    "DRAINING": "The gateway is restarting.",
    "TEXT_TOO_LONG": "The text is too long for the model. Shorten it.",
    "IMAGE_DECODE_FAILED": "The image is damaged or incomplete. Try to save it again.",
    "IMAGE_FORMAT_UNSUPPORTED": NOT_AN_IMAGE,
    "QUERY_CANCELS_OUT": "The terms of this search cancel each other out. Change a weight.",
    "HYBRID_UNSUPPORTED": "The Milvus of this gateway cannot search words. Turn that option off.",
}


def show_error(error: SentinelError, address: str) -> None:
    """Show what failed and what to do; `address` is the gateway's."""
    if isinstance(error, ConnectionFailed):
        st.error(
            f"**No gateway answers at `{address}`.** Start one with `sentinel up`, or give its "
            "address: `sentinel-app --gateway HOST:PORT`.",
            icon=":material/cloud_off:",
        )
        return
    message = escape_markdown(error.message)
    advice = _ADVICE.get(error.reason)
    text = f"{advice}\n\n{message}" if advice else message
    if isinstance(error, InvalidArgument | NotFound):
        st.warning(text, icon=":material/edit:")
        return
    temporary = error.retryable or isinstance(error, Unavailable)
    show = st.warning if temporary else st.error
    show(text, icon=":material/hourglass_top:" if error.retryable else ":material/error:")


def gateway_unavailable(error: SentinelError, address: str) -> None:
    """Show the page without a gateway, or without its Milvus; check again every few seconds."""
    with st.container(key="unavailable"):
        if isinstance(error, ConnectionFailed):
            st.markdown("# :material/cloud_off:")
            st.markdown(f"### No gateway answers at {escape_markdown(address)}")
            st.markdown("Start one on this machine, or give the page its address:")
            st.code("sentinel up\nsentinel-app --gateway HOST:PORT", language="sh")
        else:
            st.markdown("# :material/hourglass_top:")
            show_error(error, address)
        if st.button("Check again now", icon=":material/refresh:"):
            st.rerun()
        rerun_after(_CHECK_INTERVAL_S, "Checking again every few seconds. No stored data is lost.")


def gateway_trouble(error: SentinelError, address: str) -> None:
    """Say above the page that the gateway does not answer; check again every few seconds."""
    with st.container(key="trouble"):
        if isinstance(error, DeadlineExceeded):
            st.warning("**The gateway does not answer.**", icon=":material/hourglass_top:")
        else:
            show_error(error, address)
        rerun_after(
            _CHECK_INTERVAL_S,
            "Your search, filters and chosen files are kept. Checking again every few seconds.",
        )


def retry_delay(error: SentinelError) -> float | None:
    """Return after how many seconds to retry; None if a retry cannot help."""
    if not error.retryable:
        return None
    delay = error.retry_after if error.retry_after is not None else 3.0
    return min(max(0.2, delay), _MAX_RETRY_DELAY_S)


def rerun_after(seconds: float, caption: str, prepare: Callable[[], None] = lambda: None) -> None:
    """Show a caption; after a delay call `prepare` and run the page again, without blocking it."""
    due = time.monotonic() + seconds - _TIMER_TOLERANCE_S

    def timer() -> None:
        if time.monotonic() >= due:
            prepare()
            st.rerun()
        st.caption(caption)

    draw_fragment(timer, every=seconds)
