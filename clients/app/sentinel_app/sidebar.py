"""The page's side: which collection, how many hits, which of them."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from sentinel_app.filters_panel import filters_panel
from sentinel_app.markdown import plain
from sentinel_client import Collection, Diversity, Hybrid, SearchOptions

# Re-encoded and resized copies of a picture lie above it, different pictures below.
_SAME_PICTURE = 0.96


@dataclass(frozen=True)
class Choice:
    """What was chosen at the side."""

    collection: Collection
    limit: int
    options: SearchOptions
    captions: bool
    tile: int


def sidebar(collections: list[Collection]) -> Choice:
    """Draw it."""
    with st.sidebar:
        st.markdown("### :material/travel_explore: Sentinel")
        collection = _collection(collections)
        limit = st.select_slider("Hits", [10, 30, 60, 120, 250, 500, 1000], value=30, key="limit")
        captions = st.toggle("Captions", key="captions")
        hybrid = _hybrid(collection)
        collapse = not hybrid and st.toggle("Hide near-duplicates", key="collapse")
        chosen = None
        if collection.fields:
            chosen = filters_panel(collection)
        with st.expander("More", icon=":material/tune:"):
            options = _options(hybrid=hybrid, collapse=collapse)
            tile = st.slider("Width of pictures", 110, 340, 190, step=10, key="tile")
        if chosen is not None:
            options["filter"] = chosen
    return Choice(collection, limit, options, captions, tile)


def _collection(collections: list[Collection]) -> Collection:
    by_name = {collection.name: collection for collection in collections}
    for collection in collections:
        by_name.update(dict.fromkeys(collection.aliases, collection))
    # The chosen one may have been deleted by somebody else.
    if st.session_state.get("collection") not in by_name:
        st.session_state.pop("collection", None)
    if "collection" not in st.session_state and st.query_params.get("collection") in by_name:
        st.session_state.collection = st.query_params["collection"]
    # Without counts: Streamlit forgets what was chosen when its label changes.
    name = st.selectbox("Collection", list(by_name), key="collection")
    st.query_params["collection"] = name  # the address can be passed on
    collection = by_name[name]
    alias = "" if name == collection.name else f" → {collection.name}"
    st.caption(f"{collection.item_count:,} items{plain(alias)}")
    return collection


def _hybrid(collection: Collection) -> bool:
    return any(schema.full_text for schema in collection.fields) and st.toggle(
        "Words in captions, too", key="hybrid", help="Hybrid search with BM25"
    )


def _options(*, hybrid: bool, collapse: bool) -> SearchOptions:
    options: SearchOptions = {"hybrid": Hybrid()} if hybrid else {}
    least = st.slider("Least score", 0.0, 1.0, 0.0, step=0.01, key="min_score")
    if least > 0:
        options["min_score"] = least
    if hybrid:
        return options
    vary = st.slider("Variety", 0.0, 1.0, 0.0, step=0.1, key="variety", help="0: the nearest only")
    if collapse or vary > 0:
        options["diversity"] = Diversity(
            duplicate_threshold=_SAME_PICTURE if collapse else None,
            mmr_lambda=1.0 - vary if vary > 0 else None,
        )
    return options
