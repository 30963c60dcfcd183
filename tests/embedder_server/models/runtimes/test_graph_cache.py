"""Which batches become CUDA graphs. The GPU is a stand-in: none was at hand."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
import pytest

from embedder_server.models.runtimes.base import Feed
from embedder_server.models.runtimes.torch import MAX_GRAPHS, MAX_ROWS, Forward, GraphCache
from embedder_server.types import FloatArray


class FakeNetwork:
    """Sums the tokens of each row, and notes the shapes that it meets.

    Attributes:
        eager: Rows of each batch that ran as it came.
        captured: Shape of each graph.
        replayed: Shape of each batch that ran as a graph.
        error: Raised by the next capture, if set.
    """

    def __init__(self) -> None:
        self.eager: list[int] = []
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []
        self.error: Exception | None = None

    def forward(self, feed: Feed) -> FloatArray:
        self.eager.append(len(feed["ids"]))
        return _sums(feed)

    def capture(self, feed: Feed) -> Forward:
        if self.error is not None:
            raise self.error
        shape = feed["ids"].shape
        self.captured.append(shape)

        def replay(feed: Feed) -> FloatArray:
            assert {array.shape for array in feed.values()} == {shape}
            self.replayed.append(shape)
            return _sums(feed)

        return replay


def _sums(feed: Feed) -> FloatArray:
    assert feed["mask"].all(axis=1).all()  # no row without a token
    return (feed["ids"] * feed["mask"]).sum(axis=1, keepdims=True).astype(np.float32)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def graphs(network: FakeNetwork) -> GraphCache:
    return GraphCache(network.forward, network.capture)


def batch(rows: int, width: int = 16) -> dict[str, np.ndarray]:
    ids = np.arange(rows * width, dtype=np.int64).reshape(rows, width)
    return {"ids": ids, "mask": np.ones_like(ids)}


@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
def test_rows_are_filled_up_to_a_power_of_two_and_only_the_own_ones_come_back(
    network: FakeNetwork, graphs: GraphCache, rows: int
) -> None:
    feed = batch(rows)
    np.testing.assert_array_equal(graphs.run(feed), _sums(feed))
    [(filled, width)] = network.captured
    assert filled in (1, 2, 4, 8, 16)
    assert rows <= filled < 2 * rows
    assert width == 16
    assert network.eager == []


def test_a_shape_is_captured_once_and_serves_every_batch_that_fits_it(
    network: FakeNetwork, graphs: GraphCache
) -> None:
    for rows in (5, 8, 6, 7):
        graphs.run(batch(rows))
    graphs.run(batch(8, width=32))
    assert network.captured == [(8, 16), (8, 32)]
    assert network.replayed == [(8, 16)] * 4 + [(8, 32)]


def test_arrays_of_another_type_are_another_graph(network: FakeNetwork, graphs: GraphCache) -> None:
    graphs.run(batch(1))
    graphs.run({name: array.astype(np.float32) for name, array in batch(1).items()})
    assert len(network.captured) == 2


def test_large_batches_run_as_they_come(network: FakeNetwork, graphs: GraphCache) -> None:
    rows = MAX_ROWS + 1
    assert len(graphs.run(batch(rows))) == rows
    assert (network.eager, network.captured) == ([rows], [])


def test_the_number_of_graphs_is_bounded(network: FakeNetwork, graphs: GraphCache) -> None:
    for width in range(1, MAX_GRAPHS + 3):
        graphs.run(batch(3, width))
    assert len(network.captured) == MAX_GRAPHS
    assert network.eager == [3, 3]
    graphs.run(batch(3, 1))  # those there are still serve
    assert network.replayed[-1] == (4, 1)


def test_what_cannot_be_captured_runs_as_it_comes_and_is_told_once(
    network: FakeNetwork, graphs: GraphCache, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.run(batch(1))
    network.error = RuntimeError("operation not permitted when stream is capturing")
    with caplog.at_level(logging.WARNING):
        for rows in (2, 3):
            feed = batch(rows)
            np.testing.assert_array_equal(graphs.run(feed), _sums(feed))
    assert network.eager == [2, 3]
    assert [record.__dict__["reason"] for record in caplog.records] == [str(network.error)]
    graphs.run(batch(1))
    assert network.replayed == [(1, 16)] * 2


def test_a_closed_cache_captures_nothing(network: FakeNetwork, graphs: GraphCache) -> None:
    graphs.close()
    graphs.run(batch(1))
    assert network.captured == []


def test_a_replay_fills_the_captured_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from embedder_server.models.runtimes.torch import TorchTower

    module = torch.nn.Embedding(100, 4)
    tower = TorchTower(module, ("ids",), "cpu", "float32", 1)
    _stand_in_for_cuda(torch, tower, monkeypatch)
    graphs = GraphCache(tower._eager, tower._captured)
    random = np.random.default_rng(0)
    with torch.inference_mode():
        for rows in (1, 3, 4, 1, 3):
            feed = {"ids": random.integers(0, 100, (rows,), dtype=np.int64)}
            expected = tower._eager(feed)
            np.testing.assert_array_equal(graphs.run(feed), expected)
    assert len(graphs._graphs) == 2


def _stand_in_for_cuda(torch: Any, tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a "graph" compute again, into the same output, what ran while it was captured."""
    forward, passes = tower._forward, []

    def noted(tensors: list[Any]) -> Any:
        passes.append((tensors, forward(tensors)))
        return passes[-1][1]

    class Graph:
        def replay(self) -> None:
            tensors, output = self.captured
            output.copy_(forward(tensors))

        def pool(self) -> str:
            return "pool"

    @contextlib.contextmanager
    def capturing(graph: Any, **_: object) -> Any:
        yield
        graph.captured = passes[-1]

    class Stream:
        def wait_stream(self, _: object) -> None:
            pass

    monkeypatch.setattr(tower, "_forward", noted)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": capturing,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
