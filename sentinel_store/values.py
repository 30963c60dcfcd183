"""Plain values that all layers share: field values, model references, consistency levels."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """A place on Earth, in degrees of WGS 84: north of the equator, and east of Greenwich."""

    latitude: float
    longitude: float

    @property
    def is_on_earth(self) -> bool:
        """Whether both are in range; NaN is not."""
        return -90 <= self.latitude <= 90 and -180 <= self.longitude <= 180

    def __str__(self) -> str:
        return f"{self.latitude:g}, {self.longitude:g}"


# A datetime has a time zone; those of stored items are in UTC.
FieldValue = str | int | float | bool | list[str] | datetime | GeoPoint
Fields = dict[str, FieldValue]


class FieldType(enum.StrEnum):
    """Type of a declared field."""

    STRING = "string"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    STRING_LIST = "string_list"
    TIMESTAMP = "timestamp"
    GEO = "geo"


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
