"""Plain values that all layers share: field values, model references, consistency levels."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
FieldValue = str | int | float | bool | list[str]
Fields = dict[str, FieldValue]


class FieldType(enum.StrEnum):
    """Type of a declared field."""

    STRING = "string"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    STRING_LIST = "string_list"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that made a vector; vectors of equal fingerprints are comparable."""

    model: str
    revision: str
    fingerprint: str


class Consistency(enum.StrEnum):
    """How fresh a read is, from fastest to strictest."""

    EVENTUAL = "eventual"
    BOUNDED = "bounded"
    SESSION = "session"
    STRONG = "strong"
