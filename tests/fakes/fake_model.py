"""A model that costs nothing, always returns the same vectors, and fails when a test says so.

Text and images share one space: a text that names a colour, and a picture of that colour, are
close; any other word or pixel only adds its own direction.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, Modality, ModelInfo
from sentinel_core.vectors import Role

_COLOURS = ("black", "white", "red", "lime", "blue", "yellow", "cyan", "magenta", "gray", "orange")
_RGB = np.array([ImageColor.getrgb(name) for name in _COLOURS], dtype=np.float32)
# How much of an image's vector is its own; the rest is its colour's.
_OWN_SHARE = 0.1


@dataclass(slots=True)
class Faults:
    """Faults of the next calls. Tests change them while the model is in use.

    Attributes:
        error: Raised by every forward pass, if set.
        wrong_rows: Rows left out of every result.
        nan_for: Payloads whose text is among these get NaN; `zero_for` a zero vector.
        max_batch: Larger batches raise `memory_error`; 0: none do.
        seconds_per_batch: Time every forward pass takes.
        seconds_per_item: Additional time for each payload.
        signals: Sent to its own process by a batch with a payload whose text has the key.
        gate: A forward pass waits until it is set.
    """

    error: BaseException | None = None
    wrong_rows: int = 0
    nan_for: set[str] = field(default_factory=set)
    zero_for: set[str] = field(default_factory=set)
    max_batch: int = 0
    memory_error: Exception = field(default_factory=MemoryError)
    seconds_per_batch: float = 0.0
    seconds_per_item: float = 0.0
    signals: dict[str, int] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of a tower: the texts, or the images' colours."""

    modality: Modality
    contents: tuple[str, ...]


class FakeText(TokenizedText):
    """Tokens that remember their text."""

    text: str


class FakeModel:
    """Implements `EmbeddingModel`.

    Its vectors are not of length 1: a text's is the sum of its words'. If it is asymmetric, a query
    has two words before it that no document has. If it embeds images with texts, the words of the
    text are added to the image's vector.

    Attributes:
        faults: Faults of the next calls; the gate is open.
        batches: Every batch it was called with, in order.
        threads: Names of the threads that called a tower.
        closed: Whether it was closed.
    """

    def __init__(
        self,
        dimensions: int = 16,
        *,
        max_text_tokens: int = 32,
        name: str = "fake-model",
        modalities: tuple[Modality, ...] = tuple(Modality),
        supported_dimensions: tuple[int, ...] = (),
        asymmetric: bool = False,
        embeds_image_with_text: bool = False,
    ) -> None:
        self.info = ModelInfo(
            name=name,
            revision="1",
            fingerprint=hashlib.sha256(f"{name}/{dimensions}".encode()).hexdigest(),
            dimensions=dimensions,
            max_text_tokens=max_text_tokens,
            image_size=32,
            logit_scale=10.0,
            runtime="numpy",
            device="cpu",
            dtype="float32",
            modalities=modalities,
            supported_dimensions=supported_dimensions,
            runtime_choice="the only one",
            asymmetric=asymmetric,
            embeds_image_with_text=embeds_image_with_text,
        )
        self.preprocess: Callable[[Image.Image], np.ndarray[Any, Any]] = shrink
        self.faults = Faults()
        self.faults.gate.set()
        self.batches: list[Batch] = []
        self.threads: set[str] = set()
        self.closed = False

    def tokenize(self, text: str, role: Role = Role.DOCUMENT) -> TokenizedText:
        if self.info.asymmetric and role is Role.QUERY:
            text = f"query for {text}"
        words = text.lower().split()
        ids = np.array([_word_id(word) for word in words], dtype=np.int64)
        tokens = FakeText(ids[: self.info.max_text_tokens], len(words))
        object.__setattr__(tokens, "text", text)
        return tokens

    def image_input(self, pixels: Any, text: str, role: Role) -> tuple[Any, TokenizedText | None]:
        if not self.info.embeds_image_with_text:
            return pixels, None
        tokens = self.tokenize(text, role)
        return (pixels, tokens), tokens

    def embed_texts(self, texts: Sequence[TokenizedText]) -> FloatArray:
        names = [text.text for text in texts if isinstance(text, FakeText)]
        rows = [sum(self._direction(int(i)) for i in text.ids) for text in texts]
        return self._forward(Modality.TEXT, names, np.array(rows))

    def embed_images(self, images: Sequence[Any]) -> FloatArray:
        names, rows = [], []
        for image in images:
            pixels, beside = image if isinstance(image, tuple) else (image, None)
            mean = pixels.reshape(-1, 3).mean(axis=0)
            name = _COLOURS[int(np.argmin(np.abs(_RGB - mean).sum(axis=1)))]
            own = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:4], "big")
            names.append(name)
            rows.append(
                (1 - _OWN_SHARE) * self._direction(_word_id(name))
                + _OWN_SHARE * self._direction(own)
            )
            if beside is not None:
                rows[-1] = sum((self._direction(int(i)) for i in beside.ids), rows[-1])
        return self._forward(Modality.IMAGE, names, np.array(rows))

    def close(self) -> None:
        self.closed = True

    def _direction(self, seed: int) -> FloatArray:
        vector = np.random.default_rng(seed).standard_normal(self.info.dimensions)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def _forward(self, modality: Modality, names: list[str], rows: Any) -> FloatArray:
        self.threads.add(threading.current_thread().name)
        self.batches.append(Batch(modality, tuple(names)))
        faults = self.faults
        for word, number in faults.signals.items():
            if any(word in name for name in names):
                os.kill(os.getpid(), number)
        faults.gate.wait()
        time.sleep(faults.seconds_per_batch + faults.seconds_per_item * len(names))
        if faults.error is not None:
            raise faults.error
        if faults.max_batch and len(names) > faults.max_batch:
            raise faults.memory_error
        vectors = np.asarray(rows, dtype=np.float32)
        for index, name in enumerate(names):
            if name in faults.nan_for:
                vectors[index, 0] = np.nan
            if name in faults.zero_for:
                vectors[index] = 0
        return vectors[: len(vectors) - faults.wrong_rows]


def shrink(image: Image.Image) -> np.ndarray[Any, Any]:
    assert image.mode == "RGB"
    return np.asarray(image.resize((8, 8), Image.Resampling.BOX))


def shrink_and_note(file: str, image: Image.Image) -> np.ndarray[Any, Any]:
    """As `shrink`, and append a byte to a file."""
    with open(file, "ab") as notes:
        notes.write(b".")
    return shrink(image)


def _word_id(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
