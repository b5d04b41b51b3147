"""Removing what is behind devices: what has gone already counts as removed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CommandError

if TYPE_CHECKING:
    from pytest_qemuvm.devices.steps import Command
    from pytest_qemuvm.qmp import Qmp

_NOT_THERE = re.compile(r"not found|Failed to find")


def remove(qmp: Qmp, command: Command) -> None:
    """Have QEMU remove something, unless it does not have it any more.

    Raises CommandError where QEMU refuses, because something else of the test's uses it for example.
    """
    try:
        qmp.execute(command.name, dict(command.arguments))
    except CommandError as error:
        if not _NOT_THERE.search(error.desc):
            raise
