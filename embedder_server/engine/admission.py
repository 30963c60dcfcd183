"""Limit the contents in the worker, from receipt to response: how many, and their characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Content, Modality, Priority, modality_of
from sentinel_core.admission import Admission, export
from sentinel_core.errors import ResourceExhausted

# Tokenizing takes up to a microsecond per character.
_CHARS_PER_CONTENT = 4_096


class EngineAdmission:
    """Admits requests as a whole or not at all; each priority and kind of content by itself.

    So bulk requests, which wait behind interactive ones and have time, do not fill their queue,
    and images, which take long, do not shut out texts.
    """

    def __init__(self, settings: EmbedderSettings, metrics: EmbedderMetrics) -> None:
        self._kinds = {
            (priority, modality): _admission(settings, priority, modality)
            for priority in Priority
            for modality in Modality
        }
        export(
            metrics,
            {
                f"{priority.name.lower()} {modality}": kind
                for (priority, modality), kind in self._kinds.items()
            },
        )
        for modality in Modality:  # read when metrics are scraped: costs nothing per request
            metrics.queue_items.labels(modality).set_function(partial(self._admitted, modality))

    def _admitted(self, modality: Modality) -> float:
        return sum(self._kinds[priority, modality].used() for priority in Priority)

    @contextmanager
    def admit(self, priority: Priority, contents: Sequence[Content]) -> Iterator[None]:
        """Count the contents of a request as admitted until the block ends.

        Raises:
            ResourceExhausted: QUEUE_FULL, with the time until there should be room.
        """
        counts = Counter(kind for kind in map(modality_of, contents) if kind is not None)
        texts = (content for content in contents if isinstance(content, str))
        characters = {Modality.TEXT: sum(map(len, texts)), Modality.IMAGE: 0}
        with ExitStack() as admitted:
            for modality, count in counts.items():
                cost = {"contents": count, "characters": characters[modality]}
                admitted.enter_context(self._kinds[priority, modality].admit(cost))
            yield


def _admission(settings: EmbedderSettings, priority: Priority, modality: Modality) -> Admission:
    most = settings.max_queue_items
    what = f"{priority.name.lower()} {modality}s"

    def refusal(wait_s: float) -> ResourceExhausted:
        return ResourceExhausted(
            "QUEUE_FULL",
            f"this worker has as many {what} as it can embed soon; retry in {wait_s:.2f} s or on "
            "another worker",
            retry_after_s=wait_s,
        )

    return Admission(
        {"contents": most, "characters": most * _CHARS_PER_CONTENT},
        refusal,
        max_wait_s=settings.max_wait_seconds if priority is Priority.INTERACTIVE else None,
    )
