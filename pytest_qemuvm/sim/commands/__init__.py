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
    "basic": """query-status query-version query-name query-uuid query-kvm query-target query-commands stop
        cont quit system_reset system_powerdown query-qmp-schema query-command-line-options""",
    "devices": """device_add device_del device-list-properties qom-list-types qom-list qom-get qom-set
        object-add object-del netdev_add netdev_del set_link query-hotpluggable-cpus query-cpus-fast
        query-memory-devices query-memory-size-summary human-monitor-command query-balloon balloon
        query-iothreads""",
    "host": """query-chardev chardev-add chardev-remove add-fd remove-fd query-fdsets getfd closefd""",
    "block": """blockdev-add blockdev-del query-named-block-nodes query-block block_resize
        blockdev-open-tray blockdev-close-tray blockdev-remove-medium blockdev-insert-medium eject
        query-blockstats transaction blockdev-snapshot""",
    "pci": "query-pci",
    "plain": """query-tpm query-replay query-vnc query-spice query-dump query-migrate query-machines
        query-current-machine query-yank query-rx-filter query-mice query-acpi-ospm-status x-query-usb
        inject-nmi""",
    "jobs": """blockdev-backup blockdev-mirror blockdev-create query-jobs query-block-jobs job-cancel
        job-complete job-dismiss job-finalize job-pause job-resume block-job-cancel block-job-complete
        block-job-pause block-job-resume block-job-set-speed""",
}
"""The commands that each module of this package has."""
NEED_MONITOR = frozenset({"add-fd", "getfd", "closefd", "chardev-add", "netdev_add", "query-qmp-schema"})
UNSIGNED = {"object-add": frozenset({"size"})}
"""Members that are unsigned, as far as it was noticed."""
UNCHECKED = frozenset({"device_add", "query-qmp-schema"})
"""Commands that QEMU's dispatcher does not check: they look at their arguments themselves."""


class Commands:
    """The commands of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._homes = {command: home for home, commands in MODULES.items() for command in commands.split()}
        self._handlers: dict[str, Callable[..., Any]] = {}

    def check(self, name: str, arguments: dict[str, Any]) -> None:
        """Compare arguments with the schema. Raises QmpRefusal in QEMU's words."""
        if name in UNCHECKED:
            return
        if not arguments and name.startswith("query-"):
            return  # they have no argument that is not optional
        from pytest_qemuvm.sim.visitor import check

        recorded = self._machine.archive.get(f"arguments/{name}")
        check(recorded, arguments, UNSIGNED.get(name, frozenset()))

    def check_launched(self, name: str, arguments: dict[str, Any], *, text: bool) -> None:
        """Compare what the command line has with the schema of the command that would do the same.

        What came as ``key=value`` is turned into the schema's types first. Raises QmpRefusal.
        """
        from pytest_qemuvm.sim.visitor import check, typed

        recorded = self._machine.archive.get(f"arguments/{name}")
        if text:
            typed(recorded, arguments)
        check(recorded, arguments)

    def execute(self, monitor: Monitor, name: str, arguments: dict[str, Any], *, oob: bool) -> Any:
        """Carry a command out and return its value. Raises QmpRefusal."""
        machine = self._machine
        if f"arguments/{name}" not in machine.archive:
            raise QmpRefusal(f"The command {name} has not been found", "CommandNotFound")
        if oob and not machine.archive.get(f"arguments/{name}")["oob"]:
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
