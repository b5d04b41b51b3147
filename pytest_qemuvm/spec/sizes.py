"""Sizes carry their unit: a bare ``512`` once meant 512 GiB to one tool and 512 MiB to the next."""

from __future__ import annotations

import re

from pytest_qemuvm.errors import SpecError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_UNITS = {"K": KIB, "M": MIB, "G": GIB, "T": 1024**4}
_SIZE = re.compile(r"([0-9]+)\s?([KMGT])(?:iB)?")


def parse_size(size: object, what: str = "size") -> int:
    """Return a size in bytes from ``"512M"``, ``"2G"``, ``"64KiB"`` (powers of 1024) or an int of bytes.

    ``what`` names the value in the error. Raises SpecError (a ValueError) for a size of 0 or less, an unknown
    unit, and a string of bare digits, which leaves the unit to be guessed.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size.strip())):
        value = int(match[1]) * _UNITS[match[2]]
    else:
        raise SpecError(
            f"{what}: {size!r} is not a size",
            hint="write '512M', '2G', '64KiB', or an int of bytes",
        )
    if value <= 0:
        raise SpecError(f"{what}: {size!r} is not more than 0 bytes")
    return value


def format_size(size: int) -> str:
    """Return a size in the largest unit that divides it: ``268435456`` is ``"256M"``."""
    for unit, factor in reversed(_UNITS.items()):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
