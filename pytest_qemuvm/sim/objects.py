"""Objects of the user's: sources of random numbers, memory, threads, the qtest port."""

from __future__ import annotations

import os

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine

_MODELLED = frozenset(
    {"rng-random", "rng-builtin", "memory-backend-ram", "iothread", "secret", "throttle-group", "qtest"}
)


class Object:
    """An object with a name."""

    def __init__(self, kind: str, name: str, properties: dict[str, Any]) -> None:
        self.kind = kind
        self.name = name
        self.properties = properties
        self.users: list[str] = []
        """Paths of what holds it."""


def well_formed(name: str) -> bool:
    """Return whether a name may be an id."""
    return bool(
        name
        and name.isascii()
        and name[0].isalpha()
        and all(letter.isalnum() or letter in "-._" for letter in name)
    )


def add(machine: Machine, arguments: dict[str, Any]) -> Object:
    """Make an object. Raises QmpRefusal."""
    kind, name = arguments["qom-type"], arguments["id"]
    if kind not in _MODELLED:
        raise NotModelled(f"objects of type {kind!r}")
    if not well_formed(name):
        raise QmpRefusal("Parameter 'id' expects an identifier")
    properties = {key: value for key, value in arguments.items() if key not in {"qom-type", "id"}}
    if kind == "memory-backend-ram" and not properties.get("size"):
        raise QmpRefusal(f"property 'size' of {kind} doesn't take value '{properties.get('size', 0)}'")
    if name in machine.objects:
        raise QmpRefusal(f"attempt to add duplicate property '{name}' to object (type 'container')")
    if kind == "rng-random":
        _check_source(properties.get("filename", "/dev/urandom"))
    made = Object(kind, name, properties)
    if kind == "qtest":
        _start_qtest(machine, made)
    machine.objects[name] = made
    return made


def size(text: str) -> int:
    """Return the bytes of a text with a unit. Raises QmpRefusal."""
    units = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60, "b": 0}
    number, shift = text, 0
    if text[-1:].lower() in units:
        number, shift = text[:-1], units[text[-1].lower()]
    try:
        return int(float(number) * (1 << shift)) if "." in number else int(number, 0) << shift
    except ValueError:
        raise QmpRefusal("Parameter 'size' expects a non-negative number below 2^64") from None


def _check_source(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise QmpRefusal(f"Could not open '{path}': {error.strerror}") from error


def _start_qtest(machine: Machine, made: Object) -> None:
    from pytest_qemuvm.sim.qtest import Qtest

    name = made.properties.get("chardev")
    if name not in machine.chardevs:
        raise QmpRefusal(f"Cannot find character device '{name}'")
    machine.chardevs[name].attach(Qtest(machine, machine.chardevs[name]))


def remove(machine: Machine, name: str) -> None:
    """Remove an object. Raises QmpRefusal."""
    made = machine.objects.get(name)
    if made is None:
        raise QmpRefusal(f"object '{name}' not found")
    if made.users:
        raise QmpRefusal(f"object '{name}' is in use, can not be deleted")
    if made.kind == "qtest":
        machine.chardevs[made.properties["chardev"]].detach()
    del machine.objects[name]
