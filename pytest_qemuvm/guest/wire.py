"""The agent's protocol as bytes: requests to write, and lines to understand. No I/O.

The host sends ``KEY OP SEQUENCE WORD... .``, words quoted for the guest's shell, which only has to ``eval``
them; a line without the key of this boot or without the full stop was cut off, and is not obeyed. A payload
follows it, and the word ``commit``, without which the payload is dropped.
The agent answers ``= SEQUENCE STATUS OUTPUT-BYTES ERROR-BYTES`` and these bytes. It says ``!hello BOOT PORT``
whenever it opens its port, and ``!sync NONCE BOOT PORT`` when asked, which is how both sides find each other
again after a restore or after garbage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMIT = b"commit\n"
"""Ends a payload that was sent to its end."""
LONG_REQUEST = 1000
"""Bytes above which a request goes as a payload: the guest's shell reads a line byte by byte."""
LONGEST_WORD = 120_000
"""Bytes of a command or variable; the guest's kernel takes 128 KiB per argument."""
LONGEST_LINE = 4096
"""No line of the agent is longer, so more without an end of line is garbage."""

_PLAIN = re.compile(rb"[A-Za-z0-9_./:=@%+,-]+")
_CONTROL = re.compile(rb"([\x01-\x1f\x7f]+)")
_REPLY = re.compile(rb"= (\d{1,10}) (\d{1,3}) (\d{1,12}) (\d{1,12})")
_HELLO = re.compile(rb"!hello ([0-9a-f-]{36}) (\d+)")
_SYNC = re.compile(rb"!sync ([0-9a-f]+) ([0-9a-f-]{36}) (\d+)")
_CUT_BY_HELLO = re.compile(rb"\n!hello ([0-9a-f-]{36}) \d+\n\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer."""

    sequence: int
    status: int
    output: int
    error: int


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent has opened its port, in the boot of that id."""

    boot: str


@dataclass(frozen=True, slots=True)
class Sync:
    """The answer to a sync with that nonce."""

    nonce: str
    boot: str


def quote(word: bytes) -> bytes:
    """Quote one word for the guest's shell, on one line. Raises SpecError for a NUL byte."""
    if b"\0" in word:
        raise SpecError("a command, variable or path cannot hold a NUL byte", repr(word[:80]))
    if len(word) > LONGEST_WORD:
        raise SpecError(
            f"a command or variable of {len(word)} bytes is too long",
            f"the limit is {LONGEST_WORD} bytes",
            "push it as a file, or give it as input",
        )
    if _PLAIN.fullmatch(word):
        return word
    quoted = b""
    for index, part in enumerate(_CONTROL.split(word)):
        if index % 2:
            # Octal with three digits: unlike a hexadecimal escape it cannot swallow what follows.
            quoted += b"$'" + b"".join(b"\\%03o" % byte for byte in part) + b"'"
        elif part:
            quoted += b"'" + part.replace(b"'", b"'\\''") + b"'"
    return quoted or b"''"


def encode(text: str) -> bytes:
    """Return text as the guest gets it: UTF-8, surrogates turned back into the bytes they stand for.

    Raises SpecError for what is no text, or cannot be written as bytes.
    """
    given: object = text
    if not isinstance(given, str):
        raise SpecError(f"{given!r} is not a string")
    try:
        return given.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SpecError(f"{given[:80]!r} cannot be written as UTF-8", str(error)) from error


def encode_path(path: str) -> bytes:
    """Return a path as the guest gets it, such that no command takes it for an option. Raises SpecError."""
    encoded = encode(path)
    if not encoded:
        raise SpecError("the path of a file in the guest cannot be empty")
    return encoded if encoded.startswith(b"/") else b"./" + encoded


def environment(env: dict[str, str]) -> list[bytes]:
    """Return the words that set variables. Raises SpecError for a name that no shell can set."""
    for name in env:
        if not _NAME.fullmatch(str(name)):
            raise SpecError(f"not a name for an environment variable: {name!r}")
    return [encode(f"{name}={value}") for name, value in env.items()]


def request(boot: str, op: str, sequence: int, words: Sequence[bytes]) -> tuple[bytes, bytes | None]:
    """Return the line of a request, and the payload that holds its words if they are too long for a line.

    The operation's own payload comes after both.
    """
    key = boot.partition("-")[0].encode()
    body = b" ".join([op.encode(), b"%d" % sequence, *map(quote, words)])
    if len(body) <= LONG_REQUEST:
        return b"%b %b .\n" % (key, body), None
    return b"%b long %d %d .\n" % (key, sequence, len(body)), body


def sync(nonce: str) -> bytes:
    """Return the bytes that ask for a sync; the first line end closes whatever was cut off before."""
    return b"\nsync " + nonce.encode() + b"\n"


def parse(line: bytes) -> Reply | Hello | Sync | None:
    """Understand one line of the agent, without its line end; None if it is not the protocol's."""
    if match := _REPLY.fullmatch(line):
        sequence, status, output, error = map(int, match.groups())
        return Reply(sequence, status, output, error)
    if match := _HELLO.fullmatch(line):
        return Hello(match[1].decode())
    if match := _SYNC.fullmatch(line):
        return Sync(match[1].decode(), match[2].decode())
    return None


def cut_by_hello(data: bytes | bytearray | memoryview, boot: str | None) -> str | None:
    """Return the boot id if a payload ends in the greeting of another boot: it was cut off by a restart."""
    match = _CUT_BY_HELLO.search(bytes(data[-80:]))
    if match is None:
        return None
    found = match[1].decode()
    return found if found != boot else None
