"""Checks on vectors that callers bring along."""

from __future__ import annotations

import numpy as np

from search_server.types.collections import CollectionInfo
from search_server.types.values import FloatArray
from sentinel_core.errors import InvalidArgument


def check_vector(vector: FloatArray, collection: CollectionInfo, field: str) -> FloatArray:
    """Return `vector` L2-normalised.

    Raises:
        InvalidArgument: Its dimensions are not the collection's, or it has no direction.
    """
    if len(vector) != collection.dimensions:
        raise InvalidArgument(
            "VECTOR_DIMENSIONS",
            f"the vector has {len(vector)} dimensions, collection {collection.name} has "
            f"{collection.dimensions}",
            field=field,
            expected=collection.dimensions,
        )
    # float64, since the square of a large finite float32 overflows float32.
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0.0:
        raise InvalidArgument(
            "VECTOR_INVALID", "the vector must be finite and not all zeros", field=field
        )
    return (vector / norm).astype(np.float32)
