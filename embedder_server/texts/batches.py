"""Token lists of different lengths to the rectangles a network takes."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedder_server.types import TokenizedText

IntArray = npt.NDArray[np.int64]

# A group may hold texts up to this much longer than its shortest: beyond it, computing on padding
# costs more than one more call of the network.
_PADDING_RATIO = 1.5
_PADDING_TOKENS = 8


class Padding(enum.StrEnum):
    """How texts of different lengths may share a batch."""

    LONGEST = "longest"  # padded to the longest of the batch; padding changes nothing
    MAX_LENGTH = "max-length"  # always padded to the limit, as the model was trained
    NONE = "none"  # only texts of equal length: the network sees padding as words


@dataclass(frozen=True, slots=True)
class TextBatches:
    """The rules of one model.

    Attributes:
        padding: What may share a batch.
        pad_id: Token that fills rows up.
        max_tokens: Length of every row with `Padding.MAX_LENGTH`, and of the longest one otherwise.
        pad_left: Whether rows are filled up at their beginning.
        multiple: With `Padding.LONGEST`, rows are filled up to a multiple of this many tokens, for
            a runtime that prepares every shape it meets.
    """

    padding: Padding
    pad_id: int
    max_tokens: int
    pad_left: bool = False
    multiple: int = 1

    def split(
        self, texts: Sequence[TokenizedText]
    ) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Yield `(rows, ids, mask)` until every text had its turn.

        `rows` says which texts they are; `ids` and `mask` are int64 `[len(rows), tokens]`, mask 1
        for a token and 0 for padding.
        """
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        for rows in self._groups(lengths):
            width = int(lengths[rows].max())
            if self.padding is Padding.MAX_LENGTH:
                width = max(width, self.max_tokens)
            elif self.padding is Padding.LONGEST:
                rounded = -(-width // self.multiple) * self.multiple
                width = max(width, min(rounded, self.max_tokens))
            yield rows, *self._rectangle([texts[row].ids for row in rows], lengths[rows], width)

    def _groups(self, lengths: IntArray) -> Iterator[IntArray]:
        if self.padding is Padding.MAX_LENGTH:
            return iter([np.arange(len(lengths))])
        if self.padding is Padding.NONE:
            return (np.flatnonzero(lengths == length) for length in np.unique(lengths))
        return groups_of_like_length(lengths)

    def _rectangle(
        self, ids: Sequence[IntArray], lengths: IntArray, width: int
    ) -> tuple[IntArray, IntArray]:
        columns = np.arange(width)[None, :]
        if self.pad_left:
            filled = columns >= width - lengths[:, None]
        else:
            filled = columns < lengths[:, None]
        padded = np.full(filled.shape, self.pad_id, dtype=np.int64)
        padded[filled] = np.concatenate(ids)
        return padded, filled.astype(np.int64)


def groups_of_like_length(lengths: IntArray) -> Iterator[IntArray]:
    """Yield row numbers, shortest texts first, in groups that waste little on padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]] * _PADDING_RATIO + _PADDING_TOKENS
        end = int(np.searchsorted(lengths[order], longest, side="right"))
        yield order[start:end]
        start = end
