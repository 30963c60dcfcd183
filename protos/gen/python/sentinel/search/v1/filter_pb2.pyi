from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FieldValue(_message.Message):
    __slots__ = ("string_value", "int_value", "double_value", "bool_value", "list_value", "timestamp_value", "geo_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_VALUE_FIELD_NUMBER: _ClassVar[int]
    GEO_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int_value: int
    double_value: float
    bool_value: bool
    list_value: StringList
    timestamp_value: _timestamp_pb2.Timestamp
    geo_value: GeoPoint
    def __init__(self, string_value: _Optional[str] = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., bool_value: bool = ..., list_value: _Optional[_Union[StringList, _Mapping]] = ..., timestamp_value: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., geo_value: _Optional[_Union[GeoPoint, _Mapping]] = ...) -> None: ...

class GeoPoint(_message.Message):
    __slots__ = ("latitude", "longitude")
    LATITUDE_FIELD_NUMBER: _ClassVar[int]
    LONGITUDE_FIELD_NUMBER: _ClassVar[int]
    latitude: float
    longitude: float
    def __init__(self, latitude: _Optional[float] = ..., longitude: _Optional[float] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("comparison", "all_of", "any_of", "none_of", "geo")
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_FIELD_NUMBER: _ClassVar[int]
    GEO_FIELD_NUMBER: _ClassVar[int]
    comparison: Comparison
    all_of: Filters
    any_of: Filters
    none_of: Filters
    geo: GeoComparison
    def __init__(self, comparison: _Optional[_Union[Comparison, _Mapping]] = ..., all_of: _Optional[_Union[Filters, _Mapping]] = ..., any_of: _Optional[_Union[Filters, _Mapping]] = ..., none_of: _Optional[_Union[Filters, _Mapping]] = ..., geo: _Optional[_Union[GeoComparison, _Mapping]] = ...) -> None: ...

class GeoComparison(_message.Message):
    __slots__ = ("field", "bounds", "circle")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    field: str
    bounds: GeoBounds
    circle: GeoCircle
    def __init__(self, field: _Optional[str] = ..., bounds: _Optional[_Union[GeoBounds, _Mapping]] = ..., circle: _Optional[_Union[GeoCircle, _Mapping]] = ...) -> None: ...

class GeoBounds(_message.Message):
    __slots__ = ("south", "west", "north", "east")
    SOUTH_FIELD_NUMBER: _ClassVar[int]
    WEST_FIELD_NUMBER: _ClassVar[int]
    NORTH_FIELD_NUMBER: _ClassVar[int]
    EAST_FIELD_NUMBER: _ClassVar[int]
    south: float
    west: float
    north: float
    east: float
    def __init__(self, south: _Optional[float] = ..., west: _Optional[float] = ..., north: _Optional[float] = ..., east: _Optional[float] = ...) -> None: ...

class GeoCircle(_message.Message):
    __slots__ = ("center", "radius_meters")
    CENTER_FIELD_NUMBER: _ClassVar[int]
    RADIUS_METERS_FIELD_NUMBER: _ClassVar[int]
    center: GeoPoint
    radius_meters: float
    def __init__(self, center: _Optional[_Union[GeoPoint, _Mapping]] = ..., radius_meters: _Optional[float] = ...) -> None: ...

class Filters(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("field", "operator", "values")
    class Operator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATOR_UNSPECIFIED: _ClassVar[Comparison.Operator]
        OPERATOR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_NOT_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_LESS: _ClassVar[Comparison.Operator]
        OPERATOR_LESS_OR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_GREATER: _ClassVar[Comparison.Operator]
        OPERATOR_GREATER_OR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_IN: _ClassVar[Comparison.Operator]
        OPERATOR_PREFIX: _ClassVar[Comparison.Operator]
        OPERATOR_EXISTS: _ClassVar[Comparison.Operator]
        OPERATOR_LIST_CONTAINS: _ClassVar[Comparison.Operator]
        OPERATOR_NOT_IN: _ClassVar[Comparison.Operator]
        OPERATOR_CONTAINS: _ClassVar[Comparison.Operator]
    OPERATOR_UNSPECIFIED: Comparison.Operator
    OPERATOR_EQUAL: Comparison.Operator
    OPERATOR_NOT_EQUAL: Comparison.Operator
    OPERATOR_LESS: Comparison.Operator
    OPERATOR_LESS_OR_EQUAL: Comparison.Operator
    OPERATOR_GREATER: Comparison.Operator
    OPERATOR_GREATER_OR_EQUAL: Comparison.Operator
    OPERATOR_IN: Comparison.Operator
    OPERATOR_PREFIX: Comparison.Operator
    OPERATOR_EXISTS: Comparison.Operator
    OPERATOR_LIST_CONTAINS: Comparison.Operator
    OPERATOR_NOT_IN: Comparison.Operator
    OPERATOR_CONTAINS: Comparison.Operator
    FIELD_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    field: str
    operator: Comparison.Operator
    values: _containers.RepeatedCompositeFieldContainer[FieldValue]
    def __init__(self, field: _Optional[str] = ..., operator: _Optional[_Union[Comparison.Operator, str]] = ..., values: _Optional[_Iterable[_Union[FieldValue, _Mapping]]] = ...) -> None: ...
