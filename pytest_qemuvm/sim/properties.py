"""Properties of devices: whether a value is one, and what it is then."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORDS = {
    "on": True,
    "yes": True,
    "true": True,
    "y": True,
    "off": False,
    "no": False,
    "false": False,
    "n": False,
}
_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def converted(driver: str, entry: dict[str, Any], value: Any, *, text: bool) -> Any:
    """Return the value of a property as the device has it. Raises QmpRefusal.

    ``text`` is whether it came as ``key=value``, or by a way that makes it so.
    """
    name, kind = entry["name"], entry["type"]
    if kind == "bool":
        return _bool(name, value, text=text)
    number = kind.lstrip("u").removeprefix("int")
    if kind == "size" or (kind.startswith(("int", "uint")) and (number.isdigit() or not number)):
        if name == "addr" and "Slot" in entry.get("description", ""):
            return value  # a slot, which buses.py reads
        return _number(name, kind, value, text=text)
    if kind == "str" and not text and not isinstance(value, str):
        raise QmpRefusal(f"Invalid parameter type for '{name}', expected: string")
    return _choice(driver, entry, value, text=text)


def _bool(name: str, value: Any, *, text: bool) -> bool:
    if isinstance(value, bool):
        return value
    if text and str(value) in _WORDS:
        return _WORDS[str(value)]
    if text:
        raise QmpRefusal(f"Parameter '{name}' expects 'on' or 'off'")
    raise QmpRefusal(f"Invalid parameter type for '{name}', expected: boolean")


def _number(name: str, kind: str, value: Any, *, text: bool) -> int:
    unsigned = kind == "size" or kind.startswith("u")
    bits = int(kind.lstrip("uint") or 64) if kind != "size" else 64
    if isinstance(value, bool) or not isinstance(value, int):
        if not text and unsigned:
            raise QmpRefusal(f"Parameter '{name}' expects uint64")
        if not text:
            raise QmpRefusal(f"Invalid parameter type for '{name}', expected: integer")
        value = _read(name, kind, str(value))
    least, largest = (0, (1 << bits) - 1) if unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if bits == 64 and unsigned and value < 0:
        return int(value) + (1 << 64)
    if not least <= value <= largest:
        raise QmpRefusal(f"Parameter '{name}' expects {kind}")
    return int(value)


def _read(name: str, kind: str, text: str) -> int:
    """Return the number that a text is."""
    try:
        if kind == "size" and text[-1:].lower() in _UNITS:
            return int(float(text[:-1]) * (1 << _UNITS[text[-1].lower()]))
        if kind == "size":
            return int(text)
        return int(text, 0)
    except ValueError:
        if kind == "size":
            raise QmpRefusal(f"Parameter '{name}' expects size") from None
        raise QmpRefusal(f"Parameter '{name}' expects integer") from None


_HEX = "0123456789abcdefABCDEF"
_CHOICES = {
    "OnOffAuto": ("auto", "on", "off"),
    "BlockdevOnError": ("report", "ignore", "enospc", "stop", "auto"),
}


def _choice(driver: str, entry: dict[str, Any], value: Any, *, text: bool) -> Any:
    if entry["name"] == "mac" and not _is_mac(str(value)):
        raise QmpRefusal(f"Property '{driver}.mac' doesn't take value '{value}'")
    choices = _CHOICES.get(entry["type"])
    if choices is None:
        return str(value) if text and not isinstance(value, bool) else value
    if isinstance(value, bool):
        value = "on" if value else "off"
    if value not in choices:
        raise QmpRefusal(f"Parameter '{entry['name']}' does not accept value '{value}'")
    return value


def _is_mac(text: str) -> bool:
    pairs = text.replace("-", ":").split(":")
    return len(pairs) == 6 and all(len(pair) == 2 and not pair.strip(_HEX) for pair in pairs)
