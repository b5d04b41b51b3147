"""JSON as QEMU reads and writes it.

What a client sends is nearly always one plain object in one packet: that goes through Python's C scanner. The
rest, a torn or faulty message, goes through a lexer and a parser with QEMU's states and QEMU's words.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class JsonError(Exception):
    """Not JSON, in QEMU's words."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.desc = f"JSON parse error, {what}"


class _Duplicate(Exception):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Duplicate
    return found


def _integer(text: str) -> int | float:
    """Return a number as QEMU keeps it: what does not fit into 64 bits becomes inexact."""
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 64 else float(number)


def _constant(text: str) -> Any:
    raise ValueError(text)


class _Context:
    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_pairs)
    parse_float = float
    parse_int = staticmethod(_integer)
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner's own


class _Plain(_Context):
    object_pairs_hook = None  # type: ignore[assignment]
    parse_int = int  # type: ignore[assignment]  # itself, for which the scanner has a short way


_scan_plain = make_scanner(_Plain())  # type: ignore[arg-type]  # any object with these attributes
_scan = make_scanner(_Context())  # type: ignore[arg-type]  # any object with these attributes


def whole_object(data: bytes) -> dict[str, Any] | None:
    """Return the object that ``data`` is, or None where it is none, or more than one, or not surely right."""
    if b"\\u" in data:  # surrogates and NUL are judged by QEMU's rules
        return None
    try:
        text = data.decode().strip(" \t\r\n")
        value, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError, _Duplicate, SystemError):
        # The last: what the C scanner raises for bad JSON is in a module that is not imported here.
        return None
    return value if isinstance(value, dict) and end == len(text) else None


def loads(text: str) -> Any:
    """Return the value of JSON that is known to be right."""
    return _scan_plain(text, 0)[0]


def _cannot(value: object) -> Any:
    raise TypeError(f"not JSON: {value!r}")


def _string(text: str) -> str:
    """Write a string; QEMU writes the digits of an escape in capitals, and DEL as one."""
    quoted = encode_basestring_ascii(text)
    if "\\u" in quoted:
        head, *rest = quoted.split("\\u")
        # A backslash that is itself escaped is no escape's.
        for piece in rest:
            odd = (len(head) - len(head.rstrip("\\"))) % 2
            head += "\\u" + (piece if odd else piece[:4].upper() + piece[4:])
        quoted = head
    return quoted.replace("\x7f", "\\u007F")


_encode = make_encoder(None, _cannot, _string, None, ": ", ", ", False, False, True)


def dumps(value: object) -> str:
    """Write a value as QEMU does, apart from the order of keys, which QEMU leaves to a hash table."""
    return "".join(_encode(value, 0))


def parse_one(text: str) -> Any:
    """Return the one value that ``text`` is. Raises JsonError."""
    data = text.encode(errors="surrogateescape")
    value = whole_object(data)
    if value is not None:
        return value
    from pytest_qemuvm.sim.jsonlexer import Lexer
    from pytest_qemuvm.sim.jsonparser import parse

    messages = Lexer().feed(data, last=True)
    if not messages:
        raise JsonError("expecting value")
    return parse(messages[0])
