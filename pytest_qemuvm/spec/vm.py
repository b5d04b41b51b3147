"""A machine as a test asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.devices import DeviceSpec, DiskSpec, DriverSpec, NicSpec, SerialSpec, switch
from pytest_qemuvm.spec.names import checked_argument, checked_name, existing_file, name_of
from pytest_qemuvm.spec.sizes import MIB, format_size, parse_size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

NEEDS = ("real", "guest", "kvm", "net-admin")
"""What a test may say that it cannot do without."""

MOST_CPUS = 64


def _tuple_of(values: object, kind: type[DeviceSpec], key: str) -> tuple[Any, ...]:
    if isinstance(values, kind) or hasattr(values, "launch_spec"):
        values = (values,)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise SpecError(f"{key}={values!r} is not a list of {kind.__name__}")
    # A handle, such as a disk of disk_factory, says itself what it is as a spec.
    found = tuple(value.launch_spec() if hasattr(value, "launch_spec") else value for value in values)
    for value in found:
        if not isinstance(value, kind):
            raise SpecError(f"{key}: {value!r} is not a {kind.__name__}")
    return found


def _memory(value: object) -> int:
    size = parse_size(value, "memory")
    if size % MIB:
        raise SpecError(f"memory: {value!r} is not a whole number of MiB")
    return size


def _number(key: str, low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise SpecError(f"{key}: {value!r} is not a number from {low} to {high}")
        return value

    return check


def _needs(value: object) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    for word in words:
        if word not in NEEDS:
            raise SpecError(f"needs: {word!r} is nothing a test can need", hint=nearest(str(word), NEEDS))
    return words


def _kernel(value: object) -> str | None:
    return None if value is None else str(existing_file(value, "kernel"))


def _text(key: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise SpecError(f"{key}: {value!r} is not a string")
        return checked_argument(value, key)

    return check


def _machine(value: object) -> str | None:
    return None if value is None else _text("machine")(value)


def _serials(value: object) -> tuple[SerialSpec, ...]:
    serials: tuple[SerialSpec, ...] = _tuple_of(value, SerialSpec, "serials")
    if len({serial.name for serial in serials}) < len(serials):
        raise SpecError(f"serials: two ports have one name: {', '.join(serial.name for serial in serials)}")
    return serials


def _args(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SpecError(f"args: {value!r} is not a list of arguments", hint="write args=('-flag', 'value')")
    words = tuple(value)
    if not all(isinstance(word, str) for word in words):
        raise SpecError(f"args: {words!r} holds something that is not a string")
    return tuple(checked_argument(word, "args") for word in words)


def _seconds(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise SpecError(f"boot_timeout: {value!r} is not a number of seconds above 0")
    return float(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "memory": _memory,
    "cpus": _number("cpus", 1, MOST_CPUS),
    "disks": lambda value: _tuple_of(value, DiskSpec, "disks"),
    "nics": lambda value: _tuple_of(value, NicSpec, "nics"),
    "serials": _serials,
    "devices": lambda value: _tuple_of(value, DriverSpec, "devices"),
    "machine": _machine,
    "append": _text("append"),
    "needs": _needs,
    "balloon": lambda value: switch(value, "balloon"),
    "display": lambda value: switch(value, "display"),
    "hotplug_slots": _number("hotplug_slots", 0, 64),
    "kernel": _kernel,
    "args": _args,
    "boot_timeout": _seconds,
}


@dataclass(frozen=True, slots=True)
class VMSpec:
    """Everything about a machine that a test may choose.

    The keywords of ``vm_factory`` and of the marker ``qemuvm`` are these fields. Constructing one validates
    it; SpecError (a ValueError) says what is wrong and what would be right.
    """

    template: str = "tiny"
    """What the machine starts from: ``"tiny"`` (the built-in Linux), ``"bare"`` (no guest), or a template of
    yours, by name or handle."""
    memory: int | str = 256 * MIB
    """``"512M"``, ``"2G"``, or bytes."""
    cpus: int = 1
    machine: str | None = None
    """The machine type: ``"q35"``, ``"pc"`` or ``"microvm"``; None is the architecture's default."""
    disks: tuple[DiskSpec, ...] = ()
    """Specs of disks to be made, and disks of ``disk_factory``."""
    nics: tuple[NicSpec, ...] = ()
    serials: tuple[SerialSpec, ...] = ()
    devices: tuple[DriverSpec, ...] = ()
    """Other devices, by the names of QEMU's drivers."""
    needs: tuple[str, ...] = ()
    """What the test cannot do without: ``real``, ``guest``, ``kvm``, ``net-admin``."""
    balloon: bool = False
    display: bool = True
    """A graphics adapter, which ``screenshot`` needs."""
    hotplug_slots: int = 4
    """PCI Express root ports that are kept free for devices plugged later."""
    kernel: str | os.PathLike[str] | None = None
    """A kernel for the built-in guest instead of the one found on this machine."""
    append: str = ""
    """Words added to the kernel's command line."""
    args: tuple[str, ...] = ()
    """Arguments added to QEMU's command line as they are."""
    boot_timeout: float = 90.0
    """Seconds from launch until the guest must answer."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", checked_name(name_of(self.template), "template"))
        for key, check in _CHECKS.items():
            object.__setattr__(self, key, check(getattr(self, key)))

    @property
    def bytes(self) -> int:
        """The memory in bytes."""
        assert isinstance(self.memory, int)
        return self.memory

    def with_keywords(self, keywords: Mapping[str, Any], where: str) -> VMSpec:
        """Return this spec with some keys changed.

        ``where`` names the origin of the keywords for the error: SpecError if a key is unknown, with the
        nearest right one.
        """
        for key in keywords:
            if key not in SPEC_KEYS:
                raise SpecError(f"{where}: {key!r} is not part of a VM's spec", hint=nearest(key, SPEC_KEYS))
        return replace(self, **dict(keywords)) if keywords else self

    def __str__(self) -> str:
        machine = self.machine or "default machine"
        return f"{self.template}, {machine}, {self.cpus} cpu, {format_size(self.bytes)}"


SPEC_KEYS = tuple(field.name for field in fields(VMSpec))
"""The keywords of ``vm_factory`` and of the marker."""
