"""The tokenizer gives the reference's ids, and a huge text costs no more than a long one."""

from __future__ import annotations

import pytest

from embedder_server.models.builtin import conse
from embedder_server.texts.tokenizer import TextTokenizer, bert_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(bert_tokenizer(conse.VOCABULARY.read()), conse.MAX_TOKENS)


# Ids made by all-MiniLM-L6-v2's own tokenizer.json; 123,000 more strings were compared by hand.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [101, 102]),
        ("naïve café Ünïcode ÅNGSTRÖM", [101, 15743, 7668, 27260, 17076, 15687, 102]),
        (
            "日本語テキスト mixed 中文",
            [101, 1864, 1876, 1950, 1713, 30227, 30233, 30240, 3816, 1746, 1861, 102],
        ),
        ("don't stop-believing!", [101, 2123, 1005, 1056, 2644, 1011, 8929, 999, 102]),
        ("a\u0000b\ufffdc\u200bd\u00add", [101, 5925, 14141, 102]),
        ("İstanbul ß ẞ Ǆ", [101, 9960, 1096, 1096, 100, 102]),
        ("e\u0301 . \u0301x", [101, 1041, 1012, 1060, 102]),
    ],
    ids=["empty", "accents", "cjk", "punctuation", "control", "unknown", "combining"],
)
def test_tokens_are_those_of_the_reference_tokenizer(
    tokenizer: TextTokenizer, text: str, ids: list[int]
) -> None:
    tokens = tokenizer.tokenize(text)
    assert tokens.ids.tolist() == ids
    assert tokens.token_count == len(ids)
    assert not tokens.truncated


def test_a_long_text_is_cut_and_says_so(tokenizer: TextTokenizer) -> None:
    exact = tokenizer.tokenize("cat " * 254)
    assert (len(exact.ids), exact.token_count, exact.truncated) == (256, 256, False)
    longer = tokenizer.tokenize("cat " * 255)
    assert (len(longer.ids), longer.token_count, longer.truncated) == (256, 257, True)
    assert longer.ids[-1] == exact.ids[-1] == 102


def test_reading_in_pieces_gives_the_tokens_of_the_whole() -> None:
    tokenizer = TextTokenizer(bert_tokenizer(conse.VOCABULARY.read()), max_tokens=20_000)
    paragraph = "It's a café, isn't it? 漢字! unbelievably-long (words) [SEP]\n"
    once = tokenizer.tokenize(paragraph)
    many = tokenizer.tokenize(paragraph * 200)
    assert many.ids[1:-1].tolist() == once.ids[1:-1].tolist() * 200
    assert many.token_count == (once.token_count - 2) * 200 + 2


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("the quick brown fox " * 5_000, 20_002), ("漢" * 100_000, 100_002), ("!" * 100_000, 100_002)],
    ids=["prose", "cjk", "punctuation"],
)
def test_a_huge_text_is_counted_within_a_percent(
    tokenizer: TextTokenizer, text: str, tokens: int
) -> None:
    result = tokenizer.tokenize(text)
    assert result.truncated
    assert abs(result.token_count - tokens) <= tokens / 100


def test_only_the_beginning_of_a_huge_text_is_read(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    encode = tokenizer._encode

    def recording_encode(piece: str) -> list[int]:
        read.append(len(piece))
        return encode(piece)

    monkeypatch.setattr(tokenizer, "_encode", recording_encode)
    tokenizer.tokenize("word, " * 400_000)
    assert sum(read) == 4_096


@pytest.mark.parametrize("lead", ["", "x" * 4_090, "\n" * 4_000, "unbelievable-" * 200])
@pytest.mark.parametrize("rest", ["the quick brown fox. ", "漢字", "é" * 150 + " ", "a" * 99 + " "])
def test_the_beginning_of_a_huge_text_has_the_tokens_of_the_whole(
    tokenizer: TextTokenizer, lead: str, rest: str
) -> None:
    huge = (lead + rest * (100_000 // len(rest)))[:99_000]
    whole = tokenizer._encode(huge)
    result = tokenizer.tokenize(huge)
    assert result.ids[1:-1].tolist() == whole[:254]
    assert result.truncated == (len(whole) > 254)


def test_text_behind_a_megabyte_of_blanks_is_found(tokenizer: TextTokenizer) -> None:
    assert tokenizer.tokenize(" " * 1_000_000 + "cat").ids.tolist() == [101, 4937, 102]
