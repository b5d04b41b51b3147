"""What a template's setup is made of, as a digest: the same as long as it would do the same."""

from __future__ import annotations

import hashlib
import types
from pathlib import PurePath
from typing import Any

from pytest_qemuvm.errors import SpecError

_PLAIN = (str, bytes, int, float, bool, complex, type(None), type(...), PurePath)
_DEEPEST = 50


def fingerprint(setup: object) -> str:
    """Return a digest of commands, or of a function: its code, its defaults, what it closes over, and the functions
    and plain values of its own module that it names.

    What other modules do is theirs: they count by name. Raises SpecError for a function that depends on something of
    which it cannot be told whether it is the same as the last time, such as an open file.
    """
    digest = hashlib.sha256()
    for part in _parts(setup, set(), 0):
        digest.update(f"{len(part)}:{part}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _parts(value: Any, seen: set[int], depth: int) -> list[str]:
    if isinstance(value, _PLAIN):
        return [type(value).__name__, repr(value)]
    if id(value) in seen:
        return ["again"]
    if depth > _DEEPEST:
        raise SpecError("a setup is nested too deeply to be told from another")
    below = seen | {id(value)}
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, str(len(value)), *_all(value, below, depth)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted("".join(_parts(item, below, depth + 1)) for item in value)]
    if isinstance(value, dict):
        return [
            "dict",
            str(len(value)),
            *_all([item for pair in value.items() for item in pair], below, depth),
        ]
    if isinstance(value, types.FunctionType):
        return _function(value, below, depth)
    if isinstance(value, types.MethodType):
        return ["method", *_all([value.__func__, value.__self__], below, depth)]
    if isinstance(value, types.CodeType):
        return _code(value, below, depth)
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        return ["partial", *_all([value.func, list(value.args), value.keywords], below, depth)]
    if isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType)):
        name = getattr(value, "__qualname__", value.__name__)
        return ["named", f"{getattr(value, '__module__', '')}.{name}"]
    raise SpecError(
        f"a setup depends on {value!r}, of which nobody can tell whether it is the same as the last time",
        hint="let the setup take what it needs from strings and numbers, or start='cold'",
    )


def _all(values: Any, seen: set[int], depth: int) -> list[str]:
    return [part for value in values for part in _parts(value, seen, depth + 1)]


def _function(function: types.FunctionType, seen: set[int], depth: int) -> list[str]:
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


def _code(code: types.CodeType, seen: set[int], depth: int) -> list[str]:
    # Not where it stands: a line added above it changes nothing of what it does.
    constants = [constant for constant in code.co_consts if constant != code.co_name]
    return [
        "code",
        code.co_code.hex(),
        repr(code.co_names),
        repr(code.co_varnames),
        *_all(constants, seen, depth),
    ]
