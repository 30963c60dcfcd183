"""What others wrote is shown as it is: never as Markdown, never as HTML."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from sentinel_app.formatting import (
    FORMATS,
    caption,
    download_name,
    escape_markdown,
    field_value,
    html_table,
    human_size,
    index_command,
    model_note,
    plain,
    safe_file_name,
    title,
)
from sentinel_client import Hit
from sentinel_core import image_formats
from sentinel_core.image_formats import ImageFormat

ODD = "IMG_*a*"


def test_every_format_that_workers_read_has_an_extension() -> None:
    kinds = {found for found in vars(image_formats).values() if isinstance(found, ImageFormat)}
    kinds |= {found for _, found in (*image_formats._MAGIC, *image_formats._RAW_OF_MAKER)}
    assert len(kinds) > 15
    assert {kind.media_type for kind in kinds} == set(FORMATS)
    assert safe_file_name("a/DSCF1.RAF", FORMATS["image/x-fuji-raf"]) == "DSCF1.RAF"


def test_the_command_that_fills_a_library_names_its_gateway_if_it_must() -> None:
    assert index_command("127.0.0.1:50050") == "sentinel index"
    assert index_command("photos.example:443") == "sentinel --address photos.example:443 index"
    assert index_command("a; b") == "sentinel --address 'a; b' index"


def test_markdown_in_names_is_escaped() -> None:
    assert escape_markdown(ODD) == r"IMG\_\*a\*"
    assert "](" not in escape_markdown("![](http://x)")
    assert "://" not in escape_markdown("http://x")  # no link of its own
    assert ":material/" not in escape_markdown(":material/home:")
    assert escape_markdown("two\n\nparagraphs") == "two paragraphs"


@pytest.mark.parametrize(
    "text",
    [
        "www.example.com",
        "WWW.x.y",
        "a@example.com",
        "a -> b",
        "a <- b <-> c",
        "x -- y",
        "1 >= 0",
        "a ~= b",
    ],
)
def test_no_link_and_no_arrow_comes_from_text(text: str) -> None:
    shown = escape_markdown(text).replace("\\", "")
    assert shown != text
    assert shown.replace("\u2060", "") == text  # nothing is lost
    for whole in ("www.", "@example", "->", "<-", "--", ">=", "~="):
        assert whole not in shown.lower()


def test_names_cannot_disguise_their_end() -> None:
    assert plain("photo\u202egpj.exe") == "photo\ufffdgpj.exe"
    assert "\u2067" not in escape_markdown("a\u2067b")
    hit = Hit(id="id", rank=1, score=0.5, fields={"path": "x/photo\u202egpj.exe"})
    assert "\u202e" not in title(hit)
    assert (
        plain("k\u0301\u200d\U0001f468 \u05d0") == "k\u0301\u200d\U0001f468 \u05d0"
    )  # honest ones


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("poly.html", "GIF", "poly.gif"),
        ("a/b/cat.JPEG", "JPEG", "cat.JPEG"),
        ("C:\\me\\cat.jpg", "PNG", "cat.png"),
        ("noext", "WEBP", "noext.webp"),
        ("cat.svg", "", "cat.bin"),
        ("", "TIFF", "0123.tif"),
        (".htaccess", "PNG", "htaccess.png"),
        ('a"b<c>|d?.png', "PNG", "a_b_c__d_.png"),
        ("x" * 300 + ".png", "PNG", "x" * 100 + ".png"),
        ("photo\u202egnp.exe", "PNG", "photo\ufffdgnp.png"),
    ],
)
def test_the_bytes_decide_the_extension_of_a_download(path: str, kind: str, name: str) -> None:
    assert download_name(Hit(id="0123", rank=1, score=0.5, fields={"path": path}), kind) == name


def _error() -> None:
    from sentinel_app.streamlit_page.errors import show_error
    from sentinel_client import InvalidArgument

    show_error(InvalidArgument("X", "IMG_*a* ![](http://x)"), "there:1")


def test_error_messages_are_shown_as_they_are() -> None:
    page = AppTest.from_function(_error).run()
    assert page.warning[0].value.startswith(r"IMG\_\*a\* \!\[\]\(")


def test_fields_are_escaped_as_html() -> None:
    table = html_table({"caption": ODD, "<b>": "<img src=x onerror=alert(1)>"})
    assert f'<dd dir="auto">{ODD}</dd>' in table
    assert "<img" not in table
    assert "<b>" not in table


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("bytes", 240_512, "241 KB"),
        ("file_bytes", 5_400_000, "5.4 MB"),
        ("year", 1999, "1999"),
        ("colour", True, "yes"),
        ("tags", ["a", "b"], "a, b"),
    ],
)
def test_values_are_shown_for_people(name: str, value: object, says: str) -> None:
    assert field_value(name, value) == says


def test_sizes_have_units() -> None:
    assert [human_size(n) for n in (0, 999, 20_000, 3 * 10**9)] == [
        "0 bytes",
        "999 bytes",
        "20 KB",
        "3.0 GB",
    ]


def test_the_best_words_stand_for_an_item() -> None:
    assert caption(Hit(id="id", rank=1, score=0.5, fields={"captions": ["one", "two"]})) == "one"
    assert caption(Hit(id="id", rank=1, score=0.5, fields={"path": "a/b.jpg"})) == "b.jpg"


def test_the_model_is_named_and_only_the_demo_model_gets_advice() -> None:
    assert model_note("google/siglip2_base") == r"Model: google/siglip2\_base"
    assert "`sentinel models use siglip2-b16`" in model_note("conse-minilm-lite0")
