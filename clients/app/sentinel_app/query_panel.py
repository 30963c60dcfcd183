"""Where a person says what to look for: words, a picture or a part of it, and chips of all that."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from sentinel_app.components import component, data_uri
from sentinel_app.pictures import PictureError, preview
from sentinel_app.terms import MAX_TERMS, Term, reweighted, words
from sentinel_client import Box

_PREVIEW_SIDE = 640
_CHIP_SIDE = 64
_WHOLE = Box()


def query_panel() -> list[Term]:
    """Draw the search box and the chips; return what is searched for."""
    state = st.session_state
    state.setdefault("terms", [])
    state.setdefault("words", None)
    if state.pop("clear_words", False):
        state.words, state.typed = None, ""
    with st.container(key="ask"):
        box, picture, mix = st.columns([7, 1.7, 1.4], vertical_alignment="bottom")
    box.text_input(
        "Search",
        key="typed",
        placeholder="a dog on the beach",
        label_visibility="collapsed",
        icon=":material/search:",
        on_change=_take_words,
    )
    with picture.popover("Picture", icon=":material/image_search:", width="stretch"):
        _picture_panel()
    with mix.popover("Mix", icon=":material/tune:", width="stretch"):
        _mix_panel()
    if state.terms:
        _chips()
    main = [state.words] if state.words is not None else []
    return [*main, *state.terms]


def _take_words() -> None:
    typed = st.session_state.typed.strip()
    st.session_state.words = words(typed) if typed else None


def _picture_panel() -> None:
    generation = st.session_state.setdefault("pictures", 0)
    file = st.file_uploader(
        "Search with a picture", key=f"picture:{generation}", max_upload_size=64
    )
    if file is None:
        st.caption("Drop one here; then drag the box around the part that counts.")
        return
    try:
        shown = preview(file.getvalue(), _PREVIEW_SIDE)
    except PictureError as error:
        st.warning(str(error), icon=":material/broken_image:")
        return
    crop = component("crop")(
        key=f"crop:{generation}",
        data={"image": data_uri(shown, "image/jpeg")},
        default={"box": list(_WHOLE)},
        on_box_change=lambda: None,
    )
    box = Box(*crop.box) if crop.box else _WHOLE
    term = Term(
        file.name,
        image=file.getvalue(),
        crop=None if box == _WHOLE else box,
        thumbnail=preview(file.getvalue(), _CHIP_SIDE),
    )
    alone, added = st.columns(2)
    if alone.button("Search with it", type="primary", width="stretch"):
        st.session_state.terms = [term]
        st.session_state.clear_words = True
        _next_picture()
    if added.button("Add to the search", width="stretch"):
        _add(term)
        _next_picture()


def _next_picture() -> None:
    st.session_state.pictures += 1
    st.rerun()


def _mix_panel() -> None:
    with st.form("mix", border=False, clear_on_submit=True):
        text = st.text_input("More words", placeholder="at night", key="mix_words")
        toward, away = st.columns(2)
        plus = toward.form_submit_button("Add", icon=":material/add:", width="stretch")
        minus = away.form_submit_button("Steer away", icon=":material/remove:", width="stretch")
    if (plus or minus) and text.strip():
        _add(words(text, -0.5 if minus else 1.0))
        st.rerun()
    st.caption("Pictures join in by the plus and minus that hits show.")


def _add(term: Term) -> None:
    if len(st.session_state.terms) + 1 < MAX_TERMS:
        st.session_state.terms = [*st.session_state.terms, replace(term)]
    else:
        st.toast(f"A search takes {MAX_TERMS} things; remove one first.")


def _chips() -> None:
    chips = [
        {
            "key": term.key,
            "label": term.label,
            "weight": term.weight,
            "image": data_uri(term.thumbnail),
        }
        for term in st.session_state.terms
    ]
    changed = component("chips")(key="chips", data={"terms": chips}, on_weights_change=lambda: None)
    if changed.weights is not None:
        st.session_state.terms = reweighted(st.session_state.terms, dict(changed.weights))
        st.rerun()
