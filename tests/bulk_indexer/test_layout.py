"""How many actors a cluster gets, and what each of them owns."""

from __future__ import annotations

import pytest

from bulk_indexer.cluster import Layout, plan_layout
from bulk_indexer.run_folder import BulkError


@pytest.mark.parametrize(
    ("nodes", "on_gpu", "actors", "cpus", "layout"),
    [
        ([(8, 0)], False, 0, 0, Layout(1, 8, 0)),
        ([(8, 0)], False, 2, 0, Layout(2, 4, 0)),
        ([(8, 0)], False, 0, 3, Layout(2, 3, 0)),
        ([(8, 0), (16, 0)], False, 0, 0, Layout(3, 8, 0)),
        ([(8, 0), (16, 0)], False, 4, 0, Layout(4, 5, 0)),
        ([(8, 0), (96, 8), (48, 2)], True, 0, 0, Layout(10, 12, 1)),
        ([(96, 8)], True, 0, 24, Layout(4, 24, 1)),
        ([(96, 8)], True, 3, 0, Layout(3, 12, 1)),
        ([(2, 4)], True, 2, 0, Layout(2, 1, 1)),
    ],
)
def test_layout(
    nodes: list[tuple[int, int]], on_gpu: bool, actors: int, cpus: int, layout: Layout
) -> None:
    assert plan_layout(nodes, on_gpu=on_gpu, actors=actors, cpus_per_actor=cpus) == layout


@pytest.mark.parametrize(
    ("nodes", "on_gpu", "actors", "cpus"),
    [
        ([(8, 0)], True, 0, 0),
        ([(8, 0)], False, 9, 0),
        ([(8, 0)], False, 0, 9),
        ([(8, 1)], True, 2, 0),
    ],
)
def test_what_no_machine_has_is_refused(
    nodes: list[tuple[int, int]], on_gpu: bool, actors: int, cpus: int
) -> None:
    with pytest.raises(BulkError):
        plan_layout(nodes, on_gpu=on_gpu, actors=actors, cpus_per_actor=cpus)
