"""What went wrong, in words that help the person who looks at the page."""

from __future__ import annotations

import logging

import streamlit as st

from sentinel_app.markdown import plain
from sentinel_client import (
    ConnectionFailed,
    Internal,
    InvalidArgument,
    NotFound,
    SentinelError,
    Unavailable,
)

# A person who waits longer than this wants to be asked.
_LONGEST_PAUSE_S = 30.0
_log = logging.getLogger(__name__)

_HINTS = {
    "NO_HEALTHY_WORKER": "The gateway runs, but no embedder worker answers it. Start one, or wait "
    "until it has loaded its model.",
    "STORE_UNAVAILABLE": "The gateway cannot reach Milvus. Nothing that was stored is lost; it "
    "goes on by itself when Milvus is back.",
    "OBJECT_STORE_UNAVAILABLE": "The gateway cannot read or write its pictures: check the space "
    "and the permissions of its object store.",
    "MODEL_MISMATCH": "This collection was made with another model than the workers run now. "
    "Start a worker of its model, or embed it again: `sentinel collections reindex`.",
    "DRAINING": "The gateway is restarting.",
    "TEXT_TOO_LONG": "The words are too many for the model; say it in fewer.",
    "IMAGE_DECODE_FAILED": "The picture is damaged or not complete; try to save it again.",
    "IMAGE_FORMAT_UNSUPPORTED": "This is not a picture that can be read (JPEG, PNG, WebP, GIF, "
    "BMP or TIFF), whatever its name says.",
    "QUERY_CANCELS_OUT": "What is searched for cancels itself out; change a weight.",
    "HYBRID_UNSUPPORTED": "The Milvus behind this gateway cannot search words; switch it off.",
}


def show(error: SentinelError, address: str) -> None:
    """Say what failed and what to do."""
    if isinstance(error, ConnectionFailed):
        st.error(
            f"**No gateway answers at `{address}`.** Start one with `sentinel up`, or give its "
            "address: `sentinel-app --gateway HOST:PORT`.",
            icon=":material/cloud_off:",
        )
        return
    hint = _HINTS.get(error.reason, "")
    message = plain(error.message)
    text = f"{hint}\n\n{message}" if hint else message
    if isinstance(error, InvalidArgument | NotFound):
        st.warning(text, icon=":material/edit:")
        return
    # A worker's queue, a restart: something that passes.
    kind = st.warning if error.retryable or isinstance(error, Unavailable) else st.error
    kind(text, icon=":material/hourglass_top:" if error.retryable else ":material/error:")


def unexpected(during: str) -> SentinelError:
    """Log the exception that is being handled; return what the page says of it."""
    _log.exception("%s failed unexpectedly", during)
    return Internal("INTERNAL", "Something in this page's server failed; its log says what.")


def pause_of(error: SentinelError) -> float | None:
    """Return after how many seconds it is worth trying again; None if it is not."""
    if not error.retryable:
        return None
    pause = error.retry_after if error.retry_after is not None else 3.0
    return min(max(0.2, pause), _LONGEST_PAUSE_S)
