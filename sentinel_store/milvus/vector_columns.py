"""The vector column of a table by the collection's storage: its type and its values.

    storage          column            bytes of an element in memory
    float32          FLOAT_VECTOR      4
    float16          FLOAT16_VECTOR    2
    bfloat16         BFLOAT16_VECTOR   2
    int8             INT8_VECTOR       1
    int8, rescored   FLOAT_VECTOR      1 in the index; the float32 vectors stay on disk

Everywhere else vectors are float32 of length 1. An int8 vector is scaled so that its largest
element is 127; the scale is not kept, since a cosine does not depend on it. Writing a vector that
was read changes nothing: it is rounded to the same elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from pymilvus import DataType

from sentinel_core.vectors import Element
from sentinel_store.collections import VectorStorage
from sentinel_store.values import FloatArray

_INT8_MAX = 127
_TYPES = {
    Element.FLOAT32: DataType.FLOAT_VECTOR,
    Element.FLOAT16: DataType.FLOAT16_VECTOR,
    Element.BFLOAT16: DataType.BFLOAT16_VECTOR,
    Element.INT8: DataType.INT8_VECTOR,
}
# pymilvus tells the type of a vector by that of its array.
_DTYPES: dict[Element, npt.DTypeLike] = {
    Element.FLOAT32: np.float32,
    Element.FLOAT16: np.float16,
    Element.BFLOAT16: ml_dtypes.bfloat16,
    Element.INT8: np.int8,
}


def milvus_type(storage: VectorStorage) -> DataType:
    """Return the type of the column."""
    return _TYPES[storage.column]


def to_column(vector: FloatArray, storage: VectorStorage) -> npt.NDArray[Any]:
    """Return a float32 vector `[d]`, finite and not zero, as the column holds it: `[d]`."""
    element = storage.column
    if element is Element.FLOAT32:
        return vector
    if element is Element.INT8:
        vector = np.rint(vector * (_INT8_MAX / np.abs(vector).max()))
    return vector.astype(_DTYPES[element])


def from_column(value: Any, storage: VectorStorage) -> FloatArray:
    """Return a value of the column, as pymilvus or a row file has it, as float32 `[d]`.

    Rounded elements come back at length 1.
    """
    element = storage.column
    if element is Element.FLOAT32:
        return np.asarray(value, dtype=np.float32)
    # pymilvus has bytes from a search, and a list of them from a query.
    if isinstance(value, list) and isinstance(value[0], bytes):
        [value] = value
    data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
    vector = np.frombuffer(data, dtype=_DTYPES[element]).astype(np.float32)
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def to_query(vectors: Sequence[FloatArray], storage: VectorStorage) -> list[Any]:
    """Return the vectors of a search, as pymilvus takes them for this column."""
    if storage.column is Element.FLOAT32:
        # As lists: pymilvus packs an array's elements one by one, in five times the time.
        return [vector.tolist() for vector in vectors]
    return [to_column(vector, storage) for vector in vectors]


def bytes_stored(dimensions: int, storage: VectorStorage) -> int:
    """Return the size of a vector in a row, in bytes."""
    return dimensions * np.dtype(_DTYPES[storage.column]).itemsize
