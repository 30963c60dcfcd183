"""What one request under way knows of itself: its answers' times and the stage it is in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from embedder_server.batching import Embedded, Submission
from embedder_server.requests import EmbedOptions, StageTimings


class RequestState:
    """Shared by the tasks of one request.

    Attributes:
        options: The request's options.
        answer_by: When an answer must go out, on the monotonic clock.
        timings: Grows while results come in.
        submissions: What was given to the device.
    """

    def __init__(self, options: EmbedOptions, answer_by: float) -> None:
        self.options = options
        self.answer_by = answer_by
        self.timings = StageTimings()
        self.submissions: list[Submission] = []
        self._preparing = 0

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Mark a block as waiting for the pool threads or running on them."""
        self._preparing += 1
        yield
        # Not in a `finally`: what was cancelled here must still be told by `stage`.
        self._preparing -= 1

    def stage(self) -> str:
        """Return where the request is, or was cancelled: `preprocess`, `queue` or `inference`."""
        if self._preparing:
            return "preprocess"
        left = [
            entry
            for submission in self.submissions
            for entry in submission.entries
            if entry.embedded is None
        ]
        return "inference" if left and all(entry.running for entry in left) else "queue"

    def note_prepared(self, decode_s: float, preprocess_s: float) -> None:
        """Keep the longest times of preparing one content."""
        self.timings.decode = max(self.timings.decode, decode_s)
        self.timings.preprocess = max(self.timings.preprocess, preprocess_s)

    def note_queued(self, seconds: float) -> None:
        """Keep the longest wait for the device."""
        self.timings.queue = max(self.timings.queue, seconds)

    def note_embedded(self, embedded: Iterable[Embedded]) -> None:
        """Keep the longest times on the device and the largest batch."""
        timings = self.timings
        for one in embedded:
            timings.queue = max(timings.queue, one.queue_s)
            timings.inference = max(timings.inference, one.inference_s)
            timings.batch_size = max(timings.batch_size, one.batch_size)
