"""QEMU's JSON lexer (``qobject/json-lexer.c``), for what is not one plain object in one packet.

It is fed bytes as they come, keeps what is torn, and gives the tokens of one message at a time. A message
ends where brackets are balanced; one that cannot be goes with the error, and reading goes on behind it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Token = tuple[str, bytes]
    """The kind, which is a bracket itself, ``string``, ``integer``, ``float``, ``keyword`` or ``error``."""

_PUNCTUATION = b"{}[]:,"
_BLANK = b" \t\r\n"
_DIGITS = b"0123456789"
_KEYWORD = b"abcdefghijklmnopqrstuvwxyz"
_DEEPEST = 1024

# What may follow within a number, by what was read of it last, and what each leads to.
_NUMBER: dict[str, tuple[tuple[bytes, str], ...]] = {
    "sign": ((b"0", "zero"), (b"123456789", "digits")),
    "zero": ((b".", "mantissa"), (_DIGITS, "bad")),
    "digits": ((_DIGITS, "digits"), (b".", "mantissa"), (b"eE", "exponent")),
    "mantissa": ((_DIGITS, "fraction"),),
    "fraction": ((_DIGITS, "fraction"), (b"eE", "exponent")),
    "exponent": ((b"+-", "exponent sign"), (_DIGITS, "power")),
    "exponent sign": ((_DIGITS, "power"),),
    "power": ((_DIGITS, "power"),),
}
_COMPLETE = {"zero": "integer", "digits": "integer", "fraction": "float", "power": "float"}


class Lexer:
    """Bytes in, messages out: each a list of tokens."""

    def __init__(self) -> None:
        self._token = b""
        self._state = "start"
        self._message: list[Token] = []
        self._braces = self._brackets = 0

    @property
    def idle(self) -> bool:
        """True where nothing is half read."""
        return self._state == "start" and not self._message

    def feed(self, data: bytes, *, last: bool = False) -> list[list[Token]]:
        """Take bytes in and return the messages that they complete; ``last``: nothing will follow."""
        done = []
        for byte in data:
            for token in self._step(byte):
                if self._add(token):
                    done.append(self._message)
                    self._message = []
        if last:
            if self._state not in {"start", "recovery"}:
                kind = "keyword" if self._state == "keyword" else _COMPLETE.get(self._state, "error")
                self._add((kind, self._token))
            if self._message:
                done.append(self._message)
            self.__init__()  # type: ignore[misc]  # as new
        return done

    def _add(self, token: Token) -> bool:
        """Take a token into the message; return whether the message ends with it."""
        kind = token[0]
        self._braces += (kind == "{") - (kind == "}")
        self._brackets += (kind == "[") - (kind == "]")
        self._message.append(token)
        broken = kind == "error" or self._braces < 0 or self._brackets < 0
        if not broken and self._braces + self._brackets > _DEEPEST:
            self._message.append(("deep", b""))
            broken = True
        if broken or (self._braces == 0 and self._brackets == 0):
            self._braces = self._brackets = 0
            return True
        return False

    def _step(self, byte: int) -> Iterator[Token]:
        """Yield what one more byte completes."""
        again = True
        while again:
            again = False
            if self._state == "start":
                yield from self._begin(byte)
            elif self._state == "recovery":
                if (byte < 0x20 and byte != 0x09) or byte > 0xFD or byte in _PUNCTUATION:
                    self._state, again = "start", True
            elif self._state in {'"', "'"}:
                yield from self._string(byte)
            elif self._state == "keyword":
                if byte in _KEYWORD:
                    self._token += bytes((byte,))
                else:
                    yield self._end("keyword")
                    again = True
            else:
                ended = self._number(byte)
                if ended is not None:
                    yield ended
                    again = ended[0] != "error"

    def _begin(self, byte: int) -> Iterator[Token]:
        one = bytes((byte,))
        if byte in _PUNCTUATION:
            yield one.decode(), one
        elif byte in b"\"'":
            self._token, self._state, self._escaped = one, one.decode(), False
        elif byte in _KEYWORD:
            self._token, self._state = one, "keyword"
        elif byte in b"-0123456789":
            self._token = one
            self._state = "sign" if byte == 0x2D else "zero" if byte == 0x30 else "digits"
        elif byte not in _BLANK:
            self._token = one
            yield self._fail()

    def _string(self, byte: int) -> Iterator[Token]:
        self._token += bytes((byte,))
        if not 0x20 <= byte <= 0xFD:
            yield self._fail()
        elif self._escaped:
            self._escaped = False
        elif byte == 0x5C:
            self._escaped = True
        elif byte == ord(self._state):
            yield self._end("string")

    def _number(self, byte: int) -> Token | None:
        """Take a byte into a number, or return what it ends."""
        for allowed, state in _NUMBER[self._state]:
            if byte in allowed and state != "bad":
                self._token, self._state = self._token + bytes((byte,)), state
                return None
            if byte in allowed:
                break
        else:
            if self._state in _COMPLETE and byte < 0x80:
                return self._end(_COMPLETE[self._state])
        self._token += bytes((byte,))
        return self._fail()

    def _end(self, kind: str) -> Token:
        self._state = "start"
        return kind, self._token

    def _fail(self) -> Token:
        self._state = "recovery"
        return "error", self._token
