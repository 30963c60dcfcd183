"""Values of embeddings: how to embed, and what a worker tells of a content and of its own work."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.vectors import Role
from sentinel_store.items import Content
from sentinel_store.values import FloatArray

# Parts of an image that workers name, besides its bytes.
_PARTS = (".image.crop", ".image.text")


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How to embed contents; a worker checks the values.

    Attributes:
        bulk: Whether nobody waits for the answer; other work runs first.
        thumbnail_side: Longest side of the images' thumbnails, in pixels; 0: none.
        normalize: Whether vectors have length 1, and not the model's own.
        dimensions: Elements to keep of each vector; None: all.
        truncate: Whether texts that are too long for the model are cut, and not refused.
        role: What the contents are for: queries, or the items that they find.
    """

    bulk: bool = False
    thumbnail_side: int = 0
    normalize: bool = True
    dimensions: int | None = None
    truncate: bool = True
    role: Role = Role.DOCUMENT


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a worker saw of an image: its sides in pixels, upright, and its media type."""

    width: int
    height: int
    media_type: str


@dataclass(frozen=True, slots=True)
class WorkerTimings:
    """Seconds that a call spent in each stage of a worker.

    Attributes:
        batch_size: Contents in the largest batch of the device that had a part of it.
    """

    decode: float = 0.0
    preprocess: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    batch_size: int = 0

    def longest(self, other: WorkerTimings) -> WorkerTimings:
        """Return the timings of two calls at the same time."""
        return WorkerTimings(
            max(self.decode, other.decode),
            max(self.preprocess, other.preprocess),
            max(self.queue, other.queue),
            max(self.inference, other.inference),
            max(self.batch_size, other.batch_size),
        )


@dataclass(frozen=True, slots=True)
class EmbeddedItem:
    """The embedding of one content, or its error.

    Attributes:
        vector: float32 `[dimensions]`, by default L2-normalised; None if `error` is set.
        thumbnail: WebP; empty for text, or if no thumbnail was requested.
        error: Why this content could not be embedded; the others are not affected.
        token_count: Of a text, before it was cut to the model's limit.
        truncated: Whether it was cut.
        image: Of an image that was decoded.
    """

    vector: FloatArray | None
    thumbnail: bytes = b""
    error: SentinelError | None = None
    token_count: int = 0
    truncated: bool = False
    image: ImageInfo | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A worker's answer: one item per content, in order, and its time by stage."""

    items: list[EmbeddedItem]
    fingerprint: str
    timings: WorkerTimings = WorkerTimings()


def placed(error: SentinelError, path: str, content: Content) -> SentinelError:
    """Return the error of a content from a worker, with its path in our own request.

    `path` is that of the content.
    """
    if not isinstance(error, InvalidArgument):
        return error.at(None)
    for part in _PARTS:
        if error.metadata.get("field", "").endswith(part):
            return error.at(f"{path}{part}")
    return error.at(f"{path}.{content.part}")
