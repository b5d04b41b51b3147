"""Processors: those the machine began with, those that were plugged, and the sockets that are free."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.devices import Device
    from pytest_qemuvm.sim.machine import Machine

_KEYS = ("socket-id", "core-id", "thread-id")


class Topology:
    """Sockets, cores and threads, as ``-smp`` gives them."""

    def __init__(
        self, cpus: int = 1, most: int = 1, sockets: int = 1, cores: int = 1, threads: int = 1
    ) -> None:
        self.cpus = cpus
        self.most = most
        self.sockets = sockets
        self.cores = cores
        self.threads = threads

    def place(self, index: int) -> dict[str, int]:
        """Return where a processor is, by its number."""
        return {
            "socket-id": index // (self.cores * self.threads),
            "core-id": index // self.threads % self.cores,
            "thread-id": index % self.threads,
        }


def model_type(machine: Machine) -> str:
    """Return the type of the machine's processors."""
    return f"{machine.cpu_model}-x86_64-cpu"


def holder(machine: Machine, index: int) -> str | None:
    """Return the path of the processor of that number, None where there is none."""
    if index < machine.topology.cpus:
        return "/machine/unattached/device[0]" if index == 0 else f"/machine/unattached/device[{index + 1}]"
    return next((path for path, number in machine.cpus.items() if number == index), None)


def plug(machine: Machine, device: Device) -> None:
    """Give a processor its socket. Raises QmpRefusal."""
    expected = model_type(machine)
    if device.driver != expected:
        raise QmpRefusal(f"Invalid CPU type, expected cpu type: '{expected}'")
    for key in _KEYS:
        if device.given.get(key, -1) < 0 and not (key != "socket-id" and machine.version < (0, 0)):
            raise QmpRefusal(f"CPU {key} is not set")
    topology = machine.topology
    for key, limit in zip(_KEYS, (topology.sockets, topology.cores, topology.threads), strict=True):
        if device.given[key] >= limit:
            raise QmpRefusal(f"Invalid CPU {key}: {device.given[key]} must be in range 0:{limit - 1}")
    wanted = {key: device.given[key] for key in _KEYS}
    index = next(number for number in range(topology.most) if topology.place(number) == wanted)
    if holder(machine, index) is not None:
        identifier = ", ".join(f"{key}: {value}" for key, value in wanted.items())
        raise QmpRefusal(f"CPU[{index}] with APIC ID {index} exists" if identifier else "")
    machine.cpus[device.path] = index


def hotpluggable(machine: Machine) -> list[dict[str, Any]]:
    """Return all sockets, as ``query-hotpluggable-cpus`` does: the last first."""
    found = []
    for index in reversed(range(machine.topology.most)):
        props = machine.topology.place(index)
        if machine.has_numa:
            props["node-id"] = 0
        entry: dict[str, Any] = {"props": props, "vcpus-count": 1, "type": model_type(machine)}
        path = holder(machine, index)
        if path is not None:
            entry["qom-path"] = path
        found.append(entry)
    return found


def present(machine: Machine) -> list[dict[str, Any]]:
    """Return all processors there are, as ``query-cpus-fast`` does."""
    import os

    numbers = [*range(machine.topology.cpus), *machine.cpus.values()]
    found = []
    for index in numbers:
        props = machine.topology.place(index)
        if machine.has_numa:
            props["node-id"] = 0
        found.append(
            {
                "cpu-index": index,
                "qom-path": holder(machine, index),
                # A processor of the simulator's has no thread of its own.
                "thread-id": os.getpid(),
                "props": props,
                "target": "x86_64",
            }
        )
    return found
