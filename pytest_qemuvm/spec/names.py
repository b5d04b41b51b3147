"""Names of VMs, disks, templates and networks."""

from __future__ import annotations

import re
from os import PathLike

from pytest_qemuvm.errors import SpecError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


def checked_name(name: object, what: str) -> str:
    """Return the name if it may stand in paths, ids and command lines; ``what`` is the kind of thing named.

    Raises SpecError (a ValueError) for anything but ``[A-Za-z][A-Za-z0-9_.-]{0,62}``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is not a name for a {what}",
            hint="a letter, then up to 62 letters, digits, '_', '.' or '-'",
        )
    return name


def name_of(named: object) -> object:
    """Return the name of a handle; a name is its own. Paths have a ``name`` too and are no handles."""
    if isinstance(named, (str, PathLike)):
        return named
    return getattr(named, "name", named)
