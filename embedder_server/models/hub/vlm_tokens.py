"""Write the token ids of texts and images for models that read both as one sequence.

A frame is what the model expects around a content: a chat template, or a prompt. It is rendered
once at load, so that no text can change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedder_server.models.hub.vlm_images import TokenBudget
from embedder_server.texts.tokenizer import TokenizedText
from sentinel_core.vectors import Role

# Marks a text's place in a frame. No frame has this character, which has no meaning in Unicode.
TEXT = "\uf8ff"


@dataclass(frozen=True, slots=True)
class Frames:
    """What is around a content of one role. In `image` and `both`, one placeholder is the image."""

    text: str  # with `TEXT` in it
    image: str
    both: str  # with `TEXT` in it


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """The network's input for one content.

    Attributes:
        ids: int64 `[tokens]`; the image's place has one placeholder for each of its tokens.
        pixels: What `TokenBudget.pixels` returned; None for a text.
    """

    ids: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8] | None = None


class SequenceReader:
    """Makes sequences of texts and images. Thread-safe.

    Args:
        tokenizer: The model's own; what it adds around every text is added here, too.
        frames: Of each role.
        image_id: The placeholder of one image token.
        reserved: Texts of tokens that stand for a medium. In a caller's text, they become blanks:
            they would have no medium.
        budget: How many tokens an image has.
        max_tokens: Length of the longest sequence.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        frames: Mapping[Role, Frames],
        *,
        image_id: int,
        reserved: tuple[str, ...],
        budget: TokenBudget,
        max_tokens: int,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._frames = dict(frames)
        self._image_id = image_id
        self._reserved = reserved
        self._budget = budget
        self._max_tokens = max_tokens
        specials = list(tokenizer.encode("a").special_tokens_mask)
        self._closing = specials[::-1].index(0)  # tokens that the tokenizer puts at the end

    def cut_at(self, max_tokens: int) -> SequenceReader:
        """Return the same reader with another limit."""
        return SequenceReader(
            self._tokenizer,
            self._frames,
            image_id=self._image_id,
            reserved=self._reserved,
            budget=self._budget,
            max_tokens=max_tokens,
        )

    def tokenize(self, text: str, role: Role = Role.DOCUMENT) -> TokenizedText:
        """Return the ids of a text in its frame; a long text is cut, its frame is not."""
        return self._read(self._frames[role].text, text, 0)

    def image_input(
        self, pixels: npt.NDArray[Any], text: str, role: Role
    ) -> tuple[TokenSequence, TokenizedText]:
        """Return the network's input for an image, alone or with a text, and its ids."""
        frames = self._frames[role]
        count = self._budget.tokens(*pixels.shape[:2])
        tokens = self._read(frames.both if text else frames.image, text, count)
        return TokenSequence(tokens.ids, pixels), tokens

    def longest_image(self) -> int:
        """Return the length of the longest sequence of an image without a text."""
        frames = (frames.both.replace(TEXT, "") for frames in self._frames.values())
        return max(len(self._encode(frame)) for frame in frames) - 1 + self._budget.most

    def _read(self, frame: str, text: str, image_tokens: int) -> TokenizedText:
        before, _, after = frame.partition(TEXT)
        for word in self._reserved:
            text = text.replace(word, " ")
        ids = self._encode(before + text + after)
        if image_tokens:
            place = int(np.flatnonzero(ids == self._image_id)[0])
            ids = np.insert(ids, place, np.full(image_tokens - 1, self._image_id))
        count, most = len(ids), self._max_tokens
        if count > most:
            end = self._length_of_end(after, image_tokens)
            ids = np.concatenate([ids[: most - end], ids[count - end :]])
        return TokenizedText(ids, count)

    def _encode(self, text: str) -> npt.NDArray[np.int64]:
        # Only the batch call lets other threads run meanwhile; `fast` skips offsets.
        [encoding] = self._tokenizer.encode_batch_fast([text])
        return np.array(encoding.ids, dtype=np.int64)

    def _length_of_end(self, after: str, image_tokens: int) -> int:
        """Return how many ids come after the text."""
        ids = self._tokenizer.encode(after, add_special_tokens=False).ids
        return len(ids) + self._closing + (image_tokens - 1 if self._image_id in ids else 0)
