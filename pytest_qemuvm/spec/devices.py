"""Devices as a test asks for them. The same value serves at launch and for hot-plug."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.addresses import checked_mac, parse_address
from pytest_qemuvm.spec.names import checked_name, existing_file, name_of
from pytest_qemuvm.spec.properties import NO_PROPERTIES, device_properties
from pytest_qemuvm.spec.sizes import parse_size

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_qemuvm.spec.properties import PropertyValue

DiskBus = Literal["virtio", "scsi", "nvme", "usb"]
DiskFormat = Literal["qcow2", "raw"]
NicModel = Literal["virtio", "e1000e"]
DiskPolicy = Literal["report", "stop"]
"""What QEMU does when a request of a disk fails: it tells the guest, or stops the machine."""
DriverBus = Literal["pci", "usb", "scsi", "virtio-serial", "none"]
"""Where a device by its driver's name sits; ``none``: on none of these, or where QEMU puts it by itself."""
Transport = Literal["pci", "mmio"]
"""How virtio devices reach the guest: microvm has no PCI bus."""

LARGEST_DISK = 2 << 50
"""Bytes: with its clusters of 64 KiB, a qcow2 image cannot map more."""
RESERVED_PORTS = "org.qemuvm."
DIMM_BLOCK = 128 * 1024 * 1024

_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+-]*")
_SERIAL = re.compile(r"[A-Za-z0-9_.-]{1,20}")


def one_of(value: object, kinds: object, what: str) -> None:
    """Raise SpecError unless the value is one of a Literal's words."""
    known = get_args(kinds)
    if value not in known:
        raise SpecError(f"{value!r} is not a {what}", hint=nearest(str(value), known))


def switch(value: object, key: str) -> bool:
    """Return the value if it is True or False; raise SpecError for anything else."""
    if not isinstance(value, bool):
        raise SpecError(f"{key}: {value!r} is neither True nor False")
    return value


class DeviceSpec:
    """What all device specs have in common: they are frozen values that a device kind can be found for.

    Those with ``properties`` hand them on to QEMU's device, under its own names for them. What the harness
    sets itself cannot be among them; whether QEMU's device has them is asked of QEMU.
    """

    __slots__ = ()

    def _check_properties(self, *reserved: str) -> None:
        """Freeze the properties. Raises SpecError for one of those that the harness sets itself."""
        properties = device_properties(
            self.properties,  # type: ignore[attr-defined]  # only specs that have them call this
            type(self).__name__,
            reserved,
            [field.name for field in fields(self)],  # type: ignore[arg-type]  # all are dataclasses
        )
        object.__setattr__(self, "properties", properties)


@dataclass(frozen=True, slots=True)
class DiskSpec(DeviceSpec):
    """A disk: a new, empty image of ``size``, or an image of the user's own at ``path``.

    The user's image is never written: the machine writes to an overlay on it (or, with ``read_only``, not at
    all). Its format is never guessed, because a guest could write a header into a raw image that QEMU would
    then believe: say ``format="raw"`` where it is not qcow2.
    """

    size: int | str | None = None
    """Virtual size: ``"64M"`` or bytes. With ``path`` it may be left out: the image's own size."""
    bus: DiskBus = "virtio"
    serial: str | None = None
    """Up to 20 characters; the guest finds the disk by it under ``/dev/disk/by-id``."""
    format: DiskFormat = "qcow2"
    read_only: bool = False
    path: str | os.PathLike[str] | None = None
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES
    """More properties of QEMU's device: ``{"num-queues": 2, "physical_block_size": 4096}``."""
    on_error: DiskPolicy | None = None
    """What QEMU does when a request fails: ``"report"`` it to the guest, or ``"stop"`` the machine, whose
    state is ``io-error`` then. None is QEMU's own choice: it stops at a write for which there is no space,
    and reports all else."""
    volatile_cache: bool = False
    """Whether the drive has a write cache that ``vm.faults.power_cut`` empties; only for disks that a VM is
    started with."""
    handle: Any = field(default=None, repr=False)
    """The disk of ``disk_factory`` that this is, whose own file is written; set by the disk itself."""

    def __post_init__(self) -> None:
        one_of(self.bus, DiskBus, "disk bus")
        one_of(self.format, DiskFormat, "disk format")
        if self.path is None and self.size is None:
            raise SpecError("a disk needs a size or the path of an image")
        if self.size is not None:
            object.__setattr__(self, "size", parse_size(self.size, "disk size"))
            if self.bytes % 512:
                raise SpecError(f"disk size: {self.size} bytes is not a multiple of a sector (512 bytes)")
            if self.bytes > LARGEST_DISK:
                raise SpecError("disk size: no image is larger than 2048T")
        if self.path is not None:
            if self.size is not None:
                raise SpecError(f"the image {self.path} brings its own size; leave size= out")
            object.__setattr__(self, "path", existing_file(self.path, "disk image"))
        switch(self.read_only, "read_only")
        serial: object = self.serial
        if serial is not None and not (isinstance(serial, str) and _SERIAL.fullmatch(serial)):
            raise SpecError(
                f"{self.serial!r} is not a disk serial", hint="up to 20 letters, digits, '_', '.' or '-'"
            )
        self._check_properties("drive", "serial", *(("werror", "rerror") if self.on_error else ()))
        self._check_failing()

    def _check_failing(self) -> None:
        """Check what is said of errors and power cuts. Raises SpecError."""
        if self.on_error is not None:
            one_of(self.on_error, DiskPolicy, "policy for errors")
            if self.bus == "nvme":
                raise SpecError("on_error: QEMU's NVMe disks always report errors", hint="use another bus")
        if not switch(self.volatile_cache, "volatile_cache"):
            return
        if self.has_iothread:
            raise SpecError("volatile_cache: QEMU cannot hold back what a disk with an iothread is asked")
        if self.read_only:
            raise SpecError("volatile_cache: a disk that is only read has nothing to lose")
        if self.handle is not None:
            raise SpecError(
                "volatile_cache: a disk of disk_factory cannot have one: others read its file after the VM",
                hint="give the VM a DiskSpec",
            )

    @property
    def has_iothread(self) -> bool:
        """Whether its requests are served by a thread of QEMU's of their own."""
        return any(key.startswith("iothread") for key in self.properties)

    @property
    def bytes(self) -> int:
        """The virtual size in bytes; only for a disk that is to be made."""
        assert isinstance(self.size, int)
        return self.size


@dataclass(frozen=True, slots=True)
class NicSpec(DeviceSpec):
    """A network interface: on a network of ``network_factory``, or alone on user-mode networking.

    On user-mode networking it is shut off from the world unless asked. ``forward`` are TCP ports of the guest
    that the host may reach; QEMU chooses the host's ports, on 127.0.0.1 only, and ``vm.port(guest_port)``
    tells them. ``outward=True`` lets the guest reach the host's network.
    """

    model: NicModel = "virtio"
    network: Any = None
    """A network of ``network_factory``, or its name; None: user-mode networking of its own."""
    mac: str | None = None
    """``"52:54:00:12:34:56"``; left out, an address unique to the VM is chosen."""
    ip: str | None = None
    """The address that it is given in its network; left out, the next one that is free."""
    forward: tuple[int, ...] = ()
    outward: bool = False
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES
    """More properties of QEMU's device: ``{"mq": True, "vectors": 6}``."""
    boot: bool = False
    """Whether the firmware may boot from it: its boot ROM is left in. In which order is the VM's ``boot``;
    only for NICs that a VM is started with."""

    def __post_init__(self) -> None:
        one_of(self.model, NicModel, "NIC model")
        if self.mac is not None:
            object.__setattr__(self, "mac", checked_mac(self.mac))
        switch(self.outward, "outward")
        switch(self.boot, "boot")
        self._check_network()
        given: object = self.forward
        forward = tuple(given) if isinstance(given, Iterable) else (given,)
        for port in forward:
            if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
                raise SpecError(f"{port!r} is not a TCP port of the guest", hint="a number from 1 to 65535")
        if len(set(forward)) != len(forward):
            raise SpecError(f"forward={forward!r} names a port twice")
        object.__setattr__(self, "forward", forward)
        self._check_properties("netdev", "mac", "romfile", *(("bootindex",) if self.boot else ()))

    def _check_network(self) -> None:
        if self.network is not None:
            object.__setattr__(self, "network", checked_name(name_of(self.network), "network"))
        if self.ip is not None:
            object.__setattr__(self, "ip", str(parse_address(self.ip)))
            if self.network is None:
                raise SpecError(f"ip={self.ip!r} is an address in a network, and there is no network=")
        if self.outward and self.network is not None:
            raise SpecError(
                "outward= is the network's to say", hint="network_factory(kind='user', outward=True)"
            )


@dataclass(frozen=True, slots=True)
class SerialSpec(DeviceSpec):
    """A virtio-serial port; the guest finds it as ``/dev/virtio-ports/<name>``."""

    name: str
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    def __post_init__(self) -> None:
        checked_name(self.name, "serial port")
        self._check_properties("chardev", "name")
        if self.name.startswith(RESERVED_PORTS):
            raise SpecError(f"serial ports of names that begin with {RESERVED_PORTS!r} are the harness's own")


@dataclass(frozen=True, slots=True)
class RngSpec(DeviceSpec):
    """A random number generator fed from the host's ``/dev/urandom``."""

    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    def __post_init__(self) -> None:
        self._check_properties("rng")


@dataclass(frozen=True, slots=True)
class UsbSpec(DeviceSpec):
    """A USB device: ``kbd``, ``mouse`` or ``tablet``."""

    kind: Literal["kbd", "mouse", "tablet"] = "kbd"
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    def __post_init__(self) -> None:
        one_of(self.kind, Literal["kbd", "mouse", "tablet"], "USB device")
        self._check_properties("serial")


@dataclass(frozen=True, slots=True)
class CpuSpec(DeviceSpec):
    """One more processor, of the machine's own model; the spec's ``cpus`` are there from the start."""


@dataclass(frozen=True, slots=True)
class MemorySpec(DeviceSpec):
    """More memory.

    ``kind="dimm"``: a memory module, all of it or nothing. ``kind="virtio-mem"``: a device that can be
    resized up to its ``size`` while it is plugged; an unplug only empties it. Sizes are multiples of 128 MiB,
    the least that Linux takes on x86_64.
    """

    size: int | str
    kind: Literal["dimm", "virtio-mem"] = "dimm"
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    def __post_init__(self) -> None:
        one_of(self.kind, Literal["dimm", "virtio-mem"], "kind of memory")
        self._check_properties("memdev", "requested-size")
        object.__setattr__(self, "size", memory_blocks(self.size))

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        assert isinstance(self.size, int)
        return self.size


def memory_blocks(size: int | str) -> int:
    """Return a size of memory in bytes. Raises SpecError unless it is a multiple of 128 MiB."""
    wanted = parse_size(size, "memory size")
    if wanted % DIMM_BLOCK:
        raise SpecError(f"memory size: {size!r} is not a multiple of 128M")
    return wanted


@dataclass(frozen=True, slots=True)
class CdromSpec(DeviceSpec):
    """A CD drive with a medium, an ISO image or any file, that is only read; without one it is empty."""

    path: str | os.PathLike[str] | None = None
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    def __post_init__(self) -> None:
        if self.path is not None:
            object.__setattr__(self, "path", medium_path(self.path))
        self._check_properties("drive", "serial", "scsi-id")


@dataclass(frozen=True, slots=True)
class DriverSpec(DeviceSpec):
    """Any device that QEMU has, by the name of its driver, for what has no spec of its own.

    ``DriverSpec("edu")``, ``DriverSpec("usb-tablet", bus="usb")``. What is to be behind it (a block node, a
    chardev, an object) has to be there, and is the test's own.
    """

    driver: str
    """As ``qemu-system-x86_64 -device help`` has it."""
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES
    """Properties of the device: ``qemu-system-x86_64 -device edu,help`` lists them."""
    bus: DriverBus = "pci"
    """``pci``, ``usb``, ``scsi``, ``virtio-serial``; ``none`` for what sits elsewhere."""

    def __post_init__(self) -> None:
        driver: object = self.driver
        if not isinstance(driver, str) or not _DRIVER.fullmatch(driver):
            raise SpecError(f"{driver!r} is not the name of a driver", hint="see qemu -device help")
        one_of(self.bus, DriverBus, "bus for a device")
        self._check_properties()


def medium_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a medium. Raises SpecError where there is no such file."""
    return existing_file(path, "medium")
