"""The query: a search box, an image with a crop, and chips for all terms with their weights."""

from __future__ import annotations

import streamlit as st

from sentinel_app.components import component, data_uri
from sentinel_app.search_job import MAX_TERMS, Term, text_term, with_weights
from sentinel_app.uploads import MAX_IMAGE_BYTES, ImageRefused, preview
from sentinel_client import Box

_PREVIEW_SIDE = 640
_CHIP_SIDE = 64
_WHOLE = Box()
_ADDRESS_KEY = "q"
_MAX_ADDRESS_TEXT = 200


def query_panel() -> list[Term]:
    """Draw the search box and the chips; return the terms of the query.

    In the session, `text` is the term of the search box, `terms` are all others.
    """
    state = st.session_state
    state.setdefault("terms", [])
    if "text" not in state:  # the first run: the address may have a query
        state.text = _term_or_none(st.query_params.get(_ADDRESS_KEY, ""))
    if state.pop("clear_text", False):
        # Now, since a widget's value cannot be set after it was drawn.
        _set_text("")
        state.typed = ""
    with st.container(key="query"):
        box, image, mix = st.columns([7, 1.7, 1.4], vertical_alignment="bottom")
    with box:
        _search_box()
    with image.popover("Image", icon=":material/image_search:", width="stretch"):
        _image_panel()
    with mix.popover("Mix", icon=":material/tune:", width="stretch"):
        _mix_panel()
    text = [state.text] if state.text is not None else []
    if state.terms:
        _chips([*text, *state.terms])
    return [*text, *state.terms]


def add_term(term: Term) -> bool:
    """Add a term; if the query is full, show a message and return False."""
    # One place is reserved for the text of the search box.
    if len(st.session_state.terms) + 1 < MAX_TERMS:
        st.session_state.terms = [*st.session_state.terms, term]
        return True
    st.toast(
        f"A search takes at most {MAX_TERMS} terms. Remove one first.", icon=":material/block:"
    )
    return False


def replace_terms(term: Term) -> None:
    """Search for this term only."""
    st.session_state.terms = [term]
    st.session_state.clear_text = True


def _search_box() -> None:
    # A form, so that Enter searches again when the text has not changed.
    with (
        st.form("search", border=False, enter_to_submit=True),
        st.container(horizontal=True, gap="small", vertical_alignment="bottom"),
    ):
        text: Term | None = st.session_state.text
        st.text_input(
            "Search",
            # As a value, not by the key: the browser gets the latter once and may miss it.
            value=text.text if text is not None else "",
            key="typed",
            placeholder="a dog on the beach",
            label_visibility="collapsed",
            icon=":material/search:",
        )
        st.form_submit_button(
            ":material/arrow_forward:",
            help="Search",
            on_click=lambda: _set_text(st.session_state.typed),
            type="primary",
        )


def _set_text(text: str) -> None:
    """Set the text term, and keep it in the page's address for links and reloads."""
    term = st.session_state.text = _term_or_none(text)
    if term is not None and len(term.text) <= _MAX_ADDRESS_TEXT:
        st.query_params[_ADDRESS_KEY] = term.text
    else:
        st.query_params.pop(_ADDRESS_KEY, None)


def _term_or_none(text: str) -> Term | None:
    return text_term(text) if text.strip() else None


def _image_panel() -> None:
    generation = st.session_state.setdefault("image_uploads", 0)
    file = st.file_uploader(
        "Search with an image", key=f"image:{generation}", max_upload_size=MAX_IMAGE_BYTES >> 20
    )
    if file is None:
        st.caption("Drop an image here. Then drag the box to search with a part of it.")
        return
    try:
        shown = preview(file.getvalue(), _PREVIEW_SIDE)
    except ImageRefused as error:
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
    replace, add = st.columns(2)
    if replace.button("Search with it", type="primary", width="stretch"):
        replace_terms(term)
        _clear_image()
    if add.button("Add to the search", width="stretch") and add_term(term):
        _clear_image()


def _clear_image() -> None:
    st.session_state.image_uploads += 1  # another key: an empty uploader
    st.rerun()


def _mix_panel() -> None:
    with st.form("mix", border=False, clear_on_submit=True):
        text = st.text_input("More text", placeholder="at night", key="mix_text")
        left, right = st.columns(2)
        plus = left.form_submit_button("Add", icon=":material/add:", width="stretch")
        minus = right.form_submit_button("Subtract", icon=":material/remove:", width="stretch")
    if (plus or minus) and text.strip() and add_term(text_term(text, -0.5 if minus else 1.0)):
        st.rerun()
    st.caption("To mix in an image, use + and − on a hit.")  # noqa: RUF001


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
        _set_weights(dict(changed.weights))
        st.rerun()


def _set_weights(weights: dict[str, float]) -> None:
    state = st.session_state
    state.terms = with_weights(state.terms, weights)
    if state.text is not None:
        text = with_weights([state.text], weights)
        if text:
            state.text = text[0]
        else:
            state.clear_text = True
