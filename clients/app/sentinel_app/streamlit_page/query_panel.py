"""The query: a search box, an image with a crop, and chips for all terms with their weights."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sentinel_app.formatting import plain
from sentinel_app.previews import ImageRefused, Preview, cut, preview
from sentinel_app.streamlit_page.components import component, data_uri
from sentinel_app.streamlit_page.search_job import MAX_TERMS, Term, text_term, with_weights
from sentinel_app.streamlit_page.upload_space import hold, release
from sentinel_app.uploads import MAX_IMAGE_BYTES, UploadLimit, megabytes
from sentinel_client import Box

_PREVIEW_SIDE = 640
_CHIP_SIDE = 64
_WHOLE = Box()
# All images of one search together. A request to the gateway can be 64 MiB.
_MAX_QUERY_BYTES = 2 * MAX_IMAGE_BYTES
_ADDRESS_KEY = "q"
# How many other terms the search has. They are not in the address.
_OTHERS_KEY = "others"
_MAX_ADDRESS_TEXT = 200


def query_panel(limit: UploadLimit) -> list[Term]:
    """Draw the search box and the chips; return the terms of the query.

    `limit` is for the images that are uploaded.

    In the session, `text` is the term of the search box, `terms` are all others.
    """
    state = st.session_state
    state.setdefault("terms", [])
    if "text" not in state:  # the first run: the address may have a query
        state.text = _term_or_none(st.query_params.get(_ADDRESS_KEY, ""))
        state.lost_terms = _OTHERS_KEY in st.query_params
    if state.pop("clear_text", False):
        # Now, since a widget's value cannot be set after it was drawn.
        _set_text("")
        state.typed = ""
    with st.container(key="query"):
        box, image, mix = st.columns([7, 1.7, 1.4], vertical_alignment="bottom")
    with box:
        _search_box()
    with _popover(image, "Image", ":material/image_search:"):
        _image_panel(min(MAX_IMAGE_BYTES, limit.bytes))
    with _popover(mix, "Mix", ":material/tune:"):
        _mix_panel()
    hold(sum(len(term.image) for term in state.terms))
    text = [state.text] if state.text is not None else []
    # Always drawn: if the hits moved up, the browser would show them twice for a moment.
    with st.container():
        _remember_others()
        if state.terms:
            _chips([*text, *state.terms])
    return [*text, *state.terms]


def _popover(column: DeltaGenerator, label: str, icon: str) -> DeltaGenerator:
    """Return a popover that `_close_popovers` closes."""
    key = f"popover:{label}"
    if st.session_state.pop(f"close:{key}", False):
        # Now, since a widget's value cannot be set after it was drawn.
        st.session_state[key] = False
    return column.popover(label, icon=icon, width="stretch", key=key, on_change="rerun")


def _close_popovers() -> None:
    """Run the page again with the popovers closed: the hits are under them."""
    for label in ("Image", "Mix"):
        st.session_state[f"close:popover:{label}"] = True
    st.rerun()


def _remember_others() -> None:
    """Keep the number of terms in the address, and say after a reload that they are lost."""
    state = st.session_state
    if state.terms:
        st.query_params[_OTHERS_KEY] = str(len(state.terms))
        state.lost_terms = False
    else:
        st.query_params.pop(_OTHERS_KEY, None)
    if state.lost_terms:
        st.info(
            "This search had images or further terms. An address cannot hold them. Add them again.",
            icon=":material/history:",
        )


def add_term(term: Term) -> bool:
    """Add a term; if the search is full, show a message and return False."""
    terms = [*st.session_state.terms, term]
    # One place is reserved for the text of the search box.
    if len(terms) + 1 > MAX_TERMS:
        problem = f"A search takes at most {MAX_TERMS} terms. Remove one first."
    elif sum(len(one.image) for one in terms) > _MAX_QUERY_BYTES:
        problem = f"The images of a search take at most {megabytes(_MAX_QUERY_BYTES)}. Remove one."
    else:
        st.session_state.terms = terms
        return True
    st.toast(problem, icon=":material/block:")
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


def _image_panel(most_bytes: int) -> None:
    generation = st.session_state.setdefault("image_uploads", 0)
    file = st.file_uploader(
        "Search with an image", key=f"image:{generation}", max_upload_size=most_bytes >> 20
    )
    if file is None:
        st.caption("Drop an image here. Then draw a box to search with a part of it.")
        return
    try:
        view = _preview_of(file)
    except ImageRefused as error:
        st.warning(str(error), icon=":material/broken_image:")
        return
    crop = component("crop")(
        key=f"crop:{generation}",
        data={"image": data_uri(view.shown, view.shown_type)},
        default={"box": list(_WHOLE)},
        on_box_change=lambda: None,
    )
    box = Box(*crop.box) if crop.box else _WHOLE
    with st.container(horizontal=True, gap="small"):
        replace = st.button("Search with it", type="primary", width="stretch")
        add = st.button("Add to the search", width="stretch")
    if replace:
        replace_terms(_image_term(file, view, box))
        _clear_image(file)
    if add and add_term(_image_term(file, view, box)):
        _clear_image(file)


def _preview_of(file: UploadedFile) -> Preview:
    """Return the preview of an uploaded image, or raise ImageRefused. Decode each image once."""
    state = st.session_state
    if "previewed" not in state or state.previewed[0] != file.file_id:
        try:
            state.previewed = (file.file_id, preview(file.getvalue(), _PREVIEW_SIDE))
        except ImageRefused as error:
            state.previewed = (file.file_id, error)
    outcome: Preview | ImageRefused = state.previewed[1]
    if isinstance(outcome, ImageRefused):
        raise outcome
    return outcome


def _image_term(file: UploadedFile, view: Preview, box: Box) -> Term:
    name, whole = plain(file.name), box == _WHOLE
    return Term(
        name if whole else f"part of {name}",
        image=file.getvalue(),
        crop=None if whole else box,
        thumbnail=cut(view, box, _CHIP_SIDE),
        thumbnail_type=view.shown_type,
    )


def _clear_image(file: UploadedFile) -> None:
    release([file])
    st.session_state.pop("previewed", None)
    st.session_state.image_uploads += 1  # another key: an empty uploader
    _close_popovers()


def _mix_panel() -> None:
    with st.form("mix", border=False, clear_on_submit=True):
        text = st.text_input("More text", placeholder="at night", key="mix_text")
        left, right = st.columns(2)
        plus = left.form_submit_button("Add", icon=":material/add:", width="stretch")
        minus = right.form_submit_button("Subtract", icon=":material/remove:", width="stretch")
    if (plus or minus) and text.strip() and add_term(text_term(text, -0.5 if minus else 1.0)):
        _close_popovers()
    st.caption("To mix in an image, use + and − on a hit.")  # noqa: RUF001


def _chips(terms: list[Term]) -> None:
    chips = [
        {
            "key": term.key,
            "label": term.label,
            "weight": term.weight,
            "image": data_uri(term.thumbnail, term.thumbnail_type),
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
