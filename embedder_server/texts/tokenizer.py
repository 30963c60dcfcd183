"""Turn texts into token ids with a model's own tokenizer, at a bounded cost for any text.

Needs only the `tokenizers` package. Where a repository has no `tokenizer.json`, the same tokenizer
is built from `vocab.txt` (BERT) or from `vocab.json` and `merges.txt` (CLIP).
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from embedder_server.types import ModelLoadError

# The tokens of longer texts are counted at the rate of their beginning.
_COUNTED_CHARS = 16_384
# Of these, tokenize the beginning first. If that fills the model, the rest changes no id.
_FIRST_CHARS = 4_096
_CHARS_PER_TOKEN = 64
# The last word of that beginning may be cut. BERT reads at most this many characters of a word.
_CUT_WORD_TOKENS = 100
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Clean = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the model's token ids, special tokens included, cut to the model's limit."""

    ids: npt.NDArray[np.int64]  # `[tokens]`, at most `ModelInfo.max_text_tokens` long
    token_count: int  # of the whole text, before it was cut

    @property
    def truncated(self) -> bool:
        return self.token_count > len(self.ids)


class TextTokenizer:
    """Turns text into ids, the model's special tokens included. Thread-safe.

    Args:
        tokenizer: The model's own.
        max_tokens: Length of the longest result.
        clean: Applied to every text before the tokenizer reads it.
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
        """Return the ids of `text`, cut to the limit; the closing special token is kept.

        The ids and `truncated` are exact. `token_count` is exact up to 16,384 characters; a longer
        text is counted at the rate of its beginning, because the exact number would take up to
        0.4 s for 100,000 characters.
        """
        content, read = self._encode_enough(text)
        count = len(content)
        if read < len(text):
            count = max(count * len(text) // read, self._room + 1)
        ids = [*self._prefix, *content[: self._room], *self._suffix]
        return TokenizedText(
            ids=np.array(ids, dtype=np.int64),
            token_count=count + len(self._prefix) + len(self._suffix),
        )

    def _encode_enough(self, text: str) -> tuple[list[int], int]:
        """Return the tokens of a beginning that fills the model, or of all, and its characters."""
        full = self._room + _CUT_WORD_TOKENS
        exact = max(_COUNTED_CHARS, _CHARS_PER_TOKEN * self._room)
        if len(text) > exact:
            for length in (max(_FIRST_CHARS, 4 * self._room), exact):
                content = self._encode(text[:length])
                if len(content) >= full:
                    return content, length
        # Short, or mostly blanks or long words.
        return self._encode(text), len(text)

    def _encode(self, text: str) -> list[int]:
        # Only the batch call lets other threads run meanwhile; `fast` skips offsets.
        [encoding] = self._tokenizer.encode_batch_fast(
            [self._clean(text)], add_special_tokens=False
        )
        return list(encoding.ids)


def canonical(text: str) -> str:
    """Return `text` as in SigLIP's training: lower case, no punctuation, single blanks."""
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()


def read_tokenizer(folder: Path, settings: dict[str, Any]) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a model folder, and the name of the file that holds it.

    Args:
        folder: Holds the tokenizer's files.
        settings: Content of `tokenizer_config.json`.

    Raises:
        ModelLoadError: The folder has no tokenizer that we can read.
    """
    try:
        if (file := folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(file)), file.name
        if (file := folder / "vocab.txt").is_file():
            lowercase = bool(settings.get("do_lower_case", True))
            return bert_tokenizer(file.read_bytes(), lowercase=lowercase), file.name
        if (file := folder / "vocab.json").is_file():
            return _clip_tokenizer(file, folder / "merges.txt"), file.name
    # `tokenizers` raises plain Exception for a damaged file.
    except Exception as exc:
        raise ModelLoadError(f"{file} is damaged ({exc}); download the model again") from exc
    if (folder / "spiece.model").is_file():
        raise ModelLoadError(
            f"{folder} has its tokenizer as spiece.model only; convert it to tokenizer.json with "
            "transformers and add that file to the folder"
        )
    raise ModelLoadError(
        f"{folder} has no tokenizer.json, vocab.txt or vocab.json; download the model again"
    )


def bert_tokenizer(vocabulary: bytes, *, lowercase: bool = True) -> Tokenizer:
    """Return BERT's WordPiece tokenizer.

    Args:
        vocabulary: Content of a `vocab.txt`: one token a line, line number = id.
        lowercase: Whether the model is uncased.
    """
    tokens = vocabulary.decode("utf-8").splitlines()
    tokenizer = Tokenizer(
        WordPiece(
            {token: index for index, token in enumerate(tokens)},
            unk_token="[UNK]",
            continuing_subword_prefix="##",
            max_input_chars_per_word=100,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(_BERT_SPECIAL))
    return _with_ends(tokenizer, "[CLS]", "[SEP]")


def _clip_tokenizer(vocabulary: Path, merges: Path) -> Tokenizer:
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
    return _with_ends(tokenizer, _CLIP_START, _CLIP_END)


def _with_ends(tokenizer: Tokenizer, start: str, end: str) -> Tokenizer:
    """Put a special token before and after every text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )
    return tokenizer


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after every text."""
    encoding = tokenizer.encode("a")
    content = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if not content:
        raise ModelLoadError(
            "the model's tokenizer returns no token for the letter a; its files do not match"
        )
    ids = list(encoding.ids)
    return ids[: content[0]], ids[content[-1] + 1 :]
