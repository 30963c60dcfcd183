from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCallerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCallerResponse(_message.Message):
    __slots__ = ("id", "tenant", "grants", "access_controlled")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    ACCESS_CONTROLLED_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    access_controlled: bool
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ..., access_controlled: bool = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("scope", "collection", "is_prefix")
    class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCOPE_UNSPECIFIED: _ClassVar[Grant.Scope]
        SCOPE_SEARCH: _ClassVar[Grant.Scope]
        SCOPE_READ: _ClassVar[Grant.Scope]
        SCOPE_WRITE: _ClassVar[Grant.Scope]
        SCOPE_ADMIN: _ClassVar[Grant.Scope]
        SCOPE_EMBED: _ClassVar[Grant.Scope]
    SCOPE_UNSPECIFIED: Grant.Scope
    SCOPE_SEARCH: Grant.Scope
    SCOPE_READ: Grant.Scope
    SCOPE_WRITE: Grant.Scope
    SCOPE_ADMIN: Grant.Scope
    SCOPE_EMBED: Grant.Scope
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IS_PREFIX_FIELD_NUMBER: _ClassVar[int]
    scope: Grant.Scope
    collection: str
    is_prefix: bool
    def __init__(self, scope: _Optional[_Union[Grant.Scope, str]] = ..., collection: _Optional[str] = ..., is_prefix: bool = ...) -> None: ...
