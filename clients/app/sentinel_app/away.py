"""The page while there is nothing behind it: what is wrong, what to do, and looking again."""

from __future__ import annotations

import streamlit as st

from sentinel_app import problems
from sentinel_app.markdown import plain
from sentinel_app.waiting import after
from sentinel_client import ConnectionFailed, SentinelError

_RETRY_S = 3.0


def away(error: SentinelError, address: str) -> None:
    """Draw it; the page comes back by itself."""
    with st.container(key="away"):
        if isinstance(error, ConnectionFailed):
            st.markdown("# :material/cloud_off:")
            st.markdown(f"### No gateway answers at {plain(address)}")
            st.markdown("Start one on this machine, or tell the page where it is:")
            st.code("sentinel up\nsentinel-app --gateway HOST:PORT", language="sh")
        else:
            st.markdown("# :material/hourglass_top:")
            problems.show(error, address)
        if st.button("Look again now", icon=":material/refresh:"):
            st.rerun()
        after(_RETRY_S, "Looking again every few seconds. Nothing that was stored is lost.")
