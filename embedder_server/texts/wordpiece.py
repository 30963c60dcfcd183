"""Uncased BERT WordPiece, built from a vocabulary file, whose cost is bounded for any text.

Gives the same ids as all-MiniLM-L6-v2's own `tokenizer.json`; the test compares the two settings.
"""

from __future__ import annotations

import re

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from embedder_server.types import TokenizedText

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECE_CHARS = 4_096
# BERT always starts a new word at these (blanks, common punctuation, Chinese characters), so pieces
# cut before one give the same tokens as the whole text.
_WORD_START = re.compile(r"[ \n.,;:!?\u4e00-\u9fff]")
# Worst case about 30 ms per 16 Ki characters; ten times what a 256-token model can read of prose.
_COUNTED_CHARS = 16_384


class BertTokenizer:
    """Text to BERT token ids, special tokens included. Thread-safe.

    Args:
        vocabulary: Content of a `vocab.txt`, one token a line, line number = id.
        max_tokens: Length of the longest result.
    """

    def __init__(self, vocabulary: bytes, max_tokens: int) -> None:
        self._tokenizer = build_tokenizer(vocabulary)
        self._content_tokens = max_tokens - 2
        self._start = self._tokenizer.token_to_id("[CLS]")
        self._end = self._tokenizer.token_to_id("[SEP]")

    def tokenize(self, text: str) -> TokenizedText:
        """Return the ids of `text`, cut to the limit.

        The ids and `truncated` are exact for every text. `token_count` is exact up to 16,384
        characters (rounded up to a word); the rest of a longer text is counted at the rate of
        its beginning, since the exact number would cost up to 0.4 s for 100,000 characters.
        """
        ids: list[int] = []
        token_count = 0
        position = 0
        while position < len(text):
            # Reading on while there is room makes the ids exact even if a text opens with
            # thousands of characters that yield no token.
            if position >= _COUNTED_CHARS and len(ids) >= self._content_tokens:
                token_count += (len(text) - position) * token_count // position
                token_count = max(token_count, self._content_tokens + 1)
                break
            end = _piece_end(text, position)
            piece = self._encode(text[position:end])
            token_count += len(piece)
            ids.extend(piece[: self._content_tokens - len(ids)])
            position = end
        return TokenizedText(
            ids=np.array([self._start, *ids, self._end], dtype=np.int64),
            token_count=token_count + 2,
        )

    def _encode(self, piece: str) -> list[int]:
        # The batch call is the one that lets other threads run meanwhile; `fast` skips offsets.
        [encoding] = self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)
        return list(encoding.ids)


def build_tokenizer(vocabulary: bytes, *, lowercase: bool = True) -> Tokenizer:
    """Return the bare tokenizer: no truncation, no padding, no special tokens added."""
    tokens = vocabulary.decode("utf-8").splitlines()
    tokenizer = Tokenizer(
        WordPiece(
            {token: index for index, token in enumerate(tokens)},
            unk_token="[UNK]",
            continuing_subword_prefix="##",
            max_input_chars_per_word=100,
        )
    )
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    return tokenizer


def _piece_end(text: str, start: int) -> int:
    match = _WORD_START.search(text, start + _PIECE_CHARS)
    return match.start() if match else len(text)
