"""Filters, built from the fields that the collection declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_
from typing import Any

import streamlit as st

from sentinel_client import Collection, F, FieldSchema, FieldType, Filter

_Compare = Callable[[F, Any], Filter]
_ORDER: dict[str, _Compare] = {
    "is": lambda field, value: field == value,
    "is not": lambda field, value: field != value,
    "at least": lambda field, value: field >= value,
    "at most": lambda field, value: field <= value,
}
_COMPARISONS: dict[FieldType, dict[str, _Compare]] = {
    FieldType.STRING: {
        "is": _ORDER["is"],
        "is not": _ORDER["is not"],
        "begins with": lambda field, value: field.startswith(value),
    },
    FieldType.INT64: _ORDER,
    FieldType.DOUBLE: _ORDER,
    FieldType.BOOL: {"is": _ORDER["is"]},
    FieldType.STRING_LIST: {
        "contains": lambda field, value: field.contains(value),
        "lacks": lambda field, value: ~field.contains(value),
    },
}


def filters_panel(collection: Collection) -> Filter | None:
    """Draw one line for each filter that was added; return what they make together."""
    rows: list[int] = st.session_state.setdefault(f"filters:{collection.name}", [])
    parts = []
    for row in list(rows):
        part = _filter_row(collection, row, rows)
        if part is not None:
            parts.append(part)
    if st.button("Add a filter", icon=":material/filter_alt:", width="stretch"):
        rows.append(max(rows, default=0) + 1)
        st.rerun()
    return reduce(and_, parts) if parts else None


def _filter_row(collection: Collection, row: int, rows: list[int]) -> Filter | None:
    key = f"filter:{collection.name}:{row}"
    fields = {schema.name: schema for schema in collection.fields}
    with st.container(border=True, gap="small"):
        field_place, remove_place = st.columns([5, 1], gap="xsmall", vertical_alignment="bottom")
        name = field_place.selectbox("Field", list(fields), key=f"{key}:field")
        if remove_place.button(
            ":material/close:", key=f"{key}:remove", help="Remove this filter", type="tertiary"
        ):
            rows.remove(row)
            st.rerun()
        schema = fields[name]
        comparisons = _COMPARISONS[schema.type]
        how_place, value_place = st.columns(2, gap="xsmall")
        how = how_place.selectbox(
            "How", list(comparisons), key=f"{key}:{name}:how", label_visibility="collapsed"
        )
        with value_place:
            value = _value(schema, f"{key}:{name}:value")
    return None if value in (None, "") else comparisons[how](F(name), value)


def _value(schema: FieldSchema, key: str) -> Any:
    hidden: dict[str, Any] = {"key": key, "label_visibility": "collapsed"}
    match schema.type:
        case FieldType.INT64:
            return st.number_input("Value", value=None, step=1, placeholder="number", **hidden)
        case FieldType.DOUBLE:
            return st.number_input("Value", value=None, placeholder="number", **hidden)
        case FieldType.BOOL:
            return st.selectbox("Value", [True, False], **hidden)
        case _:
            return st.text_input("Value", placeholder="value", **hidden)
