"""From the command line to a machine: options are acted upon in QEMU's order, and refused in its words."""

from __future__ import annotations

import os
from _functools import partial  # type: ignore[import-not-found]  # functools imports much

from pytest_qemuvm.sim import archive, backends, checks, settings
from pytest_qemuvm.sim.argv import Line, Told
from pytest_qemuvm.sim.chardev import FrontEnd
from pytest_qemuvm.sim.keyval import option
from pytest_qemuvm.sim.machine import Machine
from pytest_qemuvm.sim.monitor import Monitor
from pytest_qemuvm.sim.words import ID_HINT, LaunchNotModelled, LaunchRefusal, NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from pytest_qemuvm.sim.faults import Faults

VERSION_VARIABLE = "QEMUVM_SIM_VERSION"
_LATE = frozenset({"qtest"})
"""Objects that need character devices, and are made after them."""

__all__ = ["Told", "launch"]


def launch(arguments: list[str], faults: Faults) -> Machine:
    """Return a machine that is set up. Raises LaunchRefusal and Told."""
    version = os.environ.get(VERSION_VARIABLE) or archive.VERSIONS[-1]
    try:
        recording = archive.Archive(version)
    except archive.DamagedRecording as error:
        raise LaunchRefusal(str(error)) from error
    line = Line(arguments, recording)
    machine = Machine(recording, faults)
    checks.check(line, recording)
    settings.apply(machine, line)
    machine.devices.begin()
    _make_backends(machine, line)
    for value in line.all("-mon"):
        _make_monitor(machine, value)
    for value in line.all("-serial"):
        _make_serial(machine, value)
    for value in line.all("-device"):
        _each("-device", value, "driver", partial(_add_device, machine))
    _set_going(machine, line)
    return machine


def _each(name: str, value: str, implied: str, act: Callable[..., object]) -> None:
    """Act on one option; what is refused is written behind the option, as QEMU does."""
    text = not value.startswith("{")
    try:
        act(option(value, implied, name), text=text)
    except NotModelled as refusal:
        raise LaunchNotModelled(f"{name} {value}") from refusal
    except QmpRefusal as refusal:
        where = "" if name == "-object" and isinstance(refusal, Late) else f"{name} {value}: "
        hint = f"\n{ID_HINT}" if "expects an identifier" in refusal.desc else ""
        raise LaunchRefusal(f"{where}{refusal.desc}{hint}") from refusal


class Late(QmpRefusal):
    """A refusal of what was taken in before: QEMU has forgotten by then which option it was."""


def _check_id(entry: dict[str, Any], taken: Container[str], what: str) -> None:
    """Refuse ids as QEMU's options do, before anything is made. Raises QmpRefusal."""
    from pytest_qemuvm.sim.objects import well_formed

    name = entry.get("id")
    if name is not None and not well_formed(str(name)):
        raise QmpRefusal("Parameter 'id' expects an identifier")
    if name in taken:
        raise QmpRefusal(f"Duplicate ID '{name}' for {what}")


def _make_backends(machine: Machine, line: Line) -> None:
    late = [value for value in line.all("-object") if _kind(value) in _LATE]
    for value in line.all("-object"):
        if value not in late:
            _each("-object", value, "qom-type", partial(_add_object, machine))
    for value in line.all("-chardev"):
        _add_chardev(machine, value)
    for value in line.all("-blockdev"):
        _each("-blockdev", value, "driver", partial(_add_node, machine))
    for value in line.all("-netdev"):
        _each("-netdev", value, "type", partial(_add_netdev, machine))
    for value in late:
        _each("-object", value, "qom-type", partial(_add_object, machine))


def _kind(value: str) -> object:
    return option(value, "qom-type").get("qom-type")


def _add_object(machine: Machine, entry: dict[str, Any], *, text: bool) -> None:
    from pytest_qemuvm.sim import objects

    machine.commands.check_launched("object-add", entry, text=text)
    if text:
        _check_id(entry, machine.objects, "object")
    try:
        objects.add(machine, entry)
    except NotModelled:
        raise
    except QmpRefusal as refusal:
        raise Late(refusal.desc, refusal.class_) from refusal


def _add_chardev(machine: Machine, value: str) -> None:
    try:
        backends.from_argument(machine, value)
    except OSError as error:
        raise LaunchRefusal(
            f"-chardev {value}: Could not open '{error.filename}': {error.strerror}"
        ) from error
    except QmpRefusal as refusal:
        raise LaunchRefusal(f"-chardev {value}: {refusal.desc.partition(': ')[2]}") from refusal


def _add_netdev(machine: Machine, entry: dict[str, Any], *, text: bool) -> None:
    from pytest_qemuvm.sim import netdevs

    try:
        machine.commands.check_launched("netdev_add", entry, text=text)
    except QmpRefusal as refusal:
        unexpected = text and refusal.desc.endswith("is unexpected")
        desc = f"Invalid parameter {refusal.desc.split()[1]}" if unexpected else refusal.desc
        raise QmpRefusal(desc) from refusal
    if text:
        _check_id(entry, machine.netdevs, "netdev")
    netdevs.add(machine, entry)


def _add_node(machine: Machine, entry: dict[str, Any], *, text: bool) -> None:
    machine.commands.check_launched("blockdev-add", entry, text=text)
    machine.graph.add(entry)


def _add_device(machine: Machine, entry: dict[str, Any], *, text: bool) -> None:
    if text:
        _check_id(entry, machine.devices.named, "device")
    machine.devices.add(entry, cold=True, text=text)


def _make_monitor(machine: Machine, value: str) -> None:
    entry = option(value, "chardev")
    chardev = machine.chardevs.get(entry.get("chardev", ""))
    if chardev is None:
        raise LaunchRefusal(f'-mon {value}: chardev "{entry.get("chardev")}" not found')
    if entry.get("mode", "readline") != "control":
        raise LaunchNotModelled("a monitor in another mode than control")
    machine.monitors.append(Monitor(machine, chardev))


def _make_serial(machine: Machine, value: str) -> None:
    if value == "none":
        return
    if not value.startswith("chardev:"):
        raise LaunchNotModelled(f"-serial {value}")
    chardev = machine.chardevs.get(value.removeprefix("chardev:"))
    if chardev is None:
        raise LaunchRefusal(
            f"-serial {value}: could not connect serial device to character backend '{value}'"
        )
    chardev.attach(FrontEnd())


def _set_going(machine: Machine, line: Line) -> None:
    nobody = line.last("-bios") is not None and line.last("-kernel") is None
    machine.guest.model, machine.guest.after_ms = machine.faults.guest("absent" if nobody else "cooperative")
    if line.last("-S") is None:
        machine.runstate.begin()
