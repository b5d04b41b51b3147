"""From the command line to a machine: options are parsed and then acted upon in QEMU's order."""

from __future__ import annotations

import os

from pytest_qemuvm.sim import archive
from pytest_qemuvm.sim.chardev import Chardev, FileChardev, FrontEnd, SocketChardev
from pytest_qemuvm.sim.keyval import option
from pytest_qemuvm.sim.machine import Machine
from pytest_qemuvm.sim.monitor import Monitor
from pytest_qemuvm.sim.words import LaunchNotModelled, LaunchRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.faults import Faults

VERSION_VARIABLE = "QEMUVM_SIM_VERSION"

FLAGS = frozenset(["-nodefaults", "-no-user-config", "-S", "-no-reboot", "-no-shutdown", "-enable-kvm"])
"""Modelled options without a value."""
_VALUES = """-name -machine -M -accel -cpu -smp -m -bios -kernel -initrd -append -fw_cfg -chardev -mon -serial
    -object -device -blockdev -netdev -display -sandbox -action -boot -uuid -rtc"""
VALUES = frozenset(_VALUES.split())
"""Modelled options with a value."""


class Told(Exception):
    """An option that makes QEMU print something and end."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Line:
    """A command line: options in order, and under their names."""

    def __init__(self, arguments: list[str]) -> None:
        self.options: list[tuple[str, str]] = []
        words = iter(arguments)
        for word in words:
            if not word.startswith("-"):
                raise LaunchNotModelled(f"the image {word!r} without an option")
            name = word[1:] if word.startswith("--") else word
            if name in FLAGS:
                self.options.append((name, ""))
            elif name in VALUES:
                value = next(words, None)
                if value is None:
                    raise LaunchRefusal(f"{word}: requires an argument")
                self.options.append((name, value))
            elif name in {"-version", "-h", "-help"}:
                raise LaunchNotModelled(f"the option {word}")
            else:
                raise LaunchRefusal(f"{word}: invalid option")

    def all(self, name: str) -> list[str]:
        """Return the values of an option, in order."""
        return [value for option, value in self.options if option == name]

    def last(self, name: str) -> str | None:
        """Return the last value of an option, or None."""
        values = self.all(name)
        return values[-1] if values else None


def launch(arguments: list[str], faults: Faults) -> Machine:
    """Return a machine that is set up. Raises LaunchRefusal and Told."""
    version = os.environ.get(VERSION_VARIABLE) or archive.VERSIONS[-1]
    try:
        recording = archive.Archive(version)
    except archive.DamagedRecording as error:
        raise LaunchRefusal(str(error)) from error
    line = Line(arguments)
    machine = Machine(recording, faults)
    _identify(machine, line)
    for value in line.all("-chardev"):
        add_chardev(machine, value)
    for value in line.all("-object"):
        entry = option(value, "qom-type")
        machine.objects[entry["id"]] = entry
    for value in line.all("-netdev"):
        entry = option(value, "type")
        machine.netdevs[entry["id"]] = entry
    for value in line.all("-device"):
        entry = option(value, "driver")
        machine.devices[entry["id"]] = entry
    for value in line.all("-serial"):
        machine.chardevs[value.removeprefix("chardev:")].attach(FrontEnd())
    for value in line.all("-mon"):
        entry = option(value, "chardev")
        machine.monitors.append(Monitor(machine, machine.chardevs[entry["chardev"]]))
    _set_going(machine, line)
    return machine


def _identify(machine: Machine, line: Line) -> None:
    name = line.last("-name")
    if name is not None:
        machine.name = option(name, "guest").get("guest")
    machine.uuid = line.last("-uuid") or machine.uuid
    accel = line.last("-accel")
    if accel is not None:
        machine.accelerator = option(accel, "accel")["accel"]
    for value in line.all("-action"):
        wanted = option(value)
        machine.runstate.no_shutdown = wanted.get("shutdown") == "pause" or machine.runstate.no_shutdown
        machine.runstate.reboot_ends = wanted.get("reboot") == "shutdown"


def add_chardev(machine: Machine, value: str) -> None:
    """Make a character device of the command line."""
    entry: dict[str, Any] = option(value, "backend")
    log: dict[str, Any] = {"logfile": entry.get("logfile"), "append": entry.get("logappend") == "on"}
    name = entry["id"]
    if entry["backend"] == "socket" and "fd" in entry:
        from _socket import AF_UNIX, SOCK_STREAM, socket

        end = socket(AF_UNIX, SOCK_STREAM, 0, int(entry["fd"]))
        chardev: Chardev = SocketChardev(name, machine.loop, end, **log)
        machine.chardevs[name] = chardev
        chardev.start()  # type: ignore[attr-defined]
    elif entry["backend"] == "null":
        machine.chardevs[name] = Chardev(name, **log)
    elif entry["backend"] == "file":
        machine.chardevs[name] = FileChardev(name, entry["path"], **log)
    else:
        raise LaunchNotModelled(f"the character device {value!r}")


def _set_going(machine: Machine, line: Line) -> None:
    has_firmware = line.last("-bios") is not None and line.last("-kernel") is None
    machine.guest.model, machine.guest.after_ms = machine.faults.guest(
        "absent" if has_firmware else "cooperative"
    )
    if line.last("-S") is None:
        machine.runstate.begin()
