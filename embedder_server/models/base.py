"""What the engine needs of a model, and nothing else. One file per family implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from embedder_server.types import FloatArray, ModelInfo, ModelLoadError, TokenizedText

if TYPE_CHECKING:
    from PIL import Image


# Special tokens take two or three of them.
MIN_TEXT_TOKENS = 8


def text_limit(wanted: int, own: int) -> int:
    """Return where a model that reads `own` tokens cuts texts; `wanted` 0: at its own limit.

    Raises:
        ModelLoadError: The model reads less, or the limit leaves no room for words.
    """
    if wanted in (0, own):
        return own
    if not MIN_TEXT_TOKENS <= wanted < own:
        msg = f"--max-text-tokens must be {MIN_TEXT_TOKENS} to {own} for this model, not {wanted}"
        raise ModelLoadError(msg)
    return wanted


class EmbeddingModel(Protocol):
    """Two towers into one space.

    `tokenize` and `preprocess` run on several threads at once and must be thread-safe;
    `embed_texts` and `embed_images` are only ever called from the engine's one device thread.
    """

    @property
    def info(self) -> ModelInfo: ...

    def tokenize(self, text: str) -> TokenizedText:
        """Return the token ids of `text`, cut to the model's limit."""
        ...

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.generic]:
        """Return the image tower's input for one decoded RGB image, any size."""
        ...

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for text i, not yet normalised."""
        ...

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for image i, not yet normalised."""
        ...

    def close(self) -> None:
        """Release the device. Nothing is called afterwards."""
        ...
