"""Between the contract's fields and filters and the gateway's plain types."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping

from search_server.types.queries import Comparison, Filter, Group, Junction, Operator
from search_server.types.values import Consistency, Fields, FieldType, FieldValue
from sentinel.search.v1 import collection_service_pb2, filter_pb2, search_service_pb2
from sentinel_core.errors import InvalidArgument

_MAX_FILTER_DEPTH = 32

_OPERATORS = {
    filter_pb2.Comparison.OPERATOR_EQUAL: Operator.EQUAL,
    filter_pb2.Comparison.OPERATOR_NOT_EQUAL: Operator.NOT_EQUAL,
    filter_pb2.Comparison.OPERATOR_LESS: Operator.LESS,
    filter_pb2.Comparison.OPERATOR_LESS_OR_EQUAL: Operator.LESS_OR_EQUAL,
    filter_pb2.Comparison.OPERATOR_GREATER: Operator.GREATER,
    filter_pb2.Comparison.OPERATOR_GREATER_OR_EQUAL: Operator.GREATER_OR_EQUAL,
    filter_pb2.Comparison.OPERATOR_IN: Operator.IN,
    filter_pb2.Comparison.OPERATOR_NOT_IN: Operator.NOT_IN,
    filter_pb2.Comparison.OPERATOR_PREFIX: Operator.PREFIX,
    filter_pb2.Comparison.OPERATOR_EXISTS: Operator.EXISTS,
    filter_pb2.Comparison.OPERATOR_LIST_CONTAINS: Operator.LIST_CONTAINS,
}
_FIELD_TYPES = {
    collection_service_pb2.FieldSchema.TYPE_STRING: FieldType.STRING,
    collection_service_pb2.FieldSchema.TYPE_INT64: FieldType.INT64,
    collection_service_pb2.FieldSchema.TYPE_DOUBLE: FieldType.DOUBLE,
    collection_service_pb2.FieldSchema.TYPE_BOOL: FieldType.BOOL,
    collection_service_pb2.FieldSchema.TYPE_STRING_LIST: FieldType.STRING_LIST,
}
_CONSISTENCIES = {
    search_service_pb2.CONSISTENCY_EVENTUAL: Consistency.EVENTUAL,
    search_service_pb2.CONSISTENCY_BOUNDED: Consistency.BOUNDED,
    search_service_pb2.CONSISTENCY_SESSION: Consistency.SESSION,
    search_service_pb2.CONSISTENCY_STRONG: Consistency.STRONG,
}
_CONSISTENCIES_TO_WIRE = {ours: theirs for theirs, ours in _CONSISTENCIES.items()}
_FIELD_TYPES_TO_WIRE = {ours: theirs for theirs, ours in _FIELD_TYPES.items()}


def filter_from(message: filter_pb2.Filter, depth: int = 1) -> Filter:
    """Read a filter; whether its fields exist is for the use case to check."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _bad_filter("a filter sets one of comparison, all_of, any_of or none_of")
    if depth > _MAX_FILTER_DEPTH:
        raise _bad_filter(f"filters nest at most {_MAX_FILTER_DEPTH} deep")
    if kind == "comparison":
        comparison = message.comparison
        operator = _OPERATORS.get(comparison.operator)
        if operator is None:
            raise _bad_filter(f"comparison of {comparison.field!r} needs an operator")
        values = tuple(value_from(value, comparison.field) for value in comparison.values)
        return Comparison(comparison.field, operator, values)
    filters = getattr(message, kind).filters
    if not filters:
        raise _bad_filter(f"{kind} needs at least one filter")
    return Group(Junction(kind), tuple(filter_from(inner, depth + 1) for inner in filters))


def _bad_filter(message: str) -> InvalidArgument:
    return InvalidArgument("FILTER_INVALID", message, field="filter")


def value_from(value: filter_pb2.FieldValue, name: str) -> FieldValue:
    """Read one typed value."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "bool_value":
            return value.bool_value
        case "double_value" if math.isfinite(value.double_value):
            return value.double_value
        case "list_value":
            return list(value.list_value.values)
        case _:
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {name!r} needs a value, and a finite one",
                field=f"fields[{name}]",
                name=name,
            )


def _value_to(value: FieldValue) -> filter_pb2.FieldValue:
    match value:
        case bool():  # before int: a bool is one
            return filter_pb2.FieldValue(bool_value=value)
        case int():
            return filter_pb2.FieldValue(int_value=value)
        case float():
            return filter_pb2.FieldValue(double_value=value)
        case str():
            return filter_pb2.FieldValue(string_value=value)
        case list():
            return filter_pb2.FieldValue(list_value=filter_pb2.StringList(values=value))


def fields_from(fields: Mapping[str, filter_pb2.FieldValue]) -> Fields:
    return {name: value_from(value, name) for name, value in fields.items()}


def fields_to(fields: Fields) -> dict[str, filter_pb2.FieldValue]:
    return {name: _value_to(value) for name, value in fields.items()}


def schema_from(
    schemas: Iterable[collection_service_pb2.FieldSchema],
) -> dict[str, FieldType]:
    """Read declared fields."""
    fields: dict[str, FieldType] = {}
    for index, schema in enumerate(schemas):
        where = f"collection.fields[{index}]"
        if schema.type not in _FIELD_TYPES:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE", f"field {schema.name!r} needs a type", field=where
            )
        if schema.name in fields:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE", f"field {schema.name!r} is declared twice", field=where
            )
        fields[schema.name] = _FIELD_TYPES[schema.type]
    return fields


def schema_to(
    fields: Mapping[str, FieldType], indexed: Container[str], full_text: Container[str]
) -> list[collection_service_pb2.FieldSchema]:
    return [
        collection_service_pb2.FieldSchema(
            name=name,
            type=_FIELD_TYPES_TO_WIRE[field_type],
            indexed=name in indexed,
            full_text=name in full_text,
        )
        for name, field_type in fields.items()
    ]


def consistency_from(message: search_service_pb2.Consistency, where: str) -> Consistency | None:
    """Read how fresh a read is to be; None where it is not said."""
    if message == search_service_pb2.CONSISTENCY_UNSPECIFIED:
        return None
    if message not in _CONSISTENCIES:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE", f"there is no consistency {message}", field=where
        )
    return _CONSISTENCIES[message]


def consistency_to(consistency: Consistency) -> search_service_pb2.Consistency:
    return _CONSISTENCIES_TO_WIRE[consistency]
