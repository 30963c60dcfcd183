"""What one call asks for and gets, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from embedder_server.engine.batching import Embedded, Submission
from embedder_server.engine.vectors import Element
from embedder_server.types import FloatArray, Priority
from sentinel_core.errors import SentinelError


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an upright picture, in fractions of its width and height.

    Attributes:
        left: From 0, below `right`.
        top: From 0, below `bottom`.
        right: Up to 1.
        bottom: Up to 1.
    """

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One encoded picture and the part of it to embed; None: all of it."""

    data: bytes
    crop: Crop | None = None


# One thing to embed: a text, an image file, or what is wrong with it already.
Content = str | ImageFile | SentinelError


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Options of a whole request.

    Attributes:
        truncate: Cut texts over the model's limit instead of refusing them.
        priority: Scheduling class.
        thumbnail_side: Longest side of the WebP thumbnail of each image, in pixels; 0: none.
        normalize: Whether vectors have length 1; else they are as the model made them.
        dimensions: Elements to keep of each vector; 0: all.
        element: Type of the elements of the answer.
    """

    truncate: bool = True
    priority: Priority = Priority.INTERACTIVE
    thumbnail_side: int = 0
    normalize: bool = True
    dimensions: int = 0
    element: Element = Element.FLOAT32


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was learned by decoding an image.

    Attributes:
        width: In pixels, after EXIF orientation.
        height: In pixels, after EXIF orientation.
        media_type: Found in the bytes, for example `image/jpeg`.
        thumbnail: A WebP file; empty unless asked for.
    """

    width: int
    height: int
    media_type: str
    thumbnail: bytes = b""


@dataclass(slots=True)
class ItemResult:
    """The outcome for one content: its vector, or why there is none.

    Attributes:
        outcome: Float32 vector, cut and normalised as asked; or the error of this content alone.
        norm: Length of the whole vector as the model made it.
        token_count: Texts only: tokens before cutting.
        truncated: Texts only: whether it was cut.
        image: Images only.
    """

    outcome: FloatArray | SentinelError
    norm: float = 1.0
    token_count: int = 0
    truncated: bool = False
    image: ImageFacts | None = None


@dataclass(slots=True)
class StageTimings:
    """Longest time, in seconds, that any content of a request spent in each stage."""

    total: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    batch_size: int = 0


@dataclass(slots=True)
class EmbedOutcome:
    """Results in the order of the contents, and where the time went."""

    results: list[ItemResult]
    timings: StageTimings = field(default_factory=StageTimings)


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
