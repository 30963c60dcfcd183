"""A hit at full size, with what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from sentinel_app.backend import Backend
from sentinel_client import Hit, NotFound, SentinelError


@st.dialog("Picture", width="large")
def details(backend: Backend, collection: str, hit: Hit) -> None:
    """Show it over the page."""
    if hit.image_uri:
        _picture(backend, collection, hit)
    elif hit.text:
        st.markdown("> " + hit.text.replace("\n", "\n> "))
    rows = {"score": f"{hit.score:.4f}", "rank": str(hit.rank), "id": hit.id}
    rows |= {name: _shown(value) for name, value in sorted(hit.fields.items())}
    st.table({"": list(rows), " ": list(rows.values())}, border="horizontal", hide_index=True)


def _picture(backend: Backend, collection: str, hit: Hit) -> None:
    try:
        image = backend.call(backend.client.download_image(hit.id, collection=collection))
    except NotFound:
        st.info("The picture is no longer stored; this is its thumbnail.")
        st.image(hit.thumbnail, width="content")
        return
    except SentinelError as error:
        st.warning(error.message)
        return
    st.image(image.data, width="content")
    kind = image.media_type.rpartition("/")[2]
    st.download_button(
        "Download", image.data, file_name=f"{hit.id[:32]}.{kind}", mime=image.media_type,
        icon=":material/download:",
    )  # fmt: skip


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def caption_of(fields: Mapping[str, Any], text: str) -> str:
    """Return the words that say best what an item is."""
    for name in ("caption", "title", "captions", "description"):
        value = fields.get(name)
        if value:
            return str(value[0]) if isinstance(value, list) else str(value)
    return text or str(fields.get("path", "")).rpartition("/")[2]
