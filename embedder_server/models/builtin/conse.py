"""ConSE: text and images in MiniLM's space, the model that needs no download and no GPU.

An image becomes the mean of the *text* vectors of the ImageNet classes a small classifier sees in
it, weighted by their probabilities (Norouzi et al. 2014). Real semantic search, far below CLIP.
Class vectors are precomputed by `scripts/build_class_matrix.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedder_server.models.base import text_limit
from embedder_server.models.builtin import lite0, minilm
from embedder_server.models.builtin.part_files import PartFile
from embedder_server.types import FloatArray, ModelInfo, ModelLoadError, TokenizedText

if TYPE_CHECKING:
    from PIL import Image

NAME = "conse-minilm-lite0"

CLASS_MATRIX = PartFile(
    package="embedder_server.models.builtin.conse_data",
    path="class_matrix.npy",
    sha256="08bc7444683dad0928ea72322d3491d0fa330ab1464aaa494ce7879646a36b2a",
)
PART_FILES = (lite0.CHECKPOINT, minilm.WEIGHTS, minilm.VOCABULARY, CLASS_MATRIX)

# Turns cosines into probabilities. ConSE has no trained one; measured on 404 captioned photos, the
# cross-entropy of picking the right caption among 2, 5, 10 or 50 is least between 8 and 15.
# (CLIP's 100 would claim near certainty for what is right in every second case.)
LOGIT_SCALE = 12.0


@dataclass(frozen=True, slots=True)
class ConseRecipe:
    """All that decides a vector beside the weights; another value is another vector space.

    Attributes:
        softmax_temperature: Divides the logits; above 1 it lets weaker guesses speak.
        top_classes: Classes that take part; the long tail only adds noise.
        preprocessing: What happens to an image's pixels.
        pooling: How token vectors become one.
        max_text_tokens: Where texts are cut.
        normalisation: What the model does to vectors before the engine normalises them.
    """

    softmax_temperature: float = 1.5
    top_classes: int = 50
    preprocessing: str = lite0.PREPROCESSING
    pooling: str = minilm.POOLING
    max_text_tokens: int = minilm.MAX_TOKENS
    normalisation: str = "none"

    def fingerprint(self) -> str:
        """Return the hex SHA-256 that vectors must share to be comparable."""
        described = {
            "recipe": dataclasses.asdict(self),
            "parts": [part.sha256 for part in PART_FILES],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class ConseModel:
    """`EmbeddingModel` of MiniLM and EfficientNet-Lite0, 384-d, English.

    Thread-safety is the protocol's: `tokenize` and `preprocess` anywhere, `embed_*` on one thread.
    """

    def __init__(
        self,
        text: minilm.MiniLmTower,
        image: lite0.Lite0Tower,
        class_matrix: FloatArray,
        info: ModelInfo,
        recipe: ConseRecipe,
    ) -> None:
        self._text = text
        self._image = image
        self._class_matrix = class_matrix
        self._info = info
        self._recipe = recipe

    @classmethod
    def load(cls, device: str, threads: int, max_text_tokens: int = 0) -> ConseModel:
        """Return the model, ready to serve; takes about a second.

        Args:
            device: `cpu` or `cuda:N`.
            threads: CPU threads of one forward pass.
            max_text_tokens: Where longer texts are cut; 0: at 256.

        Raises:
            ModelLoadError: A part is missing or altered, or the device is not usable.
        """
        recipe = ConseRecipe(max_text_tokens=text_limit(max_text_tokens, minilm.MAX_TOKENS))
        packaged = [part for part in PART_FILES if part.distribution]
        info = ModelInfo(
            name=NAME,
            revision="+".join(f"{part.distribution}-{part.version}" for part in packaged),
            fingerprint=recipe.fingerprint(),
            dimensions=minilm.DIMENSIONS,
            max_text_tokens=recipe.max_text_tokens,
            image_size=lite0.IMAGE_SIZE,
            logit_scale=LOGIT_SCALE,
            runtime="onnxruntime",
            device=device,
            dtype="float32",
        )
        return cls(
            minilm.MiniLmTower(device, threads, recipe.max_text_tokens),
            lite0.Lite0Tower(device, threads),
            _read_class_matrix(),
            info,
            recipe,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    def tokenize(self, text: str) -> TokenizedText:
        """Return the token ids of `text`, cut to the model's limit."""
        return self._text.tokenize(text)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.generic]:
        """Return float32 `[3, 224, 224]` for one RGB image of any size."""
        return lite0.preprocess(image)

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, 384]`, row i for text i, not normalised."""
        return self._text.embed(texts)

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, 384]`, row i for image i, not normalised."""
        logits = self._image.logits(images)
        weights = class_weights(logits, self._recipe)
        # A loop on purpose: BLAS blocks a matrix product by its size, so a row of a batched one
        # may differ in the last bits from the same image alone. It costs microseconds.
        return np.stack([row @ self._class_matrix for row in weights])

    def close(self) -> None:
        """Do nothing: onnxruntime frees a session's memory with the object."""


def class_weights(logits: FloatArray, recipe: ConseRecipe) -> FloatArray:
    """Return float32 `[n, 1000]`, rows sum to 1 and have `recipe.top_classes` entries above 0."""
    scaled = logits / recipe.softmax_temperature
    # Softmax over the kept classes alone equals softmax over all, cut and renormalised.
    dropped = np.argpartition(-scaled, recipe.top_classes, axis=1)[:, recipe.top_classes :]
    np.put_along_axis(scaled, dropped, -np.inf, axis=1)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _read_class_matrix() -> FloatArray:
    matrix = np.load(io.BytesIO(CLASS_MATRIX.read()), allow_pickle=False)
    if matrix.shape != (lite0.CLASS_COUNT, minilm.DIMENSIONS):
        msg = f"the class matrix has shape {matrix.shape}"
        raise ModelLoadError(msg)
    return np.asarray(matrix, dtype=np.float32)
