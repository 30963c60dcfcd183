"""The limit: the worker's model and runtime, called in a process without a server.

An agent (see `benchmarks.load.agents`). As many threads as in the worker decode and preprocess
images. With `overlap` they prepare the next batch during a forward pass, as a good caller would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

from benchmarks.load import agents, contents
from embedder_server.images.decoder import ImageDecoder
from embedder_server.models.base import ModelChoice
from embedder_server.models.registry import load_model

_MAX_BYTES, _MAX_PIXELS = 2**24, 10**8


class Direct:
    """A loaded model."""

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._cores)
        self._source: dict[str, Iterator[Any]] = {
            "text": cycle(contents.texts(2048)),
            "image": cycle(contents.jpegs(128)),
        }

    def load(self, *, model: str, device: str, threads: int, runtime: str) -> dict[str, Any]:
        """Load the model; return its runtime and element type."""
        start = time.perf_counter()
        self._model = load_model(
            ModelChoice(model, device, threads or self._cores, runtime=runtime)
        )
        info = self._model.info
        self._decoder = ImageDecoder(
            max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS, model_side=info.image_size
        )
        return {
            "runtime": info.runtime,
            "dtype": info.dtype,
            "fingerprint": info.fingerprint,
            "seconds": time.perf_counter() - start,
        }

    def throughput(
        self, *, kind: str, batch: int, seconds: float, overlap: bool = True
    ) -> dict[str, Any]:
        """Return items per second from raw content to vectors."""
        items = 0
        start = time.perf_counter()
        pending = self._prepare(kind, batch)
        while time.perf_counter() - start < seconds:
            ready = [item for part in pending for item in part.result()]
            if overlap:
                pending = self._prepare(kind, batch)
            self._tower(kind)(ready)
            if not overlap:
                pending = self._prepare(kind, batch)
            items += batch
        elapsed = time.perf_counter() - start
        for part in pending:
            part.result()
        return {"rate": items / elapsed}

    def tower(self, *, kind: str, batch: int, seconds: float) -> dict[str, Any]:
        """Return items per second of the network alone."""
        ready = [item for part in self._prepare(kind, batch) for item in part.result()]
        tower = self._tower(kind)
        return {"rate": batch * agents.calls_per_second(lambda: tower(ready), seconds)}

    def prepare(self, *, kind: str, batch: int, seconds: float) -> dict[str, Any]:
        """Return items per second of tokenizing, or of decoding and preprocessing, alone."""

        def prepare() -> None:
            for part in self._prepare(kind, batch):
                part.result()

        return {"rate": batch * agents.calls_per_second(prepare, seconds)}

    def lone(self, *, calls: int) -> dict[str, Any]:
        """Return the times of single texts, in ms: tokenizing and forward pass."""
        times = []
        for text in islice(self._source["text"], calls):
            start = time.perf_counter()
            self._model.embed_texts([self._model.tokenize(text)])
            times.append((time.perf_counter() - start) * 1000)
        return {"latencies_ms": times}

    def _tower(self, kind: str) -> Callable[[Sequence[Any]], Any]:
        return self._model.embed_texts if kind == "text" else self._model.embed_images

    def _prepare(self, kind: str, batch: int) -> list[Future[list[Any]]]:
        raw = list(islice(self._source[kind], batch))
        if kind == "text":
            # One task: handing each text to a thread costs as much as tokenizing it.
            return [self._pool.submit(lambda: [self._model.tokenize(text) for text in raw])]
        shares = [raw[first :: self._cores] for first in range(min(batch, self._cores))]
        return [self._pool.submit(self._decode, share) for share in shares]

    def _decode(self, files: list[bytes]) -> list[Any]:
        return [self._model.preprocess(self._decoder.decode(file).picture) for file in files]


def main() -> None:
    direct = Direct()
    agents.serve(
        {
            "load": direct.load,
            "throughput": direct.throughput,
            "tower": direct.tower,
            "prepare": direct.prepare,
            "lone": direct.lone,
        }
    )


if __name__ == "__main__":
    main()
