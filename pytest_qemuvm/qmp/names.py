"""What can be the name of a QMP command: said before anything is looked up or sent."""

from __future__ import annotations

import re

from pytest_qemuvm.errors import InvalidCommandName

_NAME = re.compile(r"(__[a-z0-9][a-z0-9.-]*_)?(x-)?[a-z][a-z0-9_-]*")
"""QAPI's rule: lower case, begins with a letter; a vendor's own begin with ``__`` and its domain."""
LONGEST = 100
"""Characters; QEMU's longest has 39."""


def checked_command(command: object) -> str:
    """Return the name of a command. Raises InvalidCommandName for what can never be one."""
    if not isinstance(command, str):
        raise InvalidCommandName(
            f"{command!r} is not the name of a QMP command", hint="it is a str, such as 'query-status'"
        )
    if len(command) > LONGEST or not _NAME.fullmatch(command):
        raise InvalidCommandName(
            f"{command[:LONGEST]!r} is not the name of a QMP command",
            hint="lower case letters, digits, '-' and '_', such as 'query-status'",
        )
    return command
