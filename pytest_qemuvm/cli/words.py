"""A QMP command as it is typed: its name, then ``key=value`` words or one JSON object."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_qemuvm.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HINT = "write key=value (a.b=value for nested ones), or one JSON object"


def from_line(line: str) -> tuple[str, dict[str, Any]]:
    """Return command and arguments of a line, in which words are quoted as in a shell. Raises SpecError."""
    command, _, rest = line.strip().partition(" ")
    if rest.lstrip().startswith("{"):
        return command, from_words([rest])
    try:
        return command, from_words(shlex.split(rest))
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{line!r} cannot be read: {error}", hint=_HINT) from error


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that words say; a value that is JSON is that, any other is a string.

    Raises SpecError.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        try:
            return dict(json.loads(words[0]))
        except ValueError as error:
            raise SpecError(f"{words[0]!r} is no JSON: {error}", hint=_HINT) from error
    arguments: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not all(path.split(".")):
            raise SpecError(f"{word!r} is no argument", hint=_HINT)
        *parents, key = path.split(".")
        place = arguments
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise SpecError(f"{word!r} contradicts an earlier word", hint=_HINT)
        if key in place:
            raise SpecError(f"{path} is said twice", hint=_HINT)
        place[key] = _value(text)
    return arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)  # NaN and its like, which are no JSON
