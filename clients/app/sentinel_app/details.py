"""A hit at full size, with what is known about it; arrows lead to its neighbours."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from PIL import Image

from sentinel_app import problems
from sentinel_app.backend import Backend
from sentinel_client import DownloadedImage, Hit, NotFound, SentinelError


def open_details(search: int, place: int) -> None:
    """Let `details` show a hit of a search from the next drawing of the page on."""
    st.session_state.opened = (search, place)


def details(backend: Backend, collection: str, search: int, hits: Sequence[Hit]) -> None:
    """Show the opened hit of this search over the page, if there is one."""
    if st.session_state.get("opened", (None, 0))[0] == search:
        _dialog(backend, collection, hits)


def _close() -> None:
    st.session_state.pop("opened", None)


@st.dialog("Picture", width="large", on_dismiss=_close)
def _dialog(backend: Backend, collection: str, hits: Sequence[Hit]) -> None:
    search, place = st.session_state.opened
    hit = hits[place]
    left, right = st.columns([8, 5], gap="medium")
    with left:
        image = _picture(backend, collection, hit)
    with right:
        _neighbours(search, place, len(hits))
        # As HTML whose every part is escaped: Markdown would read names and captions as its own.
        st.html(f'<h3 class="name">{html.escape(name_of(hit))}</h3>')
        st.html(fields_table(_facts(hit, image)))
        if image is not None:
            kind = image.media_type.rpartition("/")[2]
            st.download_button(
                "Download", image.data, file_name=_file_name(hit, kind), mime=image.media_type,
                icon=":material/download:",
            )  # fmt: skip


def _neighbours(search: int, place: int, count: int) -> None:
    def go(step: int) -> None:
        open_details(search, place + step)

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        # grid.js presses these on the arrow keys.
        st.button(
            ":material/chevron_left:", key="previous", help="Previous (←)", on_click=go, args=(-1,),
            disabled=place == 0,
        )  # fmt: skip
        st.button(
            ":material/chevron_right:", key="next", help="Next (→)", on_click=go, args=(1,),
            disabled=place + 1 >= count,
        )  # fmt: skip
        st.caption(f"{place + 1:,} of {count:,}")


def _picture(backend: Backend, collection: str, hit: Hit) -> DownloadedImage | None:
    if not hit.image_uri:
        st.text(hit.text)
        return None
    try:
        image = backend.call(backend.client.download_image(hit.id, collection=collection))
    except NotFound:
        st.info("The picture is no longer stored; this is its thumbnail.")
        st.image(hit.thumbnail, width="content")
        return None
    except SentinelError as error:
        problems.show(error, backend.client.address)
        st.image(hit.thumbnail, width="content")
        return None
    st.image(image.data, width="stretch")
    return image


def _facts(hit: Hit, image: DownloadedImage | None) -> dict[str, str]:
    facts = {"score": f"{hit.score:.4f}"}
    if image is not None:
        with Image.open(io.BytesIO(image.data)) as opened:
            size = f"{opened.width:,} × {opened.height:,}"  # noqa: RUF001
            facts["picture"] = f"{size} · {opened.format} · {human_size(len(image.data))}"
    facts |= {name: shown(name, value) for name, value in sorted(hit.fields.items())}
    return facts | {"id": hit.id}


def fields_table(rows: Mapping[str, str]) -> str:
    """Return names and values as HTML, whatever they hold."""
    cells = (f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in rows.items())
    return f'<dl class="fields">{"".join(cells)}</dl>'


def shown(name: str, value: Any) -> str:
    """Return a field's value for people."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name in ("bytes", "size") or name.endswith("_bytes")):
        return human_size(value)
    return str(value)


def human_size(byte_count: int) -> str:
    """Return a number of bytes as people say it."""
    size = float(byte_count)
    for unit in ("bytes", "KB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def name_of(hit: Hit) -> str:
    """Return the name of a hit's file, else what it says, else its id."""
    path = str(hit.fields.get("path", "")).rpartition("/")[2]
    return path or caption_of(hit.fields, hit.text)[:80] or hit.id[:12]


def _file_name(hit: Hit, kind: str) -> str:
    path = str(hit.fields.get("path", "")).rpartition("/")[2]
    return path or f"{hit.id[:32]}.{kind}"


def caption_of(fields: Mapping[str, Any], text: str) -> str:
    """Return the words that say best what an item is."""
    for name in ("caption", "title", "captions", "description"):
        value = fields.get(name)
        if value:
            return str(value[0]) if isinstance(value, list) else str(value)
    return text or str(fields.get("path", "")).rpartition("/")[2]
