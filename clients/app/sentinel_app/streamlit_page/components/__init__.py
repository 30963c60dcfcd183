"""Components that Streamlit lacks, in plain HTML, CSS and JavaScript, without a build step."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

_HERE = Path(__file__).parent


@cache
def component(name: str) -> Any:
    """Return the component made of `NAME.html`, `NAME.css` and `NAME.js` in this folder."""
    html, css, js = ((_HERE / f"{name}.{kind}").read_text() for kind in ("html", "css", "js"))
    return st.components.v2.component(f"sentinel_{name}", html=html, css=css, js=js)


def data_uri(data: bytes, media_type: str = "image/webp") -> str:
    """Return image data as a `src` attribute; empty if there is no data."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}" if data else ""
