"""Plain values the worker's layers hand to each other. Knows no grpc, no protobuf, no model."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Modality(enum.StrEnum):
    """What kind of content a batch holds; text and images never share a batch."""

    TEXT = "text"
    IMAGE = "image"


class Priority(enum.IntEnum):
    """Lower runs first: a person waits on INTERACTIVE, a machine on BULK."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the model's token ids, special tokens included, cut to the model's limit.

    Attributes:
        ids: int64 `[tokens]`, at most `ModelInfo.max_text_tokens` long.
        token_count: Tokens of the whole text, before it was cut.
    """

    ids: npt.NDArray[np.int64]
    token_count: int

    @property
    def truncated(self) -> bool:
        return self.token_count > len(self.ids)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a worker serves. Vectors of equal `fingerprint` are comparable.

    Attributes:
        name: Served name, for example `conse-minilm-lite0`.
        revision: Version of the weights (package versions, or a hub commit).
        fingerprint: Hex SHA-256 over weights, preprocessing, pooling and normalisation.
        dimensions: Length of every vector.
        max_text_tokens: Longest text in tokens, special tokens included.
        image_size: Side of the square the image tower sees, in pixels.
        logit_scale: What a cosine is multiplied by before softmax or sigmoid.
        runtime: Library that runs the forward pass, for example `onnxruntime`.
        device: `cpu` or `cuda:N`.
        dtype: Element type of the forward pass, for example `float32`.
        modalities: What the model embeds.
        supported_dimensions: Lengths that a vector may be cut to and still be one (Matryoshka
            models), longest first; empty: only `dimensions`.
        logit_bias: What is added to the scaled cosine; 0 but for models trained with a sigmoid.
        sigmoid: Whether a score is a sigmoid of its own logit; else a softmax over all of them.
        runtime_choice: Why this runtime and not another, in words with numbers.
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


class ModelLoadError(RuntimeError):
    """A model cannot be served: unknown name, part missing or altered, device not usable.

    Raised only while a worker starts. The message tells the operator what to do.
    """
