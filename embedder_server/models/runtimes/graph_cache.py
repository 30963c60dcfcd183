"""Which batches run as a captured graph, and in which shape. Pure: knows no torch and no GPU.

A small batch keeps a GPU waiting while the CPU launches hundreds of kernels one by one. A captured
graph launches all of them at once, but only for the shape it was captured with. So the rows of a
batch are filled up to a power of two, and few shapes serve all batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from embedder_server.models.runtimes.base import Feed
from embedder_server.types import FloatArray

logger = logging.getLogger(__name__)

Forward = Callable[[Feed], FloatArray]

# Beyond it the GPU is busy with computing, and rows filled up would cost more than launches.
MAX_ROWS = 16
# Each holds the memory of its inputs and outputs. Five sizes of five widths of text, and some room.
MAX_GRAPHS = 32


class GraphCache:
    """Runs small batches as captured graphs and everything else as it comes.

    Args:
        eager: The forward pass of any batch.
        capture: Makes the forward pass of batches with the shapes of its argument; what it raises
            ends capturing for good, since it would fail for other shapes, too.
    """

    def __init__(self, eager: Forward, capture: Callable[[Feed], Forward]) -> None:
        self._eager = eager
        self._capture = capture
        self._graphs: dict[tuple[object, ...], Forward] = {}
        self._capturing = True

    def run(self, feed: Feed) -> FloatArray:
        """Return row i for item i of every array in `feed`."""
        rows = len(next(iter(feed.values())))
        if rows > MAX_ROWS:
            return self._eager(feed)
        filled = filled_up(feed, rows)
        graph = self._graph(filled)
        return self._eager(feed) if graph is None else graph(filled)[:rows]

    def close(self) -> None:
        """Forget all graphs, which frees their memory."""
        self._graphs.clear()
        self._capturing = False

    def _graph(self, feed: Feed) -> Forward | None:
        key = tuple((name, array.shape, array.dtype.str) for name, array in feed.items())
        graph = self._graphs.get(key)
        if graph is None and self._capturing and len(self._graphs) < MAX_GRAPHS:
            try:
                graph = self._graphs[key] = self._capture(feed)
            # A network that reads values back to the CPU cannot be captured; each says it its way.
            except Exception as error:
                self._capturing = False
                logger.warning("no more CUDA graphs are captured", extra={"reason": str(error)})
        return graph


def filled_up(feed: Feed, rows: int) -> Feed:
    """Return `feed` with its last row repeated until there is a power of two of them."""
    missing = (1 << (rows - 1).bit_length()) - rows
    if missing == 0:
        return feed
    # A row that is there already is valid for any network; zeros might divide by zero.
    return {
        name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        for name, array in feed.items()
    }
