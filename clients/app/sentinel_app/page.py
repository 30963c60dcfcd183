"""The page. Streamlit runs this script again for every visitor and every click."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from sentinel_app.backend import Backend
from sentinel_app.details import open_details, show_details
from sentinel_app.errors import gateway_trouble, gateway_unavailable, show_error
from sentinel_app.formatting import caption, escape_markdown
from sentinel_app.index_tab import index_tab
from sentinel_app.query_panel import add_term, query_panel, replace_terms
from sentinel_app.results import show_results
from sentinel_app.search_job import SearchJob, SearchRequest, Term
from sentinel_app.sidebar import Choice, sidebar
from sentinel_client import Collection, FieldSchema, FieldType, Hit, SentinelError

_HERE = Path(__file__).parent
# The same fields as `sentinel index` declares.
_FIELDS = (FieldSchema("path", FieldType.STRING),)
# For the list of collections, before everything else is drawn. The second is for a gateway that
# has just not answered.
_PATIENCE_S = 5.0
_SHORT_PATIENCE_S = 1.5


@st.cache_resource
def _backend() -> Backend:
    """Return the connection that all visitors share."""
    return Backend()


def main() -> None:
    """Draw the page."""
    st.set_page_config("Sentinel", _HERE / "icon.svg", layout="wide")
    st.html(_HERE / "page.css")
    backend = _backend()
    trouble = _refresh_collections(backend)
    collections: list[Collection] | None = st.session_state.get("collections")
    if trouble is not None and not collections:
        gateway_unavailable(trouble, backend.client.address)
        return
    if not collections:
        _create_first_collection(backend)
        return
    # Always drawn: if something came or went before the tabs, the first of them would be shown.
    with st.container():
        if trouble is not None:
            gateway_trouble(trouble, backend.client.address)
    choice = sidebar(collections)
    search, add = st.tabs([":material/search: Search", ":material/add_photo_alternate: Add"])
    with search:
        _search_tab(backend, choice)
    with add:
        index_tab(backend, choice.collection)


def _refresh_collections(backend: Backend) -> SentinelError | None:
    """List the collections again; return why that failed, and keep the last list.

    The page is drawn with that list: Streamlit forgets what people entered into anything that it
    does not draw once, among them filters and the files that they have chosen.
    """
    state = st.session_state
    patience = _SHORT_PATIENCE_S if state.get("in_trouble") else _PATIENCE_S
    try:
        state.collections = backend.call(backend.client.list_collections(timeout=patience))
    except SentinelError as error:
        state.in_trouble = True
        return error
    state.in_trouble = False
    return None


def _search_tab(backend: Backend, choice: Choice) -> None:
    terms = query_panel()
    if not terms:
        _start_page(choice.collection)
        return
    name = choice.collection.name
    request = SearchRequest(tuple(terms), name, choice.limit, choice.options)
    job: SearchJob | None = st.session_state.get("search_job")
    if job is None or job.request != request:
        if job is not None:
            job.cancel()
        job = st.session_state.search_job = SearchJob(backend, request)

    def on_action(kind: str, place: int) -> None:
        if kind == "open":
            open_details(job.number, place)
            st.rerun()
        elif _search_with_hit(kind, job.hits[place]):
            st.rerun()

    show_results(
        job,
        address=backend.client.address,
        captions=choice.captions,
        tile_width=choice.tile_width,
        on_action=on_action,
    )
    # Outside of the results: redrawing them while hits arrive would close it.
    show_details(backend, name, job.number, job.hits)


def _search_with_hit(kind: str, hit: Hit) -> bool:
    """Search for more like a hit, or add it to the search; return whether the search changed."""
    weight = -0.5 if kind == "minus" else 1.0
    label = caption(hit) or hit.id[:12]
    term = Term(label, item_id=hit.id, weight=weight, thumbnail=hit.thumbnail)
    if kind != "like":
        return add_term(term)
    replace_terms(term)
    return True


def _start_page(collection: Collection) -> None:
    if not collection.item_count:
        st.info(
            f"**{escape_markdown(collection.name)}** is empty. Drop images on the *Add* tab, or "
            f"run `sentinel index FOLDER --collection {collection.name}`.",
            icon=":material/add_photo_alternate:",
        )
        return
    st.html(
        f'<div class="start"><p>{collection.item_count:,} images and texts</p>'
        "Search by text, by image, or by part of an image. On each hit, "
        "<b>≈</b> finds more like it, <b>+</b> adds it to the search, "
        "and <b>−</b> subtracts it.</div>"  # noqa: RUF001
    )


def _create_first_collection(backend: Backend) -> None:
    st.markdown("### :material/travel_explore: Welcome to Sentinel")
    st.markdown(
        "There is no collection yet. Create one here and add images, or index a folder from the "
        "command line: `sentinel index FOLDER`."
    )
    with st.form("first", border=False):
        name = st.text_input("Name", "photos", max_chars=128)
        if st.form_submit_button("Create", type="primary"):
            try:
                backend.call(backend.client.create_collection(name, _FIELDS))
            except SentinelError as error:
                show_error(error, backend.client.address)
            else:
                st.rerun()


main()
