"""Group token lists of different lengths into the padded arrays that a network takes."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedder_server.texts.tokenizer import TokenizedText

IntArray = npt.NDArray[np.int64]

# The longest text of a group may exceed the shortest by this much. Beyond it, padding costs more
# than another call of the network.
_PADDING_RATIO = 1.5
_PADDING_TOKENS = 8


class Padding(enum.StrEnum):
    """How texts of different lengths may share a batch."""

    LONGEST = "longest"  # padded to the longest of the batch; padding changes no vector
    MAX_LENGTH = "max-length"  # always padded to the limit, as in training
    NONE = "none"  # only texts of equal length: the network reads padding as words


@dataclass(frozen=True, slots=True)
class TextBatches:
    """How one model batches texts."""

    padding: Padding
    pad_id: int
    max_tokens: int  # length of every row with `Padding.MAX_LENGTH`; otherwise of the longest row
    pad_left: bool = False
    # With `Padding.LONGEST`, pad rows to a multiple of this many tokens, for a runtime that
    # prepares every shape separately.
    multiple: int = 1

    def split(
        self, texts: Sequence[TokenizedText]
    ) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Yield `(rows, ids, mask)` until every text is in one batch.

        `rows` are the indices of the texts. `ids` and `mask` are int64 `[len(rows), tokens]`; the
        mask is 1 for a token and 0 for padding.
        """
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        for rows in self._groups(lengths):
            width = int(lengths[rows].max())
            if self.padding is Padding.MAX_LENGTH:
                width = max(width, self.max_tokens)
            elif self.padding is Padding.LONGEST:
                rounded = -(-width // self.multiple) * self.multiple
                width = max(width, min(rounded, self.max_tokens))
            yield rows, *self._padded([texts[row].ids for row in rows], lengths[rows], width)

    def _groups(self, lengths: IntArray) -> Iterator[IntArray]:
        if self.padding is Padding.MAX_LENGTH:
            return iter([np.arange(len(lengths))])
        if self.padding is Padding.NONE:
            return (np.flatnonzero(lengths == length) for length in np.unique(lengths))
        return _similar_lengths(lengths)

    def _padded(
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


def _similar_lengths(lengths: IntArray) -> Iterator[IntArray]:
    """Yield row numbers, shortest texts first, in groups that need little padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]] * _PADDING_RATIO + _PADDING_TOKENS
        end = int(np.searchsorted(lengths[order], longest, side="right"))
        yield order[start:end]
        start = end
