"""Names of VMs, disks, templates and networks."""

from __future__ import annotations

import os
import re
from pathlib import Path

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


def checked_argument(word: str, what: str) -> str:
    """Return the word if it can stand on a command line. Raises SpecError."""
    try:
        if b"\0" not in os.fsencode(word):
            return word
    except UnicodeEncodeError:
        pass
    raise SpecError(f"{what}: {word[:80]!r} cannot stand on a command line")


def checked_path(value: object, what: str) -> Path:
    """Return a path under a name that QEMU's JSON can carry. Raises SpecError."""
    if not isinstance(value, (str, os.PathLike)):
        raise SpecError(f"{what}: {value!r} is not a path")
    path = Path(value)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"the name of the {what} {str(path)!r} is not UTF-8") from error
    if "\0" in str(path):
        raise SpecError(f"the name of the {what} {str(path)!r} holds a NUL")
    return path


def new_file(value: object, what: str) -> Path:
    """Return the absolute path of a file that is to be made. Raises SpecError where no directory is there."""
    path = checked_path(value, what).absolute()
    if not path.parent.is_dir():
        raise SpecError(f"no directory {path.parent} for the {what}")
    return path


def existing_file(value: object, what: str) -> Path:
    """Return the absolute path of a file that exists, under a name that QEMU's JSON can carry.

    Raises SpecError.
    """
    path = checked_path(value, what)
    if not path.is_file():
        raise SpecError(f"no {what} at {path}")
    return path.absolute()


def name_of(named: object) -> object:
    """Return the name of a handle; a name is its own. Paths have a ``name`` too and are no handles."""
    if isinstance(named, (str, os.PathLike)):
        return named
    return getattr(named, "name", named)
