"""Define the worker's metrics, besides those that every server has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from embedder_server.images.decoder_pool import CAUSES
from embedder_server.types import Modality
from sentinel_core.metrics import ServerMetrics


class EmbedderMetrics(ServerMetrics):
    """`items` and `batch_size` of the base have the modality as their `operation`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("embedder", registry)
        self.queue_items = Gauge(
            "sentinel_embedder_queue_items",
            "Contents admitted and not answered yet, waiting or running.",
            ["modality"],
            registry=registry,
        )
        self.dropped_items = Counter(
            "sentinel_embedder_dropped_items_total",
            "Contents dropped before they cost compute: the caller left, or the deadline passed.",
            ["modality", "cause"],
            registry=registry,
        )
        self.batch_splits = Counter(
            "sentinel_embedder_batch_splits_total",
            "Batches halved because the device ran out of memory.",
            ["modality"],
            registry=registry,
        )
        self.unusable_vectors = Counter(
            "sentinel_embedder_unusable_vectors_total",
            "Vectors the model made that hold NaN, infinity or only zeros; each failed its item.",
            ["modality"],
            registry=registry,
        )
        self.decoders_ended = Counter(
            "sentinel_embedder_decoders_ended_total",
            "Image decoders replaced before their image was done: it took too much time or memory, "
            "its caller left, or the process died.",
            ["cause"],
            registry=registry,
        )
        self.device_stalled = Gauge(
            "sentinel_embedder_device_stalled",
            "1 while the device has been at one batch for longer than stall_seconds.",
            registry=registry,
        )
        for modality in Modality:  # so that the series exist from the start, at zero
            self.queue_items.labels(modality)
            self.batch_splits.labels(modality)
            self.unusable_vectors.labels(modality)
            for cause in ("caller_left", "deadline"):
                self.dropped_items.labels(modality, cause)
        for cause in CAUSES:
            self.decoders_ended.labels(cause)
