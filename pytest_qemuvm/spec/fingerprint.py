"""What a template's setup is made of, as a digest: the same as long as it would do the same."""

from __future__ import annotations

import functools
import hashlib
import types
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN = (str, bytes, int, float, bool, complex, type(None), type(...), PurePath)
_DEEPEST = 50


def fingerprint(setup: object) -> str:
    """Return a digest of commands, or of a function: the same as long as it would do the same.

    Of a function count its code, its defaults, what it closes over, and the functions and plain values of its
    own module that it names; what other modules do is theirs, and counts by name. Raises SpecError for a
    function that depends on something of which nobody can tell whether it is the same as the last time, such
    as an open file.
    """
    digest = hashlib.sha256()
    for part in _parts(setup, frozenset(), 0):
        digest.update(f"{len(part)}:{part}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _parts(value: Any, seen: frozenset[int], depth: int) -> list[str]:
    if isinstance(value, _PLAIN):
        return [type(value).__name__, repr(value)]
    if id(value) in seen:
        return ["again"]
    if depth > _DEEPEST:
        raise SpecError("a setup is nested too deeply to be told from another")
    for kinds, parts_of in _KINDS:
        if isinstance(value, kinds):
            return parts_of(value, seen | {id(value)}, depth)
    raise SpecError(
        f"a setup depends on {value!r}, of which nobody can tell whether it is the same as the last time",
        hint="let the setup take what it needs from strings and numbers, or say start='cold'",
    )


def _all(values: Any, seen: frozenset[int], depth: int) -> list[str]:
    return [part for value in values for part in _parts(value, seen, depth + 1)]


def _function(function: types.FunctionType, seen: frozenset[int], depth: int) -> list[str]:
    parts = ["function", function.__qualname__, *_parts(function.__code__, seen, depth + 1)]
    parts += _parts(function.__defaults__, seen, depth + 1)
    parts += _parts(function.__kwdefaults__, seen, depth + 1)
    for cell in function.__closure__ or ():
        parts += _parts(cell.cell_contents, seen, depth + 1)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            named = function.__globals__[name]
            mine = getattr(named, "__module__", None) == function.__module__
            if isinstance(named, types.FunctionType) and not mine:
                parts += ["named", f"{named.__module__}.{named.__qualname__}"]
            else:
                parts += [name, *_parts(named, seen, depth + 1)]
    return parts


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code looks up, that of functions in it included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _code(code: types.CodeType, seen: frozenset[int], depth: int) -> list[str]:
    # Not where it stands: a line added above it changes nothing of what it does.
    constants = [constant for constant in code.co_consts if constant != code.co_name]
    return [
        "code",
        code.co_code.hex(),
        repr(code.co_names),
        repr(code.co_varnames),
        *_all(constants, seen, depth),
    ]


def _sequence(values: Any, seen: frozenset[int], depth: int) -> list[str]:
    return [type(values).__name__, str(len(values)), *_all(values, seen, depth)]


def _set(values: Any, seen: frozenset[int], depth: int) -> list[str]:
    return ["set", *sorted("".join(_parts(item, seen, depth + 1)) for item in values)]


def _mapping(values: Any, seen: frozenset[int], depth: int) -> list[str]:
    return ["dict", str(len(values)), *_all([item for pair in values.items() for item in pair], seen, depth)]


def _method(method: Any, seen: frozenset[int], depth: int) -> list[str]:
    return ["method", *_all([method.__func__, method.__self__], seen, depth)]


def _partial(value: Any, seen: frozenset[int], depth: int) -> list[str]:
    return ["partial", *_all([value.func, value.args, value.keywords], seen, depth)]


def _named(value: Any, _seen: frozenset[int], _depth: int) -> list[str]:
    name = getattr(value, "__qualname__", value.__name__)
    return ["named", f"{getattr(value, '__module__', '')}.{name}"]


_KINDS: tuple[tuple[Any, Callable[[Any, frozenset[int], int], list[str]]], ...] = (
    ((tuple, list), _sequence),
    ((set, frozenset), _set),
    (dict, _mapping),
    (types.FunctionType, _function),
    (types.MethodType, _method),
    (types.CodeType, _code),
    (functools.partial, _partial),
    ((types.ModuleType, type, types.BuiltinFunctionType), _named),
)
