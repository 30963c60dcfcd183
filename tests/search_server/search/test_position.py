"""Positions in a ranking that changes between two looks at it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search_server.search.paging import START, Position
from search_server.types.searches import ScoredId

SCORES = st.lists(
    # Many equal ones, many that differ by less than a computation's error, some that differ.
    st.integers(-20, 20).map(lambda n: n * 2e-7) | st.floats(-1, 1, width=32),
    min_size=1,
    max_size=60,
)


def ranking_of(scores: dict[str, float], seed: int) -> list[ScoredId]:
    """The ranking as another search would return it: scores a little off, ties shuffled."""
    rng = np.random.default_rng(seed)
    found = [(item_id, score + rng.uniform(-5e-7, 5e-7)) for item_id, score in scores.items()]
    rng.shuffle(found)
    found.sort(key=lambda one: -float(one[1]))
    return [(str(item_id), float(score)) for item_id, score in found]


@settings(max_examples=200, derandomize=True)
@given(scores=SCORES, size=st.integers(1, 7), seed=st.integers(0, 1000), data=st.data())
def test_pages_of_a_changing_ranking_lose_and_double_nothing(
    scores: list[float], size: int, seed: int, data: st.DataObject
) -> None:
    live = {f"old{place}": score for place, score in enumerate(scores)}
    stayed = set(live)
    position, delivered = START, []
    while True:
        position = Position.unpack(position.pack() if position.rank else b"")
        page = position.remaining(ranking_of(live, seed))[:size]
        if not page:
            break
        delivered += [item_id for item_id, _ in page]
        position = position.advanced(page)
        assert position.rank == len(delivered)
        seed += 1
        if data.draw(st.booleans()):
            live[f"new{seed}"] = data.draw(st.floats(-1, 1))
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(live)))
            del live[gone]
            stayed.discard(gone)
            if not live:
                break
    assert len(delivered) == len(set(delivered))
    assert stayed <= set(delivered)


def test_a_position_survives_its_token() -> None:
    page = [("a", 0.9), *((f"twin{n}", 0.5) for n in range(1_000))]
    position = START.advanced(page)
    assert Position.unpack(position.pack()) == position
    assert position.rank == 1_001
    assert len(position.tied) == 1_000
    assert len(position.pack()) == 12 + 8 * 1_000


def test_no_bytes_are_the_start() -> None:
    assert Position.unpack(b"") == START
    assert START.remaining([("a", 0.1)]) == [("a", 0.1)]
