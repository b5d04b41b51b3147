"""What the machine is: its name, type, processors and memory, from the options that say so."""

from __future__ import annotations

import os

from pytest_qemuvm.sim.cpus import Topology
from pytest_qemuvm.sim.keyval import key_values, option
from pytest_qemuvm.sim.objects import Object, size
from pytest_qemuvm.sim.words import PROGRAM, SIZE_HINT, LaunchNotModelled, LaunchRefusal, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.argv import Line
    from pytest_qemuvm.sim.machine import Machine

MODELLED = ("q35", "pc", "microvm")
_ACTIONS = {
    "panic": ("none", "pause", "shutdown", "exit-failure"),
    "reboot": ("reset", "shutdown"),
    "shutdown": ("poweroff", "pause"),
    "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
}
_ACCELERATORS = ("tcg", "kvm")
_DISPLAYS = ("none", "egl-headless", "vnc", "curses", "gtk", "sdl", "spice-app", "dbus")


def apply(machine: Machine, line: Line) -> None:
    """Take all of them in. Raises LaunchRefusal."""
    name = line.last("-name")
    if name is not None:
        machine.name = option(name, "guest").get("guest")
    machine.uuid = line.last("-uuid") or machine.uuid
    _apply_actions(machine, line)
    _apply_machine(machine, line)
    _apply_accelerator(machine, line)
    _apply_memory(machine, line)
    _apply_processors(machine, line)
    _check_files(line)
    display = line.last("-display")
    if display is not None and display.partition(",")[0] not in _DISPLAYS:
        raise LaunchRefusal(f"-display {display}: Parameter 'type' does not accept value '{display}'")


def _apply_actions(machine: Machine, line: Line) -> None:
    for value in line.all("-action"):
        for event, action in key_values(value):
            if event not in _ACTIONS:
                raise LaunchRefusal(f"-action {value}: Invalid parameter '{event}'")
            if action not in _ACTIONS[event]:
                raise LaunchRefusal(f"-action {value}: Parameter '{event}' does not accept value '{action}'")
            if event == "shutdown":
                machine.runstate.no_shutdown = action == "pause"
            elif event == "reboot":
                machine.runstate.reboot_ends = action == "shutdown"
    if line.last("-no-shutdown") is not None:
        machine.runstate.no_shutdown = True
    if line.last("-no-reboot") is not None:
        machine.runstate.reboot_ends = True


def _apply_machine(machine: Machine, line: Line) -> None:
    values = line.all("-machine") + line.all("-M")
    settings: dict[str, Any] = {}
    for value in values:
        settings.update(option(value, "type"))
    wanted = settings.pop("type", "pc")
    machines = machine.archive.get("machines")
    for entry in machines:
        if wanted in {entry["name"], entry.get("alias")}:
            break
    else:
        named = f': "{wanted}"' if machine.version >= (9, 1) else ""
        text = f"unsupported machine type{named}\nUse -machine help to list supported machines"
        raise LaunchRefusal(text)
    alias = entry.get("alias", entry["name"])
    kind = "q35" if "q35" in alias else "microvm" if alias == "microvm" else alias
    if kind not in MODELLED:
        raise LaunchNotModelled(f"the machine {wanted!r}")
    machine.type = kind
    machine.settings = settings
    machine.max_cpus = entry["cpu-max"]
    machine.qom_type = f"{entry['name']}-machine"
    _check_properties(machine, settings)
    memory = Object("memory-backend-ram", entry["default-ram-id"], {})
    memory.users.append("/machine")
    machine.objects[memory.name] = memory


def _check_properties(machine: Machine, settings: dict[str, Any]) -> None:
    listed = machine.archive.get(f"machine/{machine.qom_type}")
    known = {name for name, kind in listed if not kind.startswith("child<")}
    for key in settings:
        if key not in known:
            raise LaunchRefusal(f"Property '{machine.qom_type}.{key}' not found")


def _apply_accelerator(machine: Machine, line: Line) -> None:
    value = line.last("-accel")
    if value is None:
        machine.accelerator = "kvm" if line.last("-enable-kvm") is not None else "tcg"
        return
    name = option(value, "accel").get("accel", "")
    if name not in _ACCELERATORS:
        raise LaunchRefusal(f"-accel {value}: invalid accelerator {name}")
    machine.accelerator = name


def _apply_memory(machine: Machine, line: Line) -> None:
    value = line.last("-m")
    if value is None:
        machine.memory_most = machine.memory
        return
    settings = option(value, "size")
    for key in settings:
        if key not in {"size", "slots", "maxmem"}:
            raise LaunchRefusal(f"-m {value}: Invalid parameter '{key}'")
    try:
        machine.memory = _megabytes(settings.get("size", "128M"))
        machine.memory_slots = int(settings.get("slots", 0))
        machine.memory_most = _megabytes(settings["maxmem"]) if "maxmem" in settings else machine.memory
    except (QmpRefusal, ValueError) as error:
        text = f"-m {value}: Parameter 'size' expects a non-negative number below 2^64\n{SIZE_HINT}"
        raise LaunchRefusal(text) from error
    if machine.memory_most < machine.memory:
        raise LaunchRefusal(
            f"invalid value of maxmem: maximum memory size (0x{machine.memory_most:x}) must be "
            f"at least the initial memory size (0x{machine.memory:x})"
        )


def _megabytes(text: str) -> int:
    return size(f"{text}M" if text[-1:].isdigit() else text)


def _apply_processors(machine: Machine, line: Line) -> None:
    model = line.last("-cpu")
    if model is not None:
        name = model.partition(",")[0]
        if f"device/{name}-x86_64-cpu" not in machine.archive:
            raise LaunchRefusal(f"unable to find CPU model '{name}'")
        machine.cpu_model = name
        _check_features(machine, model)
    value = line.last("-smp")
    if value is None:
        return
    settings = option(value, "cpus")
    listed = machine.archive.get("command-line-options")
    known = next(entry["parameters"] for entry in listed if entry["option"] == "smp-opts")
    for key in settings.keys() - {parameter["name"] for parameter in known}:
        raise LaunchRefusal(f"Parameter 'smp.{key}' is unexpected")
    try:
        given = {key: int(number) for key, number in settings.items()}
    except ValueError as error:
        bad = next(key for key, number in settings.items() if not number.isdigit())
        raise LaunchRefusal(f"Parameter 'smp.{bad}' expects integer") from error
    cpus = given.get("cpus", given.get("maxcpus", 1))
    most = given.get("maxcpus", max(cpus, 1))
    cores, threads = given.get("cores", 0), given.get("threads", 1)
    sockets = given.get("sockets", 0)
    if not sockets and not cores:
        sockets, cores = 1, most // threads
    cores = cores or most // (sockets * threads)
    sockets = sockets or most // (cores * threads)
    shape = f"sockets ({sockets}) * dies (1) * cores ({cores}) * threads ({threads})"
    if sockets * cores * threads != most:
        raise LaunchRefusal(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: "
            f"{_shape(machine, shape)} != maxcpus ({most})"
        )
    if most < cpus:
        raise LaunchRefusal(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: "
            f"{_shape(machine, shape)} == maxcpus ({most}) < smp_cpus ({cpus})"
        )
    if most > machine.max_cpus:
        raise LaunchRefusal(
            f"Invalid SMP CPUs {most}. The max CPUs supported by machine "
            f"'{machine.qom_type.removesuffix('-machine')}' is {machine.max_cpus}"
        )
    machine.topology = Topology(cpus, most, sockets, cores, threads)


def _shape(machine: Machine, shape: str) -> str:
    """Return a topology in the words of the version: since 9.1 there are modules."""
    return shape if machine.version < (9, 1) else shape.replace("dies (1)", "dies (1) * modules (1)")


def _check_features(machine: Machine, model: str) -> None:
    kind = f"{machine.cpu_model}-x86_64-cpu"
    known = {entry["name"]: entry["type"] for entry in machine.archive.get(f"device/{kind}")["properties"]}
    for piece in model.split(",")[1:]:
        name, _, value = piece.partition("=")
        found = known.get(name) or known.get(name.replace("_", "-"))
        if piece[:1] in "+-":
            continue
        if found is None:
            why = f"Property '{kind}.{name}' not found"
        elif found == "bool" and value not in {"on", "off", ""}:
            why = f"Parameter '{name}' expects 'on' or 'off'"
        else:
            continue
        raise LaunchRefusal(f"can't apply global {kind}.{piece}: {why}")


def _check_files(line: Line) -> None:
    for name, text in (
        ("-bios", "could not load PC BIOS '{0}'"),
        ("-kernel", "could not open kernel file '{0}': {1}"),
        ("-initrd", "could not load initrd '{0}': {1}"),
    ):
        path = line.last(name)
        if path is None or os.path.exists(path):
            continue
        program = "qemu" if name == "-kernel" else PROGRAM
        raise LaunchRefusal(text.format(path, os.strerror(2)), program)
