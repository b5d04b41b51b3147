"""QEMU's monitor: one client on one loop thread, with a synchronous and an asynchronous face.

Importing this package imports neither asyncio nor qemu.qmp; connecting does.
"""

from pytest_qemuvm.qmp.client import Client, ExpectedEvent, Qmp
from pytest_qemuvm.qmp.events import Event, EventLog, Match, Names
from pytest_qemuvm.qmp.monitors import connect
from pytest_qemuvm.qmp.session import Death, Timeout

__all__ = [
    "Client",
    "Death",
    "Event",
    "EventLog",
    "ExpectedEvent",
    "Match",
    "Names",
    "Qmp",
    "Timeout",
    "connect",
]
