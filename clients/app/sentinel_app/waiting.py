"""Doing something later, without holding the thread that draws the page."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

# The browser's clock may ring this much early.
_EARLY_S = 0.1


def after(seconds: float, say: str, act: Callable[[], None] = lambda: None) -> None:
    """Say something; call `act` and draw the page anew when `seconds` have passed."""
    due = time.monotonic() + seconds - _EARLY_S

    @st.fragment(run_every=seconds)
    def wait() -> None:
        if time.monotonic() >= due:
            act()
            st.rerun()
        st.caption(say)

    wait()
