"""Values that the worker's layers pass to each other. Knows no grpc, no protobuf and no model."""

from __future__ import annotations

import enum
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from sentinel_core.errors import SentinelError
from sentinel_core.vectors import Element, Role

FloatArray = npt.NDArray[np.float32]


class Modality(enum.StrEnum):
    """Kind of content. Texts and images never share a batch."""

    TEXT = "text"
    IMAGE = "image"


# What an image with a text beside it is called where a modality is named. It shares the images'
# queue, so it is no `Modality`.
IMAGE_WITH_TEXT = "image_with_text"


class Priority(enum.IntEnum):
    """Lower runs first: a person waits for INTERACTIVE, a program for BULK."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an upright image, in fractions of its width and height.

    0 <= left < right <= 1 and 0 <= top < bottom <= 1.
    """

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One encoded image, the part of it to embed (None: all of it), and a text beside it."""

    data: bytes
    crop: Crop | None = None
    text: str = ""


# One thing to embed: a text, an image file, or the error that its conversion gave.
Content = str | ImageFile | SentinelError


def modality_of(content: Content) -> Modality | None:
    """Return the kind of a content; None for an error."""
    if isinstance(content, str):
        return Modality.TEXT
    return Modality.IMAGE if isinstance(content, ImageFile) else None


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Options of one request.

    Attributes:
        truncate: Cut texts over the model's limit instead of refusing them.
        priority: Scheduling class.
        thumbnail_side: Longest side of each image's WebP thumbnail, in pixels; 0: no thumbnail.
        normalize: Return vectors of length 1; otherwise as the model made them.
        dimensions: Number of leading elements to keep of each vector; 0: all.
        element: Type of the elements in the response.
        role: What the contents are for; symmetric models ignore it.
    """

    truncate: bool = True
    priority: Priority = Priority.INTERACTIVE
    thumbnail_side: int = 0
    normalize: bool = True
    dimensions: int = 0
    element: Element = Element.FLOAT32
    role: Role = Role.DOCUMENT


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What decoding an image showed.

    Attributes:
        width: In pixels, after EXIF orientation.
        height: In pixels, after EXIF orientation.
        media_type: Found in the bytes, for example `image/jpeg`.
        thumbnail: A WebP file; empty if none was requested.
    """

    width: int
    height: int
    media_type: str
    thumbnail: bytes = b""


@dataclass(slots=True)
class ItemResult:
    """The outcome for one content: its vector, or why there is none.

    Attributes:
        outcome: Float32 vector, cut and scaled as the options say; or this content's own error.
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
    """Longest time that any content of a request spent in each stage, in seconds."""

    total: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    batch_size: int = 0

    def longest(self, other: StageTimings) -> StageTimings:
        """Return the timings of two requests at the same time."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return StageTimings(*(max(pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class EmbedResults:
    """Results in the order of the contents, and where the time went."""

    results: list[ItemResult]
    timings: StageTimings


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a worker serves. Vectors of equal `fingerprint` are comparable.

    Attributes:
        name: Served name, for example `conse-minilm-lite0`.
        revision: Version of the weights (package versions, or a hub commit).
        fingerprint: Hex SHA-256 over weights, preprocessing, pooling and normalisation.
        dimensions: Length of every vector.
        max_text_tokens: Longest text in tokens, special tokens included.
        image_size: Side of the square that the image network sees, in pixels.
        logit_scale: Factor on a cosine before softmax or sigmoid.
        runtime: Library that runs the forward pass, for example `onnxruntime`.
        device: `cpu` or `cuda:N`.
        dtype: Element type of the forward pass, for example `float32`.
        modalities: What the model embeds.
        supported_dimensions: Lengths that vectors may be cut to (Matryoshka models), longest
            first; empty: only `dimensions`.
        logit_bias: Added to the scaled cosine; 0 except for models trained with a sigmoid.
        sigmoid: Whether a score is the sigmoid of its own logit; otherwise a softmax over all.
        runtime_choice: Why this runtime was chosen, with the measurements.
        asymmetric: Whether a content's vector depends on its role.
        embeds_image_with_text: Whether an image can have a text beside it, for one vector of both.
        languages: BCP 47 tags of the languages that it knows; "mul": many; empty: unknown.
    """

    name: str
    revision: str
    fingerprint: str
    dimensions: int
    max_text_tokens: int
    image_size: int
    logit_scale: float
    runtime: str
    device: str
    dtype: str
    modalities: tuple[Modality, ...] = (Modality.TEXT, Modality.IMAGE)
    supported_dimensions: tuple[int, ...] = ()
    logit_bias: float = 0.0
    sigmoid: bool = False
    runtime_choice: str = ""
    asymmetric: bool = False
    embeds_image_with_text: bool = False
    languages: tuple[str, ...] = ()


class ModelLoadError(RuntimeError):
    """A model cannot be served: unknown name, missing or altered file, unusable device.

    Raised only while a worker starts. The message tells the operator what to do.
    """
