"""QEMU's JSON parser (``qobject/json-parser.c``): the tokens of one message into a value, or a refusal."""

from __future__ import annotations

from pytest_qemuvm.sim.qmpjson import JsonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.jsonlexer import Token

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "/": "/"}
_WORDS = {b"true": True, b"false": False, b"null": None}


def parse(tokens: list[Token]) -> Any:
    """Return the value of a message. Raises JsonError."""
    kind, text = tokens[-1]
    if kind == "error":
        raise JsonError(f"stray '{text.decode(errors='replace')}'")
    if kind == "deep":
        error = JsonError("")
        error.desc = "JSON nesting depth limit exceeded"
        raise error
    return _Parser(tokens).value()


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _next(self) -> Token:
        if self._at >= len(self._tokens):
            raise JsonError("premature EOI")
        self._at += 1
        return self._tokens[self._at - 1]

    def value(self) -> Any:
        """Return the value that begins here."""
        kind, text = self._next()
        match kind:
            case "{":
                return self._object()
            case "[":
                return self._array()
            case "string":
                return _string(text)
            case "integer":
                number = int(text)
                return number if -(1 << 63) <= number < 1 << 64 else float(number)
            case "float":
                return float(text)
            case "keyword":
                if text not in _WORDS:
                    raise JsonError(f"invalid keyword '{text.decode()}'")
                return _WORDS[text]
        raise JsonError("expecting value")

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._tokens[self._at : self._at + 1] and self._tokens[self._at][0] == "}":
            self._at += 1
            return found
        while True:
            self._pair(found)
            kind, _ = self._next()
            if kind == "}":
                return found
            if kind != ",":
                raise JsonError("expected separator in dict")

    def _pair(self, found: dict[str, Any]) -> None:
        key = self.value()
        if not isinstance(key, str):
            raise JsonError("key is not a string in object")
        if self._next()[0] != ":":
            raise JsonError("missing : in object pair")
        value = self.value()
        if key in found:
            raise JsonError("duplicate key")
        found[key] = value

    def _array(self) -> list[Any]:
        found: list[Any] = []
        if self._tokens[self._at : self._at + 1] and self._tokens[self._at][0] == "]":
            self._at += 1
            return found
        while True:
            found.append(self.value())
            kind, _ = self._next()
            if kind == "]":
                return found
            if kind != ",":
                raise JsonError("expected separator in list")


def _string(token: bytes) -> str:
    """Return what a quoted string means."""
    try:
        text = token[1:-1].decode()
    except UnicodeDecodeError as error:
        raise JsonError("invalid UTF-8 sequence in string") from error
    found, at = "", 0
    while at < len(text):
        if text[at] != "\\":
            found += text[at]
            at += 1
            continue
        escape = text[at + 1 : at + 2]
        if escape == "u":
            character, at = _unicode(text, at, chr(token[-1]))
            found += character
        elif escape in _ESCAPES:
            found, at = found + _ESCAPES[escape], at + 2
        else:
            raise JsonError("invalid escape sequence in string")
    return found


def _unicode(text: str, at: int, quote: str) -> tuple[str, int]:
    r"""Return the character of a ``\uXXXX``, or of two that are one, and where it ends."""
    begin, number = at, _hex(text, at)
    at += 6
    if 0xD800 <= number <= 0xDBFF and text[at : at + 2] == "\\u":
        low = _hex(text, at)
        if 0xDC00 <= low <= 0xDFFF:
            number, at = 0x10000 + ((number & 0x3FF) << 10 | low & 0x3FF), at + 6
    if number < 0 or 0xD800 <= number <= 0xDFFF or number & 0xFFFE == 0xFFFE or 0xFDD0 <= number <= 0xFDEF:
        # The closing quote is shown as well where it comes too early.
        raise JsonError(f"{(text + quote)[begin:at]} is not a valid Unicode character")
    return chr(number), at


def _hex(text: str, at: int) -> int:
    digits = text[at + 2 : at + 6]
    if len(digits) < 4 or digits.strip("0123456789abcdefABCDEF"):
        return -1
    return int(digits, 16)
