"""How much goes into one search."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from sentinel_app.streamlit_page.search_job import MAX_TERMS


def _page() -> None:
    import streamlit as st

    from sentinel_app.streamlit_page.query_panel import add_term
    from sentinel_app.streamlit_page.search_job import text_term

    st.session_state.setdefault("terms", [])
    if st.button("more"):
        st.text(str(add_term(text_term("one more"))))


def test_a_search_that_is_full_says_so_and_keeps_a_place_for_the_words() -> None:
    page = AppTest.from_function(_page).run()
    for _ in range(MAX_TERMS - 1):
        page.button[0].click().run()
        assert page.text[0].value == "True"
    page.button[0].click().run()
    assert page.text[0].value == "False"
    assert f"takes at most {MAX_TERMS} terms" in page.toast[0].value
    assert len(page.session_state.terms) == MAX_TERMS - 1
