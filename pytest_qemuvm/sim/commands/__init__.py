"""QMP commands: which module has which, and what becomes of the others.

A handler is a function ``(machine, arguments) -> value``; those in ``NEED_MONITOR`` get the monitor as well.
Modules are imported when the first of their commands comes.
"""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine
    from pytest_qemuvm.sim.monitor import Monitor

MODULES = {
    "basic": """query-status query-version query-name query-uuid query-kvm query-target query-commands stop cont
        quit system_reset system_powerdown query-qmp-schema query-command-line-options""",
    "graph": """qom-list query-chardev query-named-block-nodes query-jobs query-fdsets
        human-monitor-command""",
}
"""The commands that each module of this package has."""
NEED_MONITOR = frozenset({"add-fd", "getfd", "closefd", "query-qmp-schema"})
OOB = frozenset({"migrate-recover", "migrate-pause", "yank", "exec-oob"})
"""Commands that may be sent out of band."""


class Commands:
    """The commands of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._homes = {command: home for home, commands in MODULES.items() for command in commands.split()}
        self._handlers: dict[str, Callable[..., Any]] = {}

    def check(self, name: str, arguments: dict[str, Any]) -> None:
        """Compare arguments with the schema. Raises QmpRefusal in QEMU's words."""

    def execute(self, monitor: Monitor, name: str, arguments: dict[str, Any], *, oob: bool) -> Any:
        """Carry a command out and return its value. Raises QmpRefusal."""
        machine = self._machine
        if name not in machine.archive.get("commands"):
            raise QmpRefusal(f"The command {name} has not been found", "CommandNotFound")
        if oob and name not in OOB:
            raise QmpRefusal(f"The command {name} does not support OOB")
        self.check(name, arguments)
        handler = self._handlers.get(name) or self._find(name)
        if name in NEED_MONITOR:
            return handler(machine, arguments, monitor)
        return handler(machine, arguments)

    def _find(self, name: str) -> Callable[..., Any]:
        home = self._homes.get(name)
        if home is None:
            raise NotModelled(f"the command {name}")
        module = __import__(f"pytest_qemuvm.sim.commands.{home}", fromlist=["_"])
        handler: Callable[..., Any] = getattr(module, name.replace("-", "_"))
        self._handlers[name] = handler
        return handler
