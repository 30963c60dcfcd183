"""Raw values of a manifest to the types that a collection declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sentinel_core.errors import InvalidArgument
from sentinel_store.values import Fields, FieldType, FieldValue

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def typed(raw: Mapping[str, Any], fields: Mapping[str, FieldType]) -> Fields:
    """Return the values of declared fields; text (all that CSV has) is read as their type.

    Raises:
        InvalidArgument: FIELD_TYPE, a text does not say a value of the type. Values of other
            types are for the collection's own checks.
    """
    return {name: _typed(value, fields[name], name) for name, value in raw.items()}


def _typed(value: Any, field_type: FieldType, name: str) -> FieldValue:
    try:
        match field_type, value:
            case FieldType.INT64, str():
                return int(value)
            case FieldType.INT64, float() if value.is_integer():
                return int(value)  # pandas makes floats of a column with gaps
            case FieldType.DOUBLE, str():
                return float(value)
            case FieldType.BOOL, str():
                return _BOOLS[value.lower()]
            case FieldType.STRING_LIST, str():
                return [str(word) for word in json.loads(value)]
    except (ValueError, KeyError, TypeError) as error:
        kind = f"{field_type} (a JSON list)" if field_type is FieldType.STRING_LIST else field_type
        raise InvalidArgument(
            "FIELD_TYPE", f"field {name!r} is a {kind}, which {value[:80]!r} is not", name=name
        ) from error
    return value  # type: ignore[no-any-return]
