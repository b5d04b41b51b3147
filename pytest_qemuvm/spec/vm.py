"""A machine as a test asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.devices import (
    DeviceSpec,
    DiskFormat,
    DiskSpec,
    DriverSpec,
    NicSpec,
    SerialSpec,
    one_of,
    switch,
)
from pytest_qemuvm.spec.names import checked_argument, checked_name, checked_path, existing_file, name_of
from pytest_qemuvm.spec.sizes import MIB, format_size, parse_size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

NEEDS = ("real", "guest", "kvm", "net-admin", "simulator")
"""What a test may say that it cannot do without."""

Boot = Literal["kernel", "disk", "network", "none"]
"""What a machine runs: the built-in guest's kernel, what its first disk holds, what a server in its network
hands out, or nothing."""

Start = Literal["auto", "clone", "cold"]
"""How a machine comes up: as a clone where it can be one, as a clone or not at all, or by booting."""

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


def seconds(value: object, key: str) -> float:
    """Return a number of seconds above 0. Raises SpecError for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise SpecError(f"{key}: {value!r} is not a number of seconds above 0")
    return float(value)


def _image(value: object) -> Path | None:
    # Whether it is there is looked at when a VM is made of it: a suite may name what not every machine has.
    return None if value is None else checked_path(value, "disk image").absolute()


def _one_of(kinds: object, key: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value is not None:
            one_of(value, kinds, key)
        return value

    return check


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
    "boot_timeout": lambda value: seconds(value, "boot_timeout"),
    "image": _image,
    "format": _one_of(DiskFormat, "disk format"),
    "boot": _one_of(Boot, "way to boot"),
    "start": _one_of(Start, "way to start"),
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
    """What the test cannot do without: ``real``, ``guest``, ``kvm``, ``net-admin``, ``simulator``."""
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
    image: str | os.PathLike[str] | None = None
    """A disk image of yours; the VM's first disk is an overlay on it, and it is never written."""
    format: DiskFormat | None = None
    """The image's format, to be said with every image: it is never guessed."""
    boot: Boot | None = None
    """``"kernel"``, ``"disk"``, ``"network"`` or ``"none"``. None: ``bare`` boots the image, if it has one;
    both templates the network, if a NIC is there to be booted from (``NicSpec(boot=True)``); else ``tiny``
    its kernel, and ``bare`` nothing. With ``bare``, ``"disk"`` goes on to such NICs where the disk has
    nothing to boot, and ``"network"`` to the first disk."""
    start: Start | None = None
    """``"clone"``: from the saved memory of a machine like it, which is made once; ``"cold"``: by booting;
    ``"auto"``: as a clone where that can be. None is what ``--qemu-start`` says."""
    said: frozenset[str] = field(init=False, repr=False, compare=False)
    """The keys that were given, also where they were given their default's value."""

    def __new__(cls, *args: object, **keywords: object) -> Self:
        """Note what is said: a template's keywords give way to that, and not to what was left out."""
        spec = object.__new__(cls)
        object.__setattr__(spec, "said", frozenset((*SPEC_KEYS[: len(args)], *keywords)))
        return spec

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", checked_name(name_of(self.template), "template"))
        for key, check in _CHECKS.items():
            object.__setattr__(self, key, check(getattr(self, key)))
        if self.image is None and self.format is not None:
            raise SpecError("format= says what the image is, and there is no image=")
        if self.image is not None and self.format is None:
            raise SpecError(
                f"the format of the image {self.image} is not guessed",
                hint="say format='qcow2' or format='raw'",
            )
        if self.said.issuperset(SPEC_KEYS):
            # Nobody says all of them but dataclasses.replace(), which cannot know which it was asked for.
            given = {key for key in SPEC_KEYS if getattr(self, key) != _DEFAULTS[key]}
            object.__setattr__(self, "said", frozenset(given))

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
        if not keywords:
            return self
        others = {"format": None} if "image" in keywords else {}  # another image, another format
        spec = replace(self, **{**others, **keywords})
        object.__setattr__(spec, "said", self.said | keywords.keys())
        return spec

    def as_keywords(self) -> dict[str, Any]:
        """Return the keys that were given, with their values."""
        return {key: getattr(self, key) for key in SPEC_KEYS if key in self.said}

    def __str__(self) -> str:
        machine = self.machine or "default machine"
        return f"{self.template}, {machine}, {self.cpus} cpu, {format_size(self.bytes)}"


_DEFAULTS = {field.name: field.default for field in fields(VMSpec) if field.init}
SPEC_KEYS = tuple(_DEFAULTS)
"""The keywords of ``vm_factory`` and of the marker."""


def laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of a spec with others over them, key by key.

    Only an image and its format go together: whoever names another image has to say its format too.
    """
    kept = {key: value for key, value in lower.items() if key != "format" or "image" not in upper}
    if "image" in upper and upper["image"] is None:
        upper = {"format": None, **upper}
    return {**kept, **upper}
