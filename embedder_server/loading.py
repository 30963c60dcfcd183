"""The model that settings name, loaded: one place for the worker and for the bulk indexer."""

from __future__ import annotations

from embedder_server.models.base import EmbeddingModel
from embedder_server.models.registry import load_model
from embedder_server.settings import EmbedderSettings


def load_configured(settings: EmbedderSettings) -> EmbeddingModel:
    """Load the model; blocks for seconds, or for minutes when it must be exported first.

    Raises:
        ModelLoadError: It cannot be served; the message says why.
    """
    return load_model(
        settings.model,
        settings.device,
        settings.effective_threads,
        revision=settings.revision,
        runtime=settings.runtime,
        cache_dir=settings.cache_dir,
        trust_remote_code=settings.trust_remote_code,
        max_text_tokens=settings.max_text_tokens,
    )
