"""The sidebar: the collection, the number of hits, filters and other search options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any

import streamlit as st

from sentinel_app.formatting import escape_markdown, model_note
from sentinel_client import (
    Caller,
    Collection,
    Diversity,
    F,
    FieldSchema,
    FieldType,
    Filter,
    Hybrid,
    Scope,
    SearchOptions,
)

# Copies of an image in another encoding or size score above it, other images below.
_DUPLICATE_SCORE = 0.96
_Compare = Callable[[F, Any], Filter]
_EQUAL: dict[str, _Compare] = {"is": lambda field, value: field == value}
_EQUALITY = {**_EQUAL, "is not": lambda field, value: field != value}
_ORDER: dict[str, _Compare] = {
    **_EQUALITY,
    "at least": lambda field, value: field >= value,
    "at most": lambda field, value: field <= value,
}
_COMPARISONS: dict[FieldType, dict[str, _Compare]] = {
    FieldType.STRING: {**_EQUALITY, "starts with": lambda field, value: field.startswith(value)},
    FieldType.INT64: _ORDER,
    FieldType.DOUBLE: _ORDER,
    FieldType.BOOL: _EQUAL,
    FieldType.STRING_LIST: {
        "contains": lambda field, value: field.contains(value),
        "does not contain": lambda field, value: ~field.contains(value),
    },
}


@dataclass(frozen=True)
class Choice:
    """The settings of the sidebar: the collection, and how to search it."""

    collection: Collection
    limit: int = 0
    options: SearchOptions = field(default_factory=SearchOptions)
    captions: bool = False
    tile_width: int = 0


def sidebar(collections: list[Collection], caller: Caller) -> Choice:
    """Draw the sidebar; return its settings."""
    with st.sidebar:
        st.markdown("### :material/travel_explore: Sentinel")
        collection = _collection(collections)
        if not caller.may(Scope.SEARCH, collection.name):
            return Choice(collection)
        limit = st.select_slider("Hits", [10, 30, 60, 120, 250, 500, 1000], value=30, key="limit")
        captions = st.toggle("Captions", key="captions")
        hybrid = any(schema.full_text for schema in collection.fields) and st.toggle(
            "Search the words of captions, too", key="hybrid", help="Hybrid search with BM25"
        )
        collapse = not hybrid and st.toggle("Hide near-duplicates", key="collapse")
        condition = _filters(collection) if collection.fields else None
        with st.expander("More", icon=":material/tune:"):
            options = _options(hybrid=hybrid, collapse=collapse)
            tile_width = st.slider("Image width", 110, 340, 190, step=10, key="tile_width")
        if condition is not None:
            options["filter"] = condition
    return Choice(collection, limit, options, captions, tile_width)


def _collection(collections: list[Collection]) -> Collection:
    by_name = {collection.name: collection for collection in collections}
    for collection in collections:
        by_name.update(dict.fromkeys(collection.aliases, collection))
    # Somebody else may have deleted the chosen one.
    if st.session_state.get("collection") not in by_name:
        st.session_state.pop("collection", None)
    if "collection" not in st.session_state and st.query_params.get("collection") in by_name:
        st.session_state.collection = st.query_params["collection"]
    # Labels without counts: Streamlit forgets the choice when its label changes.
    name = st.selectbox("Collection", list(by_name), key="collection")
    st.query_params["collection"] = name  # for links to this page
    collection = by_name[name]
    alias = "" if name == collection.name else f" → {collection.name}"
    st.caption(f"{collection.item_count:,} items{escape_markdown(alias)}")
    st.caption(model_note(collection.model.model))
    return collection


def _options(*, hybrid: bool, collapse: bool) -> SearchOptions:
    options: SearchOptions = {"hybrid": Hybrid()} if hybrid else {}
    min_score = st.slider("Minimum score", 0.0, 1.0, 0.0, step=0.01, key="min_score")
    if min_score > 0:
        options["min_score"] = min_score
    if hybrid:
        return options
    variety = st.slider(
        "Variety", 0.0, 1.0, 0.0, step=0.1, key="variety", help="0 ranks by similarity only"
    )
    if collapse or variety > 0:
        options["diversity"] = Diversity(
            duplicate_threshold=_DUPLICATE_SCORE if collapse else None,
            mmr_lambda=1.0 - variety if variety > 0 else None,
        )
    return options


def _filters(collection: Collection) -> Filter | None:
    """Draw the filters that were added; return all of them combined, None without any."""
    rows: list[int] = st.session_state.setdefault(f"filters:{collection.name}", [])
    conditions = [_filter(collection, row, rows) for row in list(rows)]
    if st.button("Add a filter", icon=":material/filter_alt:", width="stretch"):
        rows.append(max(rows, default=0) + 1)
        st.rerun()
    complete = [condition for condition in conditions if condition is not None]
    return reduce(and_, complete) if complete else None


def _filter(collection: Collection, row: int, rows: list[int]) -> Filter | None:
    """Draw one filter; return None while it has no value."""
    key = f"filter:{collection.name}:{row}"
    fields = {schema.name: schema for schema in collection.fields}
    with st.container(border=True, gap="small"):
        left, right = st.columns([5, 1], gap="xsmall", vertical_alignment="bottom")
        name = left.selectbox("Field", list(fields), key=f"{key}:field")
        if right.button(
            ":material/close:", key=f"{key}:remove", help="Remove this filter", type="tertiary"
        ):
            rows.remove(row)
            st.rerun()
        comparisons = _COMPARISONS[fields[name].type]
        left, right = st.columns(2, gap="xsmall")
        comparison = left.selectbox(
            "Comparison", list(comparisons), key=f"{key}:{name}:how", label_visibility="collapsed"
        )
        with right:
            value = _value(fields[name], f"{key}:{name}:value")
    return None if value in (None, "") else comparisons[comparison](F(name), value)


def _value(schema: FieldSchema, key: str) -> Any:
    hidden: dict[str, Any] = {"key": key, "label_visibility": "collapsed"}
    if schema.type in (FieldType.INT64, FieldType.DOUBLE):
        step = 1 if schema.type is FieldType.INT64 else None
        return st.number_input("Value", value=None, step=step, placeholder="number", **hidden)
    if schema.type is FieldType.BOOL:
        return st.selectbox("Value", [True, False], **hidden)
    return st.text_input("Value", placeholder="value", **hidden)
