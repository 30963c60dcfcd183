"""Where a person says what to look for: words, a picture or a part of it, and chips of all that."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from sentinel_app.components import component, data_uri
from sentinel_app.pictures import MAX_BYTES, PictureError, preview
from sentinel_app.terms import MAX_TERMS, Term, reweighted, words
from sentinel_client import Box

_PREVIEW_SIDE = 640
_CHIP_SIDE = 64
_WHOLE = Box()
_ADDRESS_KEY = "q"
_LONGEST_IN_ADDRESS = 200


def query_panel() -> list[Term]:
    """Draw the search box and the chips; return what is searched for."""
    state = st.session_state
    state.setdefault("terms", [])
    if "words" not in state:  # the first time: what the address says
        state.asked = st.query_params.get(_ADDRESS_KEY, "")
        state.words = words(state.asked) if state.asked.strip() else None
    if state.pop("clear_words", False):
        state.words, state.asked, state.typed = None, "", ""
        _note_words()
    with st.container(key="ask"):
        box, picture, mix = st.columns([7, 1.7, 1.4], vertical_alignment="bottom")
    with box:
        _box()
    with picture.popover("Picture", icon=":material/image_search:", width="stretch"):
        _picture_panel()
    with mix.popover("Mix", icon=":material/tune:", width="stretch"):
        _mix_panel()
    main = [state.words] if state.words is not None else []
    if state.terms:
        _chips([*main, *state.terms])
    return [*main, *state.terms]


def add(term: Term) -> bool:
    """Add a chip; say so when there is no room for one, and return whether there was."""
    # One place is kept for the words in the box.
    if len(st.session_state.terms) + 1 < MAX_TERMS:
        st.session_state.terms = [*st.session_state.terms, replace(term)]
        return True
    st.toast(
        f"A search takes {MAX_TERMS} things at most; remove one first.", icon=":material/block:"
    )
    return False


def _box() -> None:
    # A form, so that Enter searches again where nothing was changed.
    with (
        st.form("ask", border=False, enter_to_submit=True),
        st.container(horizontal=True, gap="small", vertical_alignment="bottom"),
    ):
        st.text_input(
            "Search",
            # Not set by its key: that is told the browser once, and a busy page may miss it.
            value=st.session_state.asked,
            key="typed",
            placeholder="a dog on the beach",
            label_visibility="collapsed",
            icon=":material/search:",
        )
        st.form_submit_button(
            ":material/arrow_forward:", help="Search", on_click=_take_words, type="primary"
        )


def _take_words() -> None:
    st.session_state.asked = typed = st.session_state.typed.strip()
    st.session_state.words = words(typed) if typed else None
    _note_words()


def _note_words() -> None:
    """Keep the words in the address, so that it can be passed on and loaded again."""
    found = st.session_state.words
    if found is not None and len(found.text) <= _LONGEST_IN_ADDRESS:
        st.query_params[_ADDRESS_KEY] = found.text
    else:
        st.query_params.pop(_ADDRESS_KEY, None)


def _picture_panel() -> None:
    generation = st.session_state.setdefault("pictures", 0)
    file = st.file_uploader(
        "Search with a picture", key=f"picture:{generation}", max_upload_size=MAX_BYTES >> 20
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
        thumbnail=preview(shown, _CHIP_SIDE),
    )
    alone, added = st.columns(2)
    if alone.button("Search with it", type="primary", width="stretch"):
        st.session_state.terms = [term]
        st.session_state.clear_words = True
        _next_picture()
    if added.button("Add to the search", width="stretch") and add(term):
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
    if (plus or minus) and text.strip() and add(words(text, -0.5 if minus else 1.0)):
        st.rerun()
    st.caption("Pictures join in by the plus and minus that hits show.")


def _chips(terms: list[Term]) -> None:
    chips = [
        {
            "key": term.key,
            "label": term.label,
            "weight": term.weight,
            "image": data_uri(term.thumbnail, "image/jpeg" if term.image else "image/webp"),
        }
        for term in terms
    ]
    changed = component("chips")(key="chips", data={"terms": chips}, on_weights_change=lambda: None)
    if changed.weights is not None:
        _reweigh(dict(changed.weights))
        st.rerun()


def _reweigh(weights: dict[str, float]) -> None:
    state = st.session_state
    state.terms = reweighted(state.terms, weights)
    if state.words is not None:
        left = reweighted([state.words], weights)
        if left:
            state.words = left[0]
        else:
            state.clear_words = True
