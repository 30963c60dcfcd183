"""Token lists to rectangles: how wide, and what they are filled up with."""

from __future__ import annotations

import numpy as np
import pytest

from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TokenizedText


def text(length: int) -> TokenizedText:
    return TokenizedText(np.full(length, 5, dtype=np.int64), length)


@pytest.mark.parametrize(
    ("padding", "multiple", "length", "width"),
    [
        (Padding.LONGEST, 1, 13, 13),
        (Padding.LONGEST, 16, 13, 16),
        (Padding.LONGEST, 16, 16, 16),
        (Padding.LONGEST, 16, 17, 32),
        (Padding.LONGEST, 16, 70, 77),  # never beyond what the model reads
        (Padding.MAX_LENGTH, 16, 13, 77),
        (Padding.NONE, 16, 13, 13),  # padding would be read as words
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_rows_are_filled_up_to_a_multiple(
    padding: Padding, multiple: int, length: int, width: int, left: bool
) -> None:
    batches = TextBatches(padding, 9, 77, left, multiple)
    [(rows, ids, mask)] = batches.split([text(length), text(length)])
    assert rows.tolist() == [0, 1]
    assert ids.shape == mask.shape == (2, width)
    filling = ids[:, : width - length] if left else ids[:, length:]
    assert (filling == 9).all()
    np.testing.assert_array_equal(mask, ids == 5)
