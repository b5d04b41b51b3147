"""A device is data plus its inverse.

A step is one thing that QEMU is told. The same step can be written on the command line of a machine that is
about to start and sent over QMP to one that runs, and it knows what undoes it. A device is a tuple of steps;
undoing it is their inverses from the last to the first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Command:
    """A QMP command with its arguments."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """The id or node name of what it is about."""
        return str(self.arguments.get("node-name") or self.arguments.get("id"))


class Step(Protocol):
    """One thing that QEMU is told."""

    def argv(self) -> tuple[str, str]:
        """Return the option and its value for the command line."""

    def plug(self) -> Command:
        """Return the command that does it in a running machine."""

    def unplug(self) -> Command:
        """Return the command that undoes it."""


def as_json(value: Mapping[str, Any]) -> str:
    """Write JSON as it stands on a command line: unlike ``key=value`` lists it needs no escaped commas."""
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class AddObject:
    """A QOM object, such as the source of a random number generator."""

    type: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)

    def _arguments(self) -> dict[str, Any]:
        return {"qom-type": self.type, "id": self.id, **self.properties}

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-object", as_json(self._arguments())

    def plug(self) -> Command:  # noqa: D102
        return Command("object-add", self._arguments())

    def unplug(self) -> Command:  # noqa: D102
        return Command("object-del", {"id": self.id})


@dataclass(frozen=True, slots=True)
class AddBlockNode:
    """A block node: a file, or a format or filter on top of another node."""

    driver: str
    node_name: str
    properties: Mapping[str, Any] = field(default_factory=dict)

    def _arguments(self) -> dict[str, Any]:
        return {"driver": self.driver, "node-name": self.node_name, **self.properties}

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-blockdev", as_json(self._arguments())

    def plug(self) -> Command:  # noqa: D102
        return Command("blockdev-add", self._arguments())

    def unplug(self) -> Command:  # noqa: D102
        return Command("blockdev-del", {"node-name": self.node_name})


@dataclass(frozen=True, slots=True)
class AddNetdev:
    """The host's side of a network interface."""

    type: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)

    def _arguments(self) -> dict[str, Any]:
        return {"type": self.type, "id": self.id, **self.properties}

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-netdev", as_json(self._arguments())

    def plug(self) -> Command:  # noqa: D102
        return Command("netdev_add", self._arguments())

    def unplug(self) -> Command:  # noqa: D102
        return Command("netdev_del", {"id": self.id})


@dataclass(frozen=True, slots=True)
class AddPassedNetdev:
    """The host's side of a network interface, on a descriptor that QEMU is handed.

    ``fd`` is the name of the descriptor, on the command line as in ``AddSocketChardev``; a running QEMU is
    given the descriptor under that name first.
    """

    type: Literal["dgram", "tap"]
    id: str
    fd: str

    def _arguments(self, fd: str) -> dict[str, Any]:
        place: dict[str, Any] = {"fd": fd} if self.type == "tap" else {"local": {"type": "fd", "str": fd}}
        return {"type": self.type, "id": self.id, **place}

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-netdev", as_json(self._arguments(f"{{fd:{self.fd}}}"))

    def plug(self) -> Command:  # noqa: D102
        return Command("netdev_add", self._arguments(self.fd))

    def unplug(self) -> Command:  # noqa: D102
        return Command("netdev_del", {"id": self.id})


@dataclass(frozen=True, slots=True)
class AddSocketChardev:
    """A character device on a socket that the harness made: the other end of its own, or a listener.

    ``fd`` is the name of a file descriptor of the plan; the launch replaces ``{fd:NAME}`` by its number. On
    the command line a chardev takes no JSON (QEMU 7.2 and 10.0).
    """

    id: str
    fd: str
    logfile: str | None = None
    """A file that QEMU writes everything to as well."""
    append: bool = False
    """What the file holds already stays."""
    listening: bool = False
    """The socket listens; QEMU accepts one client at a time, and does not wait for the first."""

    def argv(self) -> tuple[str, str]:  # noqa: D102
        listening = ",server=on,wait=off" if self.listening else ""
        log = f",logfile={escaped(self.logfile)}" if self.logfile else ""
        log += ",logappend=on" if self.append else ""
        return "-chardev", f"socket,id={self.id},fd={{fd:{self.fd}}}{listening}{log}"

    def plug(self) -> Command:  # noqa: D102
        data: dict[str, Any] = {"addr": {"type": "fd", "data": {"str": self.fd}}, "server": self.listening}
        if self.listening:
            data["wait"] = False
        if self.logfile:
            data |= {"logfile": self.logfile, "logappend": self.append}
        return Command("chardev-add", {"id": self.id, "backend": {"type": "socket", "data": data}})

    def unplug(self) -> Command:  # noqa: D102
        return Command("chardev-remove", {"id": self.id})


@dataclass(frozen=True, slots=True)
class AddListeningChardev:
    """A character device that listens on a unix socket, for a machine that runs already."""

    id: str
    path: str

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-chardev", f"socket,id={self.id},path={escaped(self.path)},server=on,wait=off"

    def plug(self) -> Command:  # noqa: D102
        address = {"type": "unix", "data": {"path": self.path}}
        data = {"addr": address, "server": True, "wait": False}
        return Command("chardev-add", {"id": self.id, "backend": {"type": "socket", "data": data}})

    def unplug(self) -> Command:  # noqa: D102
        return Command("chardev-remove", {"id": self.id})


@dataclass(frozen=True, slots=True)
class AddDevice:
    """A device that the guest sees."""

    driver: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)

    def _arguments(self) -> dict[str, Any]:
        return {"driver": self.driver, "id": self.id, **self.properties}

    def argv(self) -> tuple[str, str]:  # noqa: D102
        return "-device", as_json(self._arguments())

    def plug(self) -> Command:  # noqa: D102
        return Command("device_add", self._arguments())

    def unplug(self) -> Command:  # noqa: D102
        return Command("device_del", {"id": self.id})


def escaped(value: str) -> str:
    """Write a value for a ``key=value`` list, in which a comma ends it unless it is doubled."""
    return value.replace(",", ",,")


@dataclass(frozen=True, slots=True)
class Fragment:
    """All that one device needs, in order: backends first, the device last."""

    id: str
    kind: str
    steps: tuple[Step, ...]

    def argv(self) -> tuple[str, ...]:
        """Return the fragment of the command line."""
        return tuple(word for step in self.steps for word in step.argv())

    def plug(self) -> tuple[Command, ...]:
        """Return the commands that plug it into a running machine, in order."""
        return tuple(step.plug() for step in self.steps)

    def unplug(self) -> tuple[Command, ...]:
        """Return the commands that take it away again, in order: the device first, its backends after."""
        return tuple(step.unplug() for step in reversed(self.steps))
