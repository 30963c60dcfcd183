"""The model interface: what selects a model, and what the engine calls on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, ModelInfo, ModelLoadError
from sentinel_core.vectors import Role

if TYPE_CHECKING:
    from PIL import Image

# Special tokens take two or three of them.
MIN_TEXT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model to load and how to run it."""

    name: str  # a built-in name, a folder, or a hub id such as `jinaai/jina-clip-v1`
    device: str = "cpu"  # or `cuda:N`
    threads: int = 1  # of the CPU, in one forward pass
    revision: str | None = None  # commit, tag or branch of a hub model; None: the newest
    runtime: str = "auto"  # or a name such as `openvino-bf16`; the built-in model has only its own
    cache_dir: Path | None = None  # for exported networks; None: `~/.cache/sentinel`
    trust_remote_code: bool = False  # run a model's own code; `revision` must then be a commit
    max_text_tokens: int = 0  # where longer texts are cut; 0: at the model's own limit
    max_image_tokens: int = 0  # of a vision-language model; 0: as many as it was published with

    def text_limit(self, own: int) -> int:
        """Return where to cut texts for a model that reads `own` tokens.

        Raises:
            ModelLoadError: The model reads less, or the limit leaves no room for words.
        """
        limit = self.max_text_tokens
        if limit in (0, own):
            return own
        if not MIN_TEXT_TOKENS <= limit < own:
            raise ModelLoadError(
                f"--max-text-tokens must be {MIN_TEXT_TOKENS} to {own} for this model, not {limit}"
            )
        return limit

    def check_fixed_images(self) -> None:
        """Raise `ModelLoadError` if image tokens are chosen for a model that has none."""
        if self.max_image_tokens:
            raise ModelLoadError(
                "--max-image-tokens is for vision-language models; this one resizes all images to "
                "one size: omit it"
            )


class EmbeddingModel(Protocol):
    """Two networks that embed text and images in one vector space.

    `tokenize` must be thread-safe. `preprocess` runs in the processes that decode images: it must
    pickle, and neither it nor its module may need the model. `embed_texts` and `embed_images` are
    only called from the engine's device thread.
    """

    @property
    def info(self) -> ModelInfo: ...

    def tokenize(self, text: str, role: Role = Role.DOCUMENT) -> TokenizedText:
        """Return the token ids of `text`, with what its role adds, cut to the model's limit."""
        ...

    @property
    def preprocess(self) -> Callable[[Image.Image], npt.NDArray[np.generic]]:
        """Return what makes the image network's input of one decoded RGB image of any size."""
        ...

    def image_input(
        self, pixels: npt.NDArray[Any], text: str, role: Role
    ) -> tuple[Any, TokenizedText | None]:
        """Return what `embed_images` takes for one preprocessed image.

        Args:
            pixels: What `preprocess` returned.
            text: To embed together with it; empty unless `ModelInfo.embeds_image_with_text`.
            role: As in `tokenize`.

        Returns:
            The network's input; and the ids of image and text, if the model reads both as one.
        """
        ...

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for text i, not normalised."""
        ...

    def embed_images(self, images: Sequence[Any]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for image i, not normalised."""
        ...

    def close(self) -> None:
        """Release the device. Nothing is called afterwards."""
        ...
