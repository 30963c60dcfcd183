from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FieldValue(_message.Message):
    __slots__ = ("string_value", "int_value", "double_value", "bool_value", "list_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int_value: int
    double_value: float
    bool_value: bool
    list_value: StringList
    def __init__(self, string_value: _Optional[str] = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., bool_value: bool = ..., list_value: _Optional[_Union[StringList, _Mapping]] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("comparison", "all_of", "any_of", "none_of")
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_FIELD_NUMBER: _ClassVar[int]
    comparison: Comparison
    all_of: Filters
    any_of: Filters
    none_of: Filters
    def __init__(self, comparison: _Optional[_Union[Comparison, _Mapping]] = ..., all_of: _Optional[_Union[Filters, _Mapping]] = ..., any_of: _Optional[_Union[Filters, _Mapping]] = ..., none_of: _Optional[_Union[Filters, _Mapping]] = ...) -> None: ...

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
    FIELD_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    field: str
    operator: Comparison.Operator
    values: _containers.RepeatedCompositeFieldContainer[FieldValue]
    def __init__(self, field: _Optional[str] = ..., operator: _Optional[_Union[Comparison.Operator, str]] = ..., values: _Optional[_Iterable[_Union[FieldValue, _Mapping]]] = ...) -> None: ...
