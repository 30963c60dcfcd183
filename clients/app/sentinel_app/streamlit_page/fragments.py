"""Parts of the page that are drawn again without the rest: after a click in them, or by a timer."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st


def draw_fragment(draw: Callable[[], None], *, every: float | None = None) -> None:
    """Draw a part of the page; draw it again after each click in it, and every `every` seconds.

    The browser can ask for a fragment just before it hears that the whole page is drawn anew.
    Streamlit 1.67 answers such a late request badly in two ways:

    * It drops what the whole page drew of this fragment and has not sent yet. The browser then
      removes the fragment, and puts its next drawing in the place of what came after it. So each
      fragment is alone in a container.
    * If the whole page was finished a moment ago, it drops the rest of the page, too. It only
      ignores the request if the page no longer has that fragment. So a fragment with a timer is
      another one than the same fragment without.
    """
    with st.container():
        if every is None:
            st.fragment(draw)()
            return

        @st.fragment(run_every=every)
        def timed() -> None:
            draw()

        timed()
