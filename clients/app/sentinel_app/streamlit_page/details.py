"""Show a hit at full size with its fields; arrows lead to the previous and the next hit."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sentinel_app.formatting import download_name, field_value, html_table, human_size, title
from sentinel_app.previews import ImageRefused, Preview, preview
from sentinel_app.streamlit_page.backend import Backend
from sentinel_app.streamlit_page.components import data_uri
from sentinel_app.streamlit_page.errors import show_error
from sentinel_client import Hit, NotFound, SentinelError

_SIDE = 1440
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}


@dataclass(frozen=True)
class _Stored:
    """A stored image, and its preview if it can be decoded."""

    data: bytes
    view: Preview | None


def open_details(search: int, place: int) -> None:
    """Open the hit at a position of a search; `show_details` draws it in the next run."""
    st.session_state.opened = (search, place)


def show_details(backend: Backend, collection: str, search: int, hits: Sequence[Hit]) -> None:
    """Draw the opened hit in a dialog, if it belongs to this search."""
    if st.session_state.get("opened", (None, 0))[0] == search:
        _dialog(backend, collection, hits)


def _close() -> None:
    st.session_state.pop("opened", None)


@st.dialog("Image", width="large", on_dismiss=_close)
def _dialog(backend: Backend, collection: str, hits: Sequence[Hit]) -> None:
    # Not an argument: a click in the dialog runs it again with the same arguments.
    search, place = st.session_state.opened
    hit = hits[place]
    left, right = st.columns([8, 5], gap="medium")
    with left:
        image = _full_size(backend, collection, hit)
    with right:
        _arrows(search, place, len(hits))
        # Escaped HTML: in Markdown, names and captions would be interpreted.
        st.html(f'<h3 class="name">{html.escape(title(hit))}</h3>')
        st.html(html_table(_facts(hit, image)))
        if image is not None:
            _download_button(hit, image)


def _download_button(hit: Hit, image: _Stored) -> None:
    # Of the bytes themselves, whatever the item says: a page's `.html` would run as a page.
    kind = image.view.format if image.view is not None else ""
    st.download_button(
        "Download",
        image.data,
        file_name=download_name(hit, kind),
        mime=_MEDIA_TYPES.get(kind, "application/octet-stream"),
        icon=":material/download:",
    )


def _arrows(search: int, place: int, count: int) -> None:
    def button(icon: str, key: str, label: str, target: int) -> None:
        st.button(
            f":material/{icon}:",
            key=key,
            help=label,
            on_click=open_details,
            args=(search, target),
            disabled=not 0 <= target < count,
        )

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        # grid.js clicks these when an arrow key is pressed.
        button("chevron_left", "previous", "Previous (←)", place - 1)
        button("chevron_right", "next", "Next (→)", place + 1)
        st.caption(f"{place + 1:,} of {count:,}")


def _full_size(backend: Backend, collection: str, hit: Hit) -> _Stored | None:
    """Draw the stored image, its thumbnail if that fails, or the hit's text."""
    if not hit.image_uri:
        st.text(hit.text)
        return None
    try:
        data = backend.call(backend.client.download_image(hit.id, collection=collection)).data
    except SentinelError as error:
        if isinstance(error, NotFound):
            st.info("The image is no longer stored. This is its thumbnail.")
        else:
            show_error(error, backend.client.address)
        _draw(hit, hit.thumbnail, "image/webp")
        return None
    # Not with `st.image`, which decodes what is in the bytes in this process, without limits.
    try:
        view = preview(data, _SIDE)
    except ImageRefused as error:
        st.info(f"{error} This is its thumbnail.")
        _draw(hit, hit.thumbnail, "image/webp")
        return _Stored(data, None)
    _draw(hit, view.shown, view.shown_type)
    return _Stored(data, view)


def _draw(hit: Hit, picture: bytes, media_type: str) -> None:
    kind = "thumbnail" if picture is hit.thumbnail else "full"
    alt = html.escape(title(hit), quote=True)
    st.html(f'<img class="{kind}" alt="{alt}" src="{data_uri(picture, media_type)}">')


def _facts(hit: Hit, image: _Stored | None) -> dict[str, str]:
    facts = {"score": f"{hit.score:.4f}"}
    if image is not None and image.view is not None:
        size = f"{image.view.width:,} × {image.view.height:,}"  # noqa: RUF001
        facts["image"] = f"{size} · {image.view.format} · {human_size(len(image.data))}"
    facts |= {name: field_value(name, value) for name, value in sorted(hit.fields.items())}
    return facts | {"id": hit.id}
