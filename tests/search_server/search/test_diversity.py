"""The pure parts of ranking against slow versions of them that follow their definitions."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_server.search.reranking import distinct, diverse, fuse, grouped

# Halves in four dimensions whose squares add up to 1: unit vectors with exact dot products, so
# that the slow versions, which calculate in fractions, see the same ties.
UNIT_VECTORS = [
    *(tuple(row) for row in np.eye(4).tolist()),
    *(tuple(row) for row in (-np.eye(4)).tolist()),
    *(tuple(0.5 if code >> place & 1 else -0.5 for place in range(4)) for code in range(16)),
]
vectors_lists = st.lists(st.sampled_from(UNIT_VECTORS), min_size=0, max_size=12)
quarters = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
counts = st.integers(1, 15)


def array(vectors: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(vectors, dtype=np.float32).reshape(-1, 4)


@cache
def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(one, other, strict=True)), Fraction(0))


def slow_distinct(vectors: list[tuple[float, ...]], threshold: float) -> list[int]:
    kept: list[int] = []
    for place, vector in enumerate(vectors):
        if all(cosine(vector, vectors[better]) < Fraction(threshold) for better in kept):
            kept.append(place)
    return kept


def slow_diverse(
    relevance: list[float], vectors: list[tuple[float, ...]], share: float
) -> list[int]:
    left, chosen = list(range(len(vectors))), list[int]()
    while left:

        def gain(place: int) -> Fraction:
            nearest = max(cosine(vectors[place], vectors[other]) for other in chosen)
            return Fraction(share) * Fraction(relevance[place]) - (1 - Fraction(share)) * nearest

        best = max(left, key=lambda place: (gain(place), -place)) if chosen else left[0]
        chosen.append(best)
        left.remove(best)
    return chosen


@given(vectors_lists, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_distinct_keeps_what_is_no_copy_of_something_better(
    vectors: list[tuple[float, ...]], threshold: float
) -> None:
    assert distinct(array(vectors), threshold) == slow_distinct(vectors, threshold)


@given(vectors_lists, st.data(), quarters, counts)
def test_diverse_is_maximal_marginal_relevance(
    vectors: list[tuple[float, ...]], data: st.DataObject, share: float, most: int
) -> None:
    eighths = st.integers(-8, 8).map(lambda eighth: eighth / 8)
    drawn = data.draw(st.lists(eighths, min_size=len(vectors), max_size=len(vectors)))
    relevance = sorted(drawn, reverse=True)
    fast = diverse(np.array(relevance, np.float32), array(vectors), share, most)
    assert fast == slow_diverse(relevance, vectors, share)[:most]


def test_diverse_with_relevance_only_changes_nothing() -> None:
    vectors = array(UNIT_VECTORS)
    relevance = np.linspace(1, 0, len(vectors), dtype=np.float32)
    assert diverse(relevance, vectors, 1.0, 99) == list(range(len(vectors)))


def test_equal_vectors_are_copies_whatever_rounding_makes_of_their_cosine() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((400, 768)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    doubled = np.repeat(vectors, 2, axis=0)
    assert distinct(doubled, 1.0) == list(range(0, 800, 2))


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=20), st.integers(1, 4))
def test_grouped_keeps_the_best_of_each_value(values: list[str | None], size: int) -> None:
    expected = []
    for place, value in enumerate(values):
        if value is None:
            expected.append(place)
        elif value not in values[:place]:
            expected += [other for other, same in enumerate(values) if same == value][:size]
    assert grouped(values, size) == expected


@pytest.mark.parametrize("values", [[True, False, True, None], [3, 0, 3, None]])
def test_values_of_other_types_are_groups_too(values: list[bool | int | None]) -> None:
    assert grouped(values, 1) == [0, 1, 3]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
            st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        ),
        max_size=3,
    ),
    st.sampled_from([1, 7, 60]),
)
def test_fuse_adds_weights_over_ranks(
    rankings: list[tuple[list[str], float]], constant: int
) -> None:
    expected: dict[str, float] = {}
    for ids, weight in rankings:
        for place, item_id in enumerate(ids):
            expected[item_id] = expected.get(item_id, 0.0) + weight / (constant + place + 1)
    fused = fuse(rankings, constant)
    assert dict(fused) == pytest.approx(expected)
    assert [(-score, item_id) for item_id, score in fused] == sorted(
        (-score, item_id) for item_id, score in fused
    )


def test_weights_say_which_ranking_counts() -> None:
    near, worded = ["a", "b", "c"], ["c", "d"]

    def order(near_weight: float, worded_weight: float) -> list[str]:
        return [item for item, _ in fuse([(near, near_weight), (worded, worded_weight)], 60)]

    assert order(1.0, 1.0) == ["c", "a", "b", "d"]  # c is in both
    assert order(1.0, 0.01) == ["a", "b", "c", "d"]
    assert order(0.01, 1.0) == ["c", "d", "a", "b"]
