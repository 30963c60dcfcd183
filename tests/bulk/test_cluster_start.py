"""A Ray of our own that does not start is started once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulk_indexer import cluster
from bulk_indexer.errors import BulkError


class Starts:
    """Stands in for `ray.init`, whose processes fail at random: fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.folders: list[Path] = []

    def __call__(self, **options: Any) -> None:
        self.folders.append(Path(options["_temp_dir"]))
        if len(self.folders) <= self.failures:
            raise Exception("The current node timed out during startup.")


@pytest.fixture
def starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Starts:
    stand_in = Starts(request.param)
    monkeypatch.setattr(cluster.ray, "init", stand_in)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2}}])
    return stand_in


@pytest.mark.parametrize("starts", [1], indirect=True)
def test_one_failure_is_got_over(starts: Starts) -> None:
    with cluster.Cluster("") as ours:
        layout = ours.layout(on_gpu=False, actors=0, cpus_per_actor=0)
        assert layout == cluster.Layout(1, 2, 0)
        assert [folder.exists() for folder in starts.folders] == [False, True]
    assert not any(folder.exists() for folder in starts.folders)


@pytest.mark.parametrize("starts", [9], indirect=True)
def test_the_second_failure_is_told(starts: Starts) -> None:
    with (
        pytest.raises(BulkError, match="cannot reach or start Ray: The current node timed out"),
        cluster.Cluster("") as ours,
    ):
        ours.layout(on_gpu=False, actors=0, cpus_per_actor=0)
    assert len(starts.folders) == 2
    assert not any(folder.exists() for folder in starts.folders)
