"""What one call asks for and gets, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedder_server.types import FloatArray, Priority
from embedder_server.vectors import Element
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
