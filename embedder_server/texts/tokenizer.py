"""Checks texts before they reach a tokenizer and keeps out what tokenizers choke on.

Text to token ids with a model's own `tokenizer.json`, at a bounded cost for any text.

Only the `tokenizers` package is needed. Where a repository has no `tokenizer.json`, the same
tokenizer is built from `vocab.txt` (BERT) or `vocab.json` and `merges.txt` (CLIP).
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from embedder_server.texts.wordpiece import build_tokenizer
from embedder_server.types import ModelLoadError, TokenizedText
from sentinel_core.errors import InvalidArgument

# Space, line and paragraph separators, control and format characters: nothing to embed.
_BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def clean_text(text: str, max_chars: int) -> str:
    """Return `text` as any tokenizer can take it: no NUL, no lone surrogates.

    Raises:
        InvalidArgument: TEXT_TOO_LONG or TEXT_EMPTY.
    """
    if len(text) > max_chars:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {len(text)} characters; at most {max_chars} are read. "
            "Split it into passages.",
            limit=max_chars,
        )
    # Nearly every text begins with a letter or a digit, and then holds something to embed.
    if not text[:1].isalnum() and all(unicodedata.category(char) in _BLANK for char in text):
        raise InvalidArgument("TEXT_EMPTY", "the text is empty or blank; leave it out")
    if not text.isascii():
        # Protobuf lets no lone surrogate in, but a caller in this process might.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ")


# Reading a text stops here, if it has filled the model by then; the rest is counted at the rate
# of what was read. Never below 64 characters a token, so that the ids are exact.
_COUNTED_CHARS = 16_384
_CHARS_PER_TOKEN = 64
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Clean = Callable[[str], str]


class TextTokenizer:
    """Text to ids, the model's special tokens included. Thread-safe.

    Args:
        tokenizer: The model's own.
        max_tokens: Length of the longest result.
        clean: What the model's text goes through before the tokenizer sees it.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, clean: Clean = str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._clean = clean
        self._prefix, self._suffix = _special_ids(tokenizer)
        self._room = max_tokens - len(self._prefix) - len(self._suffix)

    def cut_at(self, max_tokens: int) -> TextTokenizer:
        """Return the same tokenizer with another limit."""
        return TextTokenizer(self._tokenizer, max_tokens, self._clean)

    def tokenize(self, text: str) -> TokenizedText:
        """Return the ids of `text`, cut to the limit; the closing special token is kept."""
        limit = max(_COUNTED_CHARS, _CHARS_PER_TOKEN * self._room)
        content = self._encode(text[:limit])
        count = len(content)
        if len(text) > limit:
            if count < self._room:  # blanks or the like: only the whole text tells
                content = self._encode(text)
                count = len(content)
            else:
                count = max(count * len(text) // limit, self._room + 1)
        ids = [*self._prefix, *content[: self._room], *self._suffix]
        return TokenizedText(
            ids=np.array(ids, dtype=np.int64),
            token_count=count + len(self._prefix) + len(self._suffix),
        )

    def _encode(self, text: str) -> list[int]:
        # The batch call is the one that lets other threads run meanwhile; `fast` skips offsets.
        [encoding] = self._tokenizer.encode_batch_fast(
            [self._clean(text)], add_special_tokens=False
        )
        return list(encoding.ids)


def canonical(text: str) -> str:
    """Return `text` as SigLIP was trained on it: lower case, no punctuation, single blanks."""
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()


def read_tokenizer(folder: Path, settings: dict[str, Any]) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a model folder, and the name of the file that it was read from.

    Args:
        folder: Holds the tokenizer's files.
        settings: Content of `tokenizer_config.json`.

    Raises:
        ModelLoadError: There is none that we can read.
    """
    try:
        if (file := folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(file)), file.name
        if (file := folder / "vocab.txt").is_file():
            return _bert(file.read_bytes(), bool(settings.get("do_lower_case", True))), file.name
        if (file := folder / "vocab.json").is_file():
            return _clip(file, folder / "merges.txt"), file.name
    # `tokenizers` raises plain Exception for a damaged file.
    except Exception as exc:
        msg = f"{file} is damaged ({exc}); download the model again"
        raise ModelLoadError(msg) from exc
    msg = f"{folder} has no tokenizer.json, vocab.txt or vocab.json; download the model again"
    if (folder / "spiece.model").is_file():
        msg = (
            f"{folder} has its tokenizer as spiece.model only; make a tokenizer.json of it with "
            "transformers and put it beside"
        )
    raise ModelLoadError(msg)


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after every text."""
    encoding = tokenizer.encode("a")
    content = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if not content:
        msg = (
            "the model's tokenizer makes nothing of the letter a; its files do not belong together"
        )
        raise ModelLoadError(msg)
    ids = list(encoding.ids)
    return ids[: content[0]], ids[content[-1] + 1 :]


def _bert(vocabulary: bytes, lowercase: bool) -> Tokenizer:
    tokenizer = build_tokenizer(vocabulary, lowercase=lowercase)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return tokenizer


def _clip(vocabulary: Path, merges: Path) -> Tokenizer:
    lines = merges.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(
        BPE(
            vocab=json.loads(vocabulary.read_text(encoding="utf-8")),
            merges=[(left, right) for left, right in pairs],
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_CLIP_END,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([_CLIP_START, _CLIP_END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (_CLIP_START, _CLIP_END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_CLIP_START} $A {_CLIP_END}", special_tokens=ends
    )
    return tokenizer
