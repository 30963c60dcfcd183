"""No name of the contract is reserved in a language that callers write, except for a known few."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from sentinel.common.v1 import content_pb2, error_reason_pb2
from sentinel.embedding.v1 import embedding_service_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
    filter_pb2,
    item_service_pb2,
    search_service_pb2,
)

FILES: tuple[FileDescriptor, ...] = (
    content_pb2.DESCRIPTOR,
    error_reason_pb2.DESCRIPTOR,
    embedding_service_pb2.DESCRIPTOR,
    collection_service_pb2.DESCRIPTOR,
    filter_pb2.DESCRIPTOR,
    item_service_pb2.DESCRIPTOR,
    search_service_pb2.DESCRIPTOR,
)

# Keywords; then names that generated classes and common macros have already.
RESERVED_FOR_FIELDS = {
    "C++": """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class
        compl concept const consteval constexpr constinit continue decltype default delete do
        double else enum explicit export extern false float for friend goto if inline int long
        mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
        public register requires return short signed sizeof static struct switch template this
        throw true try typedef typeid typename union unsigned using virtual void volatile while
        xor xor_eq assert errno major minor stdin stdout signals slots emit swap clear""",
    "C#": """abstract as base bool break byte case catch char checked class const continue decimal
        default delegate do double else enum event explicit extern false finally fixed float for
        foreach goto if implicit in int interface internal is lock long namespace new null object
        operator out override params private protected public readonly ref return sbyte sealed
        short sizeof stackalloc static string struct switch this throw true try typeof uint ulong
        unchecked unsafe ushort using virtual void volatile while types descriptor parser equals
        to_string get_hash_code write_to clone calculate_size""",
    "Go": """break case chan const continue default defer else fallthrough for func go goto if
        import interface map package range return select struct switch type var reset string
        proto_message proto_reflect descriptor""",
    "Java": """abstract assert boolean break byte case catch char class const continue default do
        double else enum extends final finally float for goto if implements import instanceof int
        interface long native new package private protected public return short static strictfp
        super switch synchronized this throw throws transient try void volatile while true false
        null serialized_size all_fields unknown_fields default_instance_for_type
        descriptor_for_type parser_for_type cached_size initialization_error_string""",
    "Kotlin": """as break class continue do else false for fun if in interface is null object
        package return super this throw true try typealias typeof val var when while""",
    "PHP": """abstract and array as break callable case catch class clone const continue declare
        default do echo else elseif empty enddeclare endfor endforeach endif endswitch endwhile
        exit extends final finally fn for foreach function global goto if implements include
        instanceof insteadof interface isset list match namespace new or print private protected
        public readonly require return static switch throw trait try unset use var while
        xor yield""",
    "Ruby": """alias and begin break case class def defined do else elsif end ensure false for if in
        module next nil not or redo rescue retry return self super then true undef unless until
        when while yield hash method methods send object_id freeze dup inspect display tap then
        to_h""",
    "Rust": """abstract as async await become box break const continue crate do dyn else enum extern
        false final fn for gen if impl in let loop macro match mod move mut override priv pub ref
        return self static struct super trait true try type typeof unsafe unsized use virtual
        where while yield encode encoded_len clear""",
    "Swift": """associatedtype break case catch class continue default defer deinit do else enum
        extension fallthrough false fileprivate for func guard if import in init inout internal is
        let nil operator private protocol public repeat rethrows return self static struct
        subscript super switch throw throws true try typealias var where while description
        debug_description hash_value is_initialized unknown_fields""",
    "TypeScript": """break case catch class const continue debugger default delete do else enum
        export extends false finally for function if import in instanceof new null return super
        switch this throw true try typeof var void while with constructor prototype to_string
        value_of to_json has_own_property""",
}
# What a program has in scope without an import, or names all the time.
COMMON_TYPES = {
    "C++": "string vector map optional variant function thread exception",
    "C#": """Action Array Attribute Boolean Byte Char Console Convert DateTime Decimal Delegate
        Double Enum Environment Exception Func Guid Index Int32 Int64 Lazy List Math Nullable
        Object Range String Task Thread TimeSpan Tuple Type Uri Version Void""",
    "Java": """Boolean Byte Character Class Collection Comparable Double Enum Error Exception Float
        Integer Iterable Iterator List Long Map Math Module Number Object Optional Override
        Process Record Runtime Set Short String System Thread Throwable Vector Void""",
    "Kotlin": """Any Array Boolean Byte Char Collection Comparable Double Enum Float Function Int
        Iterable Iterator List Long Map Nothing Number Pair Result Sequence Set Short String
        Throwable Triple Unit""",
    "PHP": """Array Bool Class Closure Countable Empty Error Exception Float Generator Int Iterable
        Iterator List Mixed Never Null Object Parent Self Static String Stringable
        True False Void""",
    "Ruby": """Array BasicObject Class Comparable Enumerable Enumerator Exception Fiber File Float
        Hash Integer Kernel Method Module Mutex Numeric Object Proc Process Queue Random Range
        Rational Regexp Set String Struct Symbol Thread Time""",
    "Rust": """Box Clone Copy Debug Default Drop Eq Err Fn From Into Iterator None Ok Option Ord
        Result Self Some String ToString Vec""",
    "Swift": """Any AnyObject Array Bool Character Codable Collection Data Date Dictionary Double
        Error Float Hashable Int Never Optional Protocol Result Self Sequence Set String Task Type
        UInt Void""",
    "TypeScript": """Array BigInt Blob Boolean Date Document Element Error Event File Function Image
        Map Math Number Object Option Promise Proxy Record Request Response Set
        String Symbol Text""",
}
# Published before this test, and harmless: generators write them in another way, or the package or
# prefix of the generated code keeps them apart. tests/contract/test_stubs_compile.py compiles them.
KNOWN_FIELDS = {
    "alias": "Ruby: a word after a dot is never a keyword",
    "operator": "C++: `operator_`; C#: `Operator`; Swift: in backticks",
    "params": "C#: `Params`",
    "type": "Go: `Type`; Rust: `r#type`",
}
KNOWN_TYPES = {
    "Collection": "Java, Kotlin: the import decides; Swift: has a prefix",
    "Image": "TypeScript: the import hides the browser's global",
    "Type": "C#: inside `Types`; Swift: `TypeEnum`",
    "Vector": "Java: java.util is not imported by itself",
}


def messages(parents: list[Descriptor]) -> Iterator[Descriptor]:
    for message in parents:
        yield message
        yield from messages(list(message.nested_types))


ALL = [message for file in FILES for message in messages(list(file.message_types_by_name.values()))]
ENUMS: list[EnumDescriptor] = [
    *(enum for file in FILES for enum in file.enum_types_by_name.values()),
    *(enum for message in ALL for enum in message.enum_types),
]


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def clashes(names: set[str], reserved: dict[str, str]) -> dict[str, set[str]]:
    words = {language: set(text.split()) for language, text in reserved.items()}
    return {
        name: {language for language, taken in words.items() if name in taken}
        for name in names
        if any(name in taken for taken in words.values())
    }


def test_no_further_field_is_a_reserved_word() -> None:
    fields = {field.name for message in ALL for field in message.fields}
    fields |= {oneof.name for message in ALL for oneof in message.oneofs}
    methods = {
        snake(method.name)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    found = clashes(fields | methods, RESERVED_FOR_FIELDS)
    assert set(found) == set(KNOWN_FIELDS), found


def test_no_further_type_has_the_name_of_a_common_type() -> None:
    services = {name for file in FILES for name in file.services_by_name}
    names = {one.name for one in (*ALL, *ENUMS)} | services
    found = clashes(names, COMMON_TYPES)
    assert set(found) == set(KNOWN_TYPES), found


def test_every_value_of_an_enum_begins_with_the_enum() -> None:
    """So no value is a macro of C or C++, such as IN, or a keyword where scopes are open."""
    for enum in ENUMS:
        prefix = f"{snake(enum.name).upper()}_"
        assert all(value.name.startswith(prefix) for value in enum.values), enum.full_name
        assert all(value.name[len(prefix)].isalpha() for value in enum.values), enum.full_name


def test_no_field_collides_with_what_java_makes_of_a_repeated_one() -> None:
    """A repeated `hits` has getHitsCount and getHitsList, as fields of these names would."""
    for message in ALL:
        names = {field.name for field in message.fields}
        made = {
            f"{field.name}_{ending}"
            for field in message.fields
            if field.is_repeated
            for ending in ("count", "list", "bytes", "map", "value")
        }
        assert not names & made, message.full_name
