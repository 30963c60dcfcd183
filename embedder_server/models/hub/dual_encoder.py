"""The model every CLIP-like family becomes: a tokenizer, a picture recipe and two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedder_server.models.hub.families import Recipe
from embedder_server.models.runtimes.base import Tower
from embedder_server.texts.batches import TextBatches
from embedder_server.texts.tokenizer import TextTokenizer
from embedder_server.types import FloatArray, Modality, ModelInfo, TokenizedText

if TYPE_CHECKING:
    from PIL import Image


class TwoTowers:
    """Both networks in one runtime, fed as the model wants it. For one thread at a time.

    Args:
        towers: A network for text and one for pictures.
        batches: How texts share a batch.
        dimensions: Length of a vector.
    """

    def __init__(
        self, towers: Mapping[Modality, Tower], batches: TextBatches, dimensions: int
    ) -> None:
        self._text, self._image = towers[Modality.TEXT], towers[Modality.IMAGE]
        self._takes_mask = "attention_mask" in self._text.inputs
        [self._pixels] = self._image.inputs
        self._batches = batches
        self._dimensions = dimensions

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for text i, not normalised."""
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for rows, ids, mask in self._batches.split(texts):
            feed = {"input_ids": ids}
            if self._takes_mask:
                feed["attention_mask"] = mask
            vectors[rows] = self._text.run(feed)
        return vectors

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for image i, not normalised."""
        return self._image.run({self._pixels: np.stack(images)})

    def close(self) -> None:
        """Release both networks' memory."""
        self._text.close()
        self._image.close()


class DualEncoder:
    """`EmbeddingModel` of a CLIP-like family.

    Thread-safety is the protocol's: `tokenize` and `preprocess` anywhere, `embed_*` on one thread.
    """

    def __init__(
        self, recipe: Recipe, tokenizer: TextTokenizer, towers: TwoTowers, info: ModelInfo
    ) -> None:
        self._image = recipe.image
        self._tokenizer = tokenizer
        self._towers = towers
        self._info = info

    @property
    def info(self) -> ModelInfo:
        return self._info

    def tokenize(self, text: str) -> TokenizedText:
        """Return the token ids of `text`, cut to the model's limit."""
        return self._tokenizer.tokenize(text)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.generic]:
        """Return the float32 input of the image tower for one RGB image of any size."""
        return self._image.pixels(image)

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for text i, not normalised."""
        return self._towers.embed_texts(texts)

    def embed_images(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, dimensions]`, row i for image i, not normalised."""
        return self._towers.embed_images(images)

    def close(self) -> None:
        self._towers.close()
