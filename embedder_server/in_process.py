"""Embed text and images inside another process, without a server.

This is the public API of the package. Other packages import this module and
`embedder_server.settings`, nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from embedder_server.devices import usable_cores
from embedder_server.engine.engine import Engine
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.images.fork_server import ForkServer
from embedder_server.models.registry import load_model
from embedder_server.settings import EmbedderSettings
from embedder_server.types import (
    EmbedOptions,
    ImageFacts,
    ImageFile,
    ItemResult,
    ModelInfo,
    ModelLoadError,
    Priority,
)
from sentinel_core.calls import Deadline
from sentinel_core.memory import MemoryBudget, default_limit

__all__ = [
    "ImageFacts",
    "ImageFile",
    "InProcessEmbedder",
    "ItemResult",
    "ModelInfo",
    "ModelLoadError",
    "describe_model",
    "usable_cores",
]


def describe_model(settings: EmbedderSettings) -> ModelInfo:
    """Load the model that the settings name, close it, and return what it is.

    Raises:
        ModelLoadError: The model cannot be loaded. The message says why.
    """
    model = load_model(settings.model_choice)
    info = model.info
    model.close()
    return info


class InProcessEmbedder:
    """A model and the engine that batches its work, without a port.

    Call `start`, `embed` and `close` in one event loop. Many `embed` calls may run at once;
    the engine batches their contents together. `info` describes the model.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Load the model. This blocks for seconds, or for minutes if it must be exported first.

        Raises:
            ModelLoadError: The model cannot be loaded. The message says why.
        """
        self._settings = settings
        self._forks = ForkServer()
        try:
            self._model = load_model(settings.model_choice)
        except BaseException:
            self._forks.close()
            raise
        self._engine: Engine | None = None
        self.info: ModelInfo = self._model.info

    async def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Start the engine and warm the model up.

        Args:
            on_failure: Called in the event loop if the engine dies. The embedder then
                answers nothing any more.

        Raises:
            ModelLoadError: The device has no memory for a single content.
        """
        metrics = EmbedderMetrics(CollectorRegistry())
        memory = MemoryBudget(self._settings.memory_bytes or default_limit(), metrics)
        self._engine = Engine(
            self._model,
            self._settings,
            metrics,
            memory=memory,
            forks=self._forks,
            on_failure=on_failure,
        )
        await self._engine.start()

    async def embed(
        self,
        contents: Sequence[str | ImageFile],
        *,
        timeout_s: float,
        thumbnail_side: int = 0,
        dimensions: int = 0,
    ) -> list[ItemResult]:
        """Return one result for each content, in order: its float32 unit vector or its error.

        Contents are embedded as documents: as what queries find.

        Args:
            contents: Texts and encoded image files.
            timeout_s: Longest time for all of them, in seconds.
            thumbnail_side: Longest side of each image's WebP thumbnail, in pixels; 0: no thumbnail.
            dimensions: Leading elements to keep of each vector; 0: all.

        Raises:
            ResourceExhausted: The queue is full.
            DeadlineExceeded: `timeout_s` passed.
        """
        if self._engine is None:
            raise RuntimeError("call start() first")
        options = EmbedOptions(
            priority=Priority.BULK, thumbnail_side=thumbnail_side, dimensions=dimensions
        )
        deadline = Deadline.after(None, default_s=timeout_s)
        return (await self._engine.embed(contents, options, deadline)).results

    async def close(self) -> None:
        """Finish the running batch; release threads, processes and the model."""
        if self._engine is not None:
            await self._engine.close()
        else:
            self._model.close()
        await asyncio.to_thread(self._forks.close)
