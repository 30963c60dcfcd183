"""The order of candidates does not hang on the last bits of their scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_server.search.reranking import break_ties
from search_server.types.searches import Candidate

# As far as Milvus was seen to compute one cosine differently.
jitters = st.floats(-2.4e-7, 2.4e-7)


@given(st.lists(st.integers(0, 40), max_size=30), st.data())
def test_equal_items_keep_their_order_whatever_the_last_bits_of_their_scores(
    levels: list[int], data: st.DataObject
) -> None:
    exact = [Candidate(f"{place:02}", level / 1000) for place, level in enumerate(levels)]
    shaken = [Candidate(one.id, one.score + data.draw(jitters)) for one in exact]
    order = [one.id for one in break_ties(data.draw(st.permutations(shaken)))]
    assert order == [one.id for one in sorted(exact, key=lambda one: (-one.score, one.id))]


def test_equal_items_get_one_score() -> None:
    found = [Candidate("b", 0.5000002), Candidate("a", 0.5), Candidate("c", 0.4)]
    settled = break_ties(found)
    assert [one.id for one in settled] == ["a", "b", "c"]
    assert [one.score for one in settled] == pytest.approx([0.5000002, 0.5000002, 0.4], abs=1e-12)
