from __future__ import annotations

import pytest

from embedder_server.engine.lanes import clean_text
from sentinel_core.errors import InvalidArgument


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t", "\0", "\u200b", "\ufeff \u2060", "\u3000", "\x1b\x07"],
    ids=["empty", "space", "newline", "nul", "zero width", "bom", "ideographic space", "control"],
)
def test_blank_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        clean_text(text, 100)
    assert caught.value.reason == "TEXT_EMPTY"


def test_long_text_is_refused_with_the_limit() -> None:
    assert clean_text("x" * 100, 100) == "x" * 100
    with pytest.raises(InvalidArgument) as caught:
        clean_text("x" * 101, 100)
    assert (caught.value.reason, caught.value.metadata) == ("TEXT_TOO_LONG", {"limit": "100"})


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        pytest.param("a dog", "a dog", id="ascii"),
        pytest.param("犬 🐕\u200d🦺", "犬 🐕\u200d🦺", id="joined emoji stay joined"),
        pytest.param("a\0b", "a b", id="nul"),
        pytest.param("a\ud800b", "a?b", id="lone surrogate"),
        pytest.param(".", ".", id="one sign"),
    ],
)
def test_text_is_made_safe_for_any_tokenizer(text: str, cleaned: str) -> None:
    assert clean_text(text, 100) == cleaned
