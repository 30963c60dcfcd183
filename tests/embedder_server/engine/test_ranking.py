from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sentinel_core.vectors import rank
from tests.fakes.fake_model import FakeModel

INFO = dataclasses.replace(FakeModel(2).info, logit_scale=10.0)
QUERY = np.array([1, 0], dtype=np.float32)


def candidates(*cosines: float) -> list[tuple[int, np.ndarray]]:
    return [
        (index, np.array([cosine, math.sqrt(1 - cosine**2)], dtype=np.float32))
        for index, cosine in enumerate(cosines)
    ]


def test_best_first_with_a_softmax_at_the_model_s_scale() -> None:
    ranked = rank(QUERY, candidates(0.1, 0.5, 0.3), INFO, 0)
    assert [place.index for place in ranked] == [1, 2, 0]
    assert [place.cosine for place in ranked] == pytest.approx([0.5, 0.3, 0.1], abs=1e-6)
    assert sum(place.probability for place in ranked) == pytest.approx(1)
    ratio = ranked[0].probability / ranked[1].probability
    assert ratio == pytest.approx(math.exp(10 * 0.2), rel=1e-5)


def test_sigmoid_takes_each_by_itself_with_the_bias() -> None:
    info = dataclasses.replace(INFO, sigmoid=True, logit_bias=-2.0)
    [one] = rank(QUERY, candidates(0.5), info, 0)
    assert one.probability == pytest.approx(1 / (1 + math.exp(-(10 * 0.5 - 2))), rel=1e-5)


def test_top_k_cuts_but_probabilities_are_over_all() -> None:
    every = rank(QUERY, candidates(0.1, 0.5, 0.3), INFO, 0)
    assert rank(QUERY, candidates(0.1, 0.5, 0.3), INFO, 2) == every[:2]
    assert rank(QUERY, candidates(0.1), INFO, 9) == rank(QUERY, candidates(0.1), INFO, 0)


def test_ties_go_by_index_and_extremes_stay_finite() -> None:
    assert [place.index for place in rank(QUERY, candidates(0.3, 0.3, 0.3), INFO, 0)] == [0, 1, 2]
    for sigmoid in (False, True):
        info = dataclasses.replace(INFO, sigmoid=sigmoid, logit_scale=1e6)
        for place in rank(QUERY, candidates(-1, 1), info, 0):
            assert 0 <= place.probability <= 1
    assert rank(QUERY, [], INFO, 0) == []
