"""Two recorded plans, or two files of them, side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTEXT = 3


def as_text(plans: Any) -> str:
    """Return recorded plans as they are written to files: the same plans give the same text."""
    return json.dumps(plans, indent=2, ensure_ascii=False) + "\n"


def difference(one: Any, other: Any, names: tuple[str, str]) -> str:
    """Return what differs between two plans, line by line; nothing where they are the same."""
    if one == other:
        return ""
    import difflib  # noqa: PLC0415  # 2 ms that only a difference should cost

    lines = difflib.unified_diff(
        as_text(one).splitlines(), as_text(other).splitlines(), *names, lineterm="", n=_CONTEXT
    )
    return "\n".join(lines)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """Return what differs between two files of plans, test by test."""
    found = []
    for test in sorted({*one, *other}):
        if test not in other or test not in one:
            found.append(f"{test}: only in {names[0] if test in one else names[1]}")
        elif told := difference(one[test], other[test], names):
            found.append(f"{test}:\n{told}")
    return found
