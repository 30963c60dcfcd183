"""Say which name was probably meant when a keyword argument has a wrong one.

Python itself does so from 3.13 on, but not for arguments that a function collects, such as those
of `SearchOptions`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args, get_type_hints, is_typeddict

C = TypeVar("C", bound=type)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'limit'?` if one of the known names is close to `name`, else ""."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def suggest_for_calls(owner: type) -> None:
    """Have all public methods that a class defines name the closest argument to a wrong one."""
    for name, method in list(vars(owner).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(owner, name, _suggesting(method, name))


def suggest_for_fields(owner: C) -> C:
    """Have the constructor of a class name the closest argument to a wrong one. A decorator."""
    owner.__init__ = _suggesting(owner.__init__, owner.__name__)  # type: ignore[misc]
    return owner


def _suggesting(function: Callable[..., Any], shown: str) -> Callable[..., Any]:
    known = _argument_names(function)

    def check(given: dict[str, Any]) -> None:
        if not given.keys() <= known:
            wrong = sorted(given.keys() - known)[0]
            raise TypeError(
                f"{shown}() got an unexpected keyword argument {wrong!r}"
                f"{did_you_mean(wrong, known)}"
            )

    if inspect.iscoroutinefunction(function):  # and must remain one, for mocks and frameworks

        @functools.wraps(function)
        async def awaited(*args: Any, **given: Any) -> Any:
            check(given)
            return await function(*args, **given)

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **given: Any) -> Any:
        check(given)
        return function(*args, **given)

    return called


def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of all keyword arguments, those of `**options: Unpack[…]` included."""
    names: set[str] = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(parameter.name)
            continue
        annotation = get_type_hints(function)[parameter.name]
        names.update(
            name
            for options in get_args(annotation)
            if is_typeddict(options)
            for name in options.__annotations__
        )
    return frozenset(names - {"self"})
