"""Format hits, sizes and other people's text, safely for Markdown and HTML."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sentinel_client import DEFAULT_ADDRESS, Hit, Item

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&])")
# After it has removed the backslashes, Streamlit expands :red[…], :material/…:, links, addresses
# and arrows. This invisible character in the middle prevents that.
_WORD_JOINER = "\u2060"
_EXPANDED = re.compile(r"(?<=[:@])(?=\S)|(?<=www)(?=\.)|(?<=[-<>=~])(?=[-<>=])", re.IGNORECASE)
# Control characters, and marks that reverse the text after them: "photo\u202egpj.exe" would look
# like photoexe.jpg.
_DISGUISES = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
DEMO_MODEL = "conse-minilm-lite0"
_GET_BETTER = "sentinel models use siglip2-b16"
_NOT_IN_FILE_NAMES = re.compile(r'[<>:"/\\|?*]')
_MAX_FILE_NAME = 100
# By media type. The first one is given to files that have none of them.
FORMATS: Mapping[str, Sequence[str]] = {
    "image/jpeg": ("jpg", "jpeg", "jfif", "jpe"),
    "image/png": ("png",),
    "image/webp": ("webp",),
    "image/gif": ("gif",),
    "image/bmp": ("bmp",),
    "image/tiff": ("tif", "tiff", "dng", "nef", "cr2", "arw"),
    "image/heic": ("heic", "heif"),
    "image/heif": ("heif", "heic"),
    "image/avif": ("avif",),
    "image/jxl": ("jxl",),
    "image/x-adobe-dng": ("dng",),
    "image/x-canon-cr2": ("cr2",),
    "image/x-canon-cr3": ("cr3",),
    "image/x-nikon-nef": ("nef", "nrw"),
    "image/x-sony-arw": ("arw", "sr2", "srf"),
    "image/x-pentax-pef": ("pef",),
    "image/x-samsung-srw": ("srw",),
    "image/x-fuji-raf": ("raf",),
    "image/x-panasonic-rw2": ("rw2",),
    "image/x-olympus-orf": ("orf",),
    "image/x-raw": ("raw", "3fr", "dcr", "erf", "iiq", "kdc", "mef", "mos", "rwl"),
}
_EXTENSIONS = {
    name: FORMATS[f"image/{name.lower()}"] for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
}


def index_command(address: str) -> str:
    """Return how `sentinel index` is called for the gateway at this address."""
    if address == DEFAULT_ADDRESS:
        return "sentinel index"
    return f"sentinel --address {shlex.quote(address)} index"


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally, in one line."""
    whole = _EXPANDED.sub(_WORD_JOINER, plain(" ".join(text.split())))
    return _MARKDOWN.sub(r"\\\1", whole)


def plain(name: str) -> str:
    """Return a name in which a visible mark replaces each control character and direction mark."""
    return _DISGUISES.sub("\ufffd", name)


def html_table(rows: Mapping[str, str]) -> str:
    """Return names and values as an HTML list, escaped."""
    cells = (
        f'<dt>{html.escape(n)}</dt><dd dir="auto">{html.escape(v)}</dd>' for n, v in rows.items()
    )
    return f'<dl class="fields">{"".join(cells)}</dl>'


def field_value(name: str, value: Any) -> str:
    """Return a field's value as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name in ("bytes", "size") or name.endswith("_bytes")):
        return human_size(value)
    return str(value)


def human_size(byte_count: int) -> str:
    """Return a number of bytes with a unit, in powers of 1,000."""
    size = float(byte_count)
    for unit in ("bytes", "KB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def file_name(hit: Hit | Item) -> str:
    """Return the name of a hit's file; empty if it is unknown."""
    return plain(str(hit.fields.get("path", "")).replace("\\", "/").rpartition("/")[2])


def download_name(hit: Hit, kind: str) -> str:
    """Return a safe file name for a hit's image, with the extension of its format `kind`.

    It is `bin` for an unknown format.
    """
    return safe_file_name(file_name(hit) or hit.id[:32], _EXTENSIONS.get(kind, ("bin",)))


def safe_file_name(path: str, extensions: Sequence[str]) -> str:
    """Return a safe file name like that of `path`, with one of these extensions.

    Programs open a file by its extension, so that one is ours and not the item's.
    """
    last = plain(path.replace("\\", "/").rpartition("/")[2])
    name = _NOT_IN_FILE_NAMES.sub("_", last).strip(". ") or "image"
    stem, _, extension = name.rpartition(".")
    if extension.lower() in extensions and stem:
        return f"{stem[:_MAX_FILE_NAME]}.{extension}"
    return f"{(stem or name)[:_MAX_FILE_NAME]}.{extensions[0]}"


def caption(hit: Hit | Item) -> str:
    """Return the text that describes an item best: a caption, its text or its file's name."""
    for name in ("caption", "title", "captions", "description"):
        value = hit.fields.get(name)
        if value:
            return str(value[0]) if isinstance(value, list) else str(value)
    return hit.text or file_name(hit)


def title(hit: Hit) -> str:
    """Return the name of a hit's file, or else its caption or its id."""
    return file_name(hit) or plain(caption(hit)[:80]) or hit.id[:12]


def model_note(model: str) -> str:
    """Return a line about a collection's model; for the demo model, how to get a better one."""
    note = f"Model: {escape_markdown(model)}"
    if model != DEMO_MODEL:
        return note
    return f"{note}, for demos only. For far better results run `{_GET_BETTER}`"
