"""The plan of a machine: argv, files, ids and descriptors, as one frozen value."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.arch import Architecture, Machine
    from pytest_qemuvm.devices.kind import DeviceKind, Supplies
    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.devices.steps import Fragment
    from pytest_qemuvm.plan.slots import Slots
    from pytest_qemuvm.spec.boot import KernelBoot
    from pytest_qemuvm.spec.devices import DeviceSpec
    from pytest_qemuvm.spec.network import Link
    from pytest_qemuvm.spec.vm import Boot

_NETDEV_ON_FD = re.compile(r'\{"type":"\w+","id":"([^"]+)",.*\{fd:.*')
_CHARDEV_ON_FD = re.compile(r"socket,(id=[^,]+),fd=\{fd:([^}]+)\}(,server=on,wait=off)?(.*)")

Memory = Literal["own", "saved", "clone", "copy"]
"""Where a machine's memory is: its own; in a file that is to become a live template's; a private,
copy-on-write view of a live template's, into which its state is loaded; or its own, under the name that the
memory of a clone has, so that what a clone has written can be read into it."""

RAM = "ram"
"""The name of the descriptor of the file that holds a live template's memory."""

MONITOR = "monitor"
"""The name of the descriptor on which QEMU listens for clients of its second monitor."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a plan has to be told of the world: who runs it, where, and on what."""

    name: str
    """The VM's name."""
    tag: str
    """The session's tag; it stands on the command line of every process of the session."""
    run_dir: str
    """The VM's own directory."""
    monitor: str
    """Path of the unix socket of its second monitor."""
    arch: Architecture
    binary: str
    """Path of the QEMU binary."""
    accelerator: str
    """``kvm`` or ``tcg``, as proven."""
    cpu_model: str
    boot: KernelBoot | None
    """What the built-in guest boots; None for a machine without it."""
    sandbox: bool = True
    """Whether QEMU can confine itself by seccomp."""
    memory: Memory = "own"
    waits: bool = False
    """Whether it waits for a state, with its memory, before it runs."""
    links: Mapping[str, Link] = field(default_factory=dict)
    """How NICs are connected to networks, by the ids of those that are."""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An image file to be made before the launch."""

    path: str
    format: str
    size: int | None
    """Virtual size in bytes; None: that of the backing image."""
    backing: str | None = None
    backing_format: str | None = None
    copy_of: str | None = None
    """An image that it is to be the same as, which nobody writes to meanwhile."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def command(self) -> list[str]:
        """Return the command line of qemu-img that makes the same image."""
        below = ["-b", self.backing, "-F", self.backing_format or "raw"] if self.backing else []
        size = [] if self.size is None else [str(self.size)]
        return ["qemu-img", "create", "-q", "-f", self.format, *below, self.path, *size]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The volatile cache of a disk: what a run of the machine writes is apart from what the disk keeps."""

    id: str
    """The disk's."""
    kept: Image
    """What the disk has when the machine is started for the first time."""
    scratch: str
    """Path of the overlay that a run writes to, made anew for each."""
    log: str
    """Path of the file in which it notes what it writes and flushes."""


@dataclass(frozen=True, slots=True)
class PlannedNic:
    """A network interface with the address it will have."""

    id: str
    mac: str
    forward: tuple[int, ...]
    link: Link | None = None
    """How it is connected to a network of the test; None: it is not."""

    @property
    def network(self) -> str | None:
        """The name of the network that it is in."""
        return self.link.network if self.link is not None else None

    @property
    def ip(self) -> str | None:
        """The address that is its own there; None where nobody hands any out."""
        return self.link.ip if self.link is not None else None


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device that the test asked for, plugged from the start."""

    kind: DeviceKind
    spec: DeviceSpec
    supplies: Supplies
    fragment: Fragment

    @property
    def id(self) -> str:
        """Its id in QEMU."""
        return self.fragment.id


@dataclass(frozen=True, slots=True)
class Plugged:
    """What a machine is to have, where that is not what its spec asks for: what another has now."""

    devices: tuple[PlannedDevice, ...]
    shells: tuple[Fragment, ...]
    """Devices that were unplugged and cannot go."""
    images: tuple[ImagePlan, ...]
    nics: tuple[PlannedNic, ...]
    slots: Slots


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """Everything that is decided before anything is done."""

    name: str
    argv: tuple[str, ...]
    """The command line; ``{fd:NAME}`` stands for a descriptor that exists only at launch."""
    sockets: tuple[str, ...]
    """Names of the socket pairs of which QEMU inherits one end each."""
    monitor: str
    """Path of the socket on which it listens for clients of its second monitor, as the descriptor MONITOR."""
    agent_ports: tuple[str, ...]
    """Those of them that the guest's agent serves."""
    images: tuple[ImagePlan, ...]
    caches: tuple[CachePlan, ...]
    """Volatile caches of disks."""
    firmware: tuple[str, bytes] | None
    """A firmware image to be written: path and content."""
    console_log: str
    devices: tuple[PlannedDevice, ...]
    """What the test asked for; root ports and the like are not among it."""
    nics: tuple[PlannedNic, ...]
    free_ports: tuple[str, ...]
    """Root ports left for hot-plug."""
    held_ports: tuple[tuple[str, str], ...]
    """Root ports that hold a device from the start, with its id."""
    machine: Machine
    """The row of the machine type."""
    ids: frozenset[str]
    """Ids of all devices of the command line: none may be used again."""
    display: bool
    """Whether it has a graphics adapter."""
    boot: Boot
    """What its processor runs first."""
    guest: bool
    """Whether a guest is to come up that answers on the agent's ports."""
    memory: Memory = "own"
    """Where its memory is; a clone loads its state before it runs."""
    waits: bool = False
    """Whether it waits for a state, with its memory, before it runs."""
    booting: MachinePlan | None = None
    """Of a clone: the plan by which the same machine boots, when it is started again."""

    def argv_with(self, descriptors: Mapping[str, int]) -> tuple[str, ...]:
        """Return the command line with the descriptors' numbers in place."""
        words = []
        for word in self.argv:
            filled = word
            for name, number in descriptors.items():
                filled = filled.replace(f"{{fd:{name}}}", str(number))
            words.append(filled)
        return tuple(words)

    def standalone_argv(self) -> tuple[str, ...]:
        """Return a command line that can be pasted into a shell, where nobody holds the sockets' other ends.

        The monitor is on the terminal; what would go to the harness goes nowhere, and into its log file. NICs
        of networks are alone on a hub. What was a clone boots there.
        """
        words: list[str] = []
        for word in (self.booting or self).argv:
            chardev = _CHARDEV_ON_FD.fullmatch(word)
            if netdev := _NETDEV_ON_FD.fullmatch(word):
                words.append(f"hubport,id={netdev[1]},hubid={len(words)}")
            elif chardev is None:
                words.append(word)
            else:
                words.append(f"{'stdio' if chardev[2] == 'qmp' else 'null'},{chardev[1]}{chardev[4]}")
        return tuple(words)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data for a file."""
        caches = {"caches": [asdict(cache) for cache in self.caches]} if self.caches else {}
        return caches | {
            "name": self.name,
            "argv": list(self.argv),
            "sockets": list(self.sockets),
            "monitor": self.monitor,
            "images": [asdict(image) for image in self.images],
            "devices": [{"id": device.fragment.id, "kind": device.kind.name} for device in self.devices],
            "nics": [asdict(nic) for nic in self.nics],
            "free_ports": list(self.free_ports),
            "boot": self.boot,
            "guest": self.guest,
        }
