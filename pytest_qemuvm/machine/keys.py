"""Key names: what a US keyboard has to press for a text, in QEMU's names for keys (QKeyCode)."""

from __future__ import annotations

from pytest_qemuvm.errors import SpecError

_PLAIN = {
    " ": "spc",
    "\n": "ret",
    "\t": "tab",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
_SHIFTED = dict(zip('_+{}|:"~<>?!@#$%^&*()', "-=[]\\;'`,./1234567890", strict=True))


def keys_for(character: str) -> tuple[str, ...]:
    """Return the keys to hold down together for a character, such as ``("shift", "a")`` for ``"A"``.

    Raises SpecError for a character that a US keyboard does not have.
    """
    if character in _SHIFTED:
        return ("shift", *keys_for(_SHIFTED[character]))
    if character in _PLAIN:
        return (_PLAIN[character],)
    if character.isascii() and character.isalnum():
        return (character,) if not character.isupper() else ("shift", character.lower())
    raise SpecError(f"{character!r} cannot be typed on a US keyboard")


def chord(keys: str) -> tuple[str, ...]:
    """Return the keys of a chord written as ``"ctrl-alt-delete"``."""
    names = tuple(str(keys).split("-"))
    if not all(names):
        raise SpecError(f"{keys!r} is not a chord of keys", hint="write 'ret', 'a' or 'ctrl-alt-delete'")
    return names
