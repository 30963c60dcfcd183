"""The page: what Streamlit runs anew for every user and every click."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from sentinel_app import problems
from sentinel_app.away import away
from sentinel_app.backend import Backend
from sentinel_app.details import caption_of, details, open_details
from sentinel_app.indexing import index_tab
from sentinel_app.markdown import plain
from sentinel_app.query_panel import add, query_panel
from sentinel_app.results import results
from sentinel_app.searching import Request, SearchJob
from sentinel_app.sidebar import Choice, sidebar
from sentinel_app.terms import Term, query_of
from sentinel_client import Collection, FieldSchema, FieldType, Hit, SentinelError

_HERE = Path(__file__).parent
# As `sentinel index` makes them.
_FIELDS = (FieldSchema("path", FieldType.STRING),)


@st.cache_resource
def backend() -> Backend:
    """Return the one connection of this process."""
    return Backend()


def main() -> None:
    """Draw the page."""
    st.set_page_config("Sentinel", _HERE / "icon.svg", layout="wide")
    st.html(_HERE / "page.css")
    connection = backend()
    try:
        collections = connection.call(connection.client.list_collections(timeout=5.0))
    except SentinelError as error:
        away(error, connection.client.address)
        return
    if not collections:
        _first_collection(connection)
        return
    choice = sidebar(collections)
    search, index = st.tabs([":material/search: Search", ":material/add_photo_alternate: Add"])
    with search:
        _search(connection, choice)
    with index:
        index_tab(connection, choice.collection)


def _search(connection: Backend, choice: Choice) -> None:
    terms = query_panel()
    query = query_of(terms)
    if query is None:
        _start_page(choice.collection)
        return
    request = (query_key(terms), choice.collection.name, choice.limit, repr(choice.options))
    job: SearchJob | None = st.session_state.get("job")
    if job is None or st.session_state.get("request") != request:
        if job is not None:
            job.cancel()
        if st.session_state.get("request") != request:
            st.session_state.tries = 0
        asked = Request(query, choice.collection.name, choice.limit, choice.options)
        job = st.session_state.job = SearchJob.start(connection, asked)
        st.session_state.request = request

    def act(kind: str, place: int) -> None:
        if kind == "open":
            open_details(job.number, place)
            st.rerun()
        elif _mix(kind, job.hits[place]):
            st.rerun()

    address = connection.client.address
    results(job, address=address, captions=choice.captions, tile=choice.tile, act=act)
    # Not in what is drawn again and again while hits come: that would close it.
    details(connection, choice.collection.name, job.number, job.hits)


def query_key(terms: list[Term]) -> str:
    """Return what tells two queries apart."""
    return repr([(term.key, term.weight, term.crop) for term in terms])


def _mix(kind: str, hit: Hit) -> bool:
    """Search for more like a hit, or add it to the search, for or against; False if it cannot."""
    label = caption_of(hit.fields, hit.text) or hit.id[:12]
    weight = -0.5 if kind == "minus" else 1.0
    term = Term(label, item_id=hit.id, weight=weight, thumbnail=hit.thumbnail)
    if kind != "like":
        return add(term)
    st.session_state.terms = [term]
    st.session_state.clear_words = True
    return True


def _start_page(collection: Collection) -> None:
    if not collection.item_count:
        st.info(
            f"**{plain(collection.name)}** is empty. Drop pictures into it under *Add*, or run "
            f"`sentinel index FOLDER --collection {collection.name}`.",
            icon=":material/add_photo_alternate:",
        )
        return
    st.html(
        f'<div class="start"><p>{collection.item_count:,} pictures and texts</p>'
        "Ask in plain words or with a picture, then mix in what you like: each hit has "
        "<b>≈</b> for more of its kind, <b>+</b> and <b>−</b>.</div>"  # noqa: RUF001
    )


def _first_collection(connection: Backend) -> None:
    st.markdown("### :material/travel_explore: Welcome to Sentinel")
    st.markdown(
        "There is no collection yet. Make one here and drop pictures into it, or index a whole "
        "folder by command line: `sentinel index FOLDER`."
    )
    with st.form("first", border=False):
        name = st.text_input("Name", "photos", max_chars=128)
        if st.form_submit_button("Make it", type="primary"):
            try:
                connection.call(connection.client.create_collection(name, _FIELDS))
            except SentinelError as error:
                problems.show(error, connection.client.address)
            else:
                st.rerun()


main()
