"""The page. Streamlit runs this script again for every visitor and every click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from sentinel_app.formatting import caption, escape_markdown, index_command
from sentinel_app.streamlit_page.backend import Backend
from sentinel_app.streamlit_page.details import open_details, show_details
from sentinel_app.streamlit_page.errors import gateway_trouble, gateway_unavailable, show_error
from sentinel_app.streamlit_page.index_tab import index_tab
from sentinel_app.streamlit_page.query_panel import add_term, query_panel, replace_terms
from sentinel_app.streamlit_page.results import show_results
from sentinel_app.streamlit_page.search_job import SearchJob, SearchRequest, Term
from sentinel_app.streamlit_page.sidebar import Choice, sidebar
from sentinel_app.streamlit_page.sign_in import (
    account,
    needs_sign_in,
    refuse,
    sign_in_page,
    visitor_backend,
)
from sentinel_app.streamlit_page.upload_space import allow
from sentinel_app.uploads import limit_of
from sentinel_client import (
    Caller,
    Collection,
    FieldSchema,
    FieldType,
    Hit,
    Scope,
    SentinelError,
)

_HERE = Path(__file__).parent
# The same fields as `sentinel index` declares.
_FIELDS = (FieldSchema("path", FieldType.STRING),)
# For the list of collections, before everything else is drawn. The second is for a gateway that
# has just not answered.
_PATIENCE_S = 5.0
_SHORT_PATIENCE_S = 1.5


@st.cache_resource
def _backend() -> Backend:
    """Return the connection that all visitors share who need not sign in."""
    return Backend()


def main() -> None:
    """Draw the page."""
    st.set_page_config("Sentinel", _HERE.parent / "static" / "icon.svg", layout="wide")
    st.html(_HERE / "page.css")
    backend = visitor_backend(_backend())
    trouble = None if backend is None else _refresh(backend)
    if trouble is not None and needs_sign_in(trouble):
        refuse(trouble)
        backend = None
    if backend is None:
        sign_in_page(_backend())
        return
    _draw(backend, trouble)
    account(st.session_state.get("caller"))


def _draw(backend: Backend, trouble: SentinelError | None) -> None:
    """Draw what this visitor may do."""
    state = st.session_state
    collections: list[Collection] | None = state.get("collections")
    if trouble is not None and not collections:
        gateway_unavailable(trouble, backend.client.address)
        return
    caller: Caller = state.caller
    allow(limit_of(caller))
    if not collections:
        _without_collections(backend, caller)
        return
    # Always drawn: if something came or went before the tabs, the first of them would be shown.
    with st.container():
        if trouble is not None:
            gateway_trouble(trouble, backend.client.address)
    choice = sidebar(collections, caller)
    collection = choice.collection
    offers: dict[str, Callable[[], None]] = {}
    if caller.may(Scope.SEARCH, collection.name):
        offers[":material/search: Search"] = lambda: _search_tab(backend, choice, caller)
    if caller.may(Scope.WRITE, collection.name):
        limit = limit_of(caller, collection.name)
        offers[":material/add_photo_alternate: Add"] = lambda: index_tab(backend, collection, limit)
    for tab, draw in zip(st.tabs(list(offers)), offers.values(), strict=True):
        with tab:
            draw()


def _refresh(backend: Backend) -> SentinelError | None:
    """Ask again what the visitor may do and which collections there are, for searches or writes.

    Return why that failed, and keep the last answers: the page is drawn with them. Streamlit
    forgets what people entered into anything that it does not draw once, among them filters and
    the files that they have chosen.
    """
    state = st.session_state
    patience = _SHORT_PATIENCE_S if state.get("in_trouble") else _PATIENCE_S
    try:
        caller = backend.caller(patience)
        # What may not be read is not listed.
        found = (
            backend.call(backend.client.list_collections(timeout=patience))
            if caller.may(Scope.READ)
            else []
        )
    except SentinelError as error:
        state.in_trouble = True
        return error
    state.in_trouble = False
    state.caller = caller
    uses = (Scope.SEARCH, Scope.WRITE)
    state.collections = [one for one in found if any(caller.may(use, one.name) for use in uses)]
    return None


def _search_tab(backend: Backend, choice: Choice, caller: Caller) -> None:
    terms = query_panel(limit_of(caller))
    if not terms:
        may_write = caller.may(Scope.WRITE, choice.collection.name)
        _start_page(choice.collection, backend.client.address, may_write=may_write)
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


def _start_page(collection: Collection, address: str, *, may_write: bool) -> None:
    if not collection.item_count:
        advice = (
            " Drop images on the *Add* tab, or run "
            f"`{index_command(address)} FOLDER --collection {collection.name}`."
        )
        st.info(
            f"**{escape_markdown(collection.name)}** is empty.{advice if may_write else ''}",
            icon=":material/add_photo_alternate:",
        )
        return
    st.html(
        f'<div class="start"><p>{collection.item_count:,} images and texts</p>'
        "Search by text, by image, or by part of an image. On each hit, "
        "<b>≈</b> finds more like it, <b>+</b> adds it to the search, "
        "and <b>−</b> subtracts it.</div>"  # noqa: RUF001
    )


def _without_collections(backend: Backend, caller: Caller) -> None:
    st.markdown("### :material/travel_explore: Welcome to Sentinel")
    granted = [grant.collection for grant in caller.grants if grant.scope is Scope.ADMIN]
    name = next((one for one in ("photos", *granted) if one and _may_create(caller, one)), None)
    if name is not None:
        _create_first_collection(backend, caller, name)
        return
    st.info(
        "There is no collection that you may use here. This page needs the scopes search and read "
        "for one: ask whoever runs Sentinel.",
        icon=":material/lock:",
    )


def _may_create(caller: Caller, name: str) -> bool:
    """Tell whether a caller may create a collection of this name, and then sees it here."""
    is_useful = caller.may(Scope.SEARCH, name) or caller.may(Scope.WRITE, name)
    return is_useful and caller.may(Scope.ADMIN, name) and caller.may(Scope.READ, name)


def _create_first_collection(backend: Backend, caller: Caller, suggested: str) -> None:
    st.markdown(
        "There is no collection yet. Create one here and add images, or index a folder from the "
        f"command line: `{index_command(backend.client.address)} FOLDER`."
    )
    with st.form("first", border=False):
        name = st.text_input("Name", suggested, max_chars=128)
        if st.form_submit_button("Create", type="primary"):
            if not _may_create(caller, name):
                st.warning("You may not create a collection of this name.", icon=":material/lock:")
                return
            try:
                backend.call(backend.client.create_collection(name, _FIELDS))
            except SentinelError as error:
                show_error(error, backend.client.address)
            else:
                st.rerun()


main()
