"""All nodes of a machine: opened over real files, found by name, and closed."""

from __future__ import annotations

import os
from stat import S_ISBLK, S_ISCHR, S_ISREG

from pytest_qemuvm.sim.block.locks import FileLocks
from pytest_qemuvm.sim.block.nodes import Edge, Node, attach, detach
from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine

_MODELLED = frozenset({"file", "host_device", "raw", "qcow2", "null-co", "null-aio", "throttle"})
_OVER_A_FILE = frozenset({"raw", "qcow2", "throttle"})
_LONGEST_NAME = 31


class Graph:
    """The nodes of one machine, in the order in which they were named."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.nodes: list[Node] = []
        self._generated = 0

    def find(self, name: str) -> Node | None:
        """Return the node of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    def add(self, options: dict[str, Any]) -> Node:
        """Open what ``blockdev-add`` and ``-blockdev`` name. Raises QmpRefusal, with nothing left open."""
        if "node-name" not in options:
            raise QmpRefusal("'node-name' must be specified for the root node")
        node = self._open(options, parent=None)
        node.monitor_owned = True
        return node

    def _open(self, options: dict[str, Any], parent: Node | None) -> Node:
        driver = options["driver"]
        if driver not in _MODELLED:
            raise NotModelled(f"the block driver {driver!r}")
        node = Node(options.get("node-name", ""), driver, options)
        node.read_only = options.get("read-only", parent.read_only if parent is not None else False)
        try:
            if driver in _OVER_A_FILE:
                self._use(node, "file", options["file"])
                self._name(node)
                self._open_format(node, options)
            else:
                self._name(node)
                self._open_protocol(node, options)
        except QmpRefusal:
            self.close(node)
            raise
        return node

    def _name(self, node: Node) -> None:
        if "node-name" not in node.options:
            self._generated += 1
            node.name = f"#block{self._generated}{os.getpid() % 90 + 10}"
        elif not _well_formed(node.name):
            raise QmpRefusal(f"Invalid node-name: '{node.name}'")
        elif self.find(node.name) is not None:
            raise QmpRefusal(f"Duplicate nodes with node-name='{node.name}'")
        elif len(node.name) > _LONGEST_NAME:
            raise QmpRefusal("Node name too long")
        self.nodes.append(node)

    def _use(self, node: Node, role: str, what: str | dict[str, Any]) -> None:
        """Have a node use another as its child, by name or by its options."""
        if isinstance(what, str):
            below = self.find(what)
            if below is None:
                raise QmpRefusal(f"Cannot find device='{what}' nor node-name='{what}'")
        else:
            below = self._open(what, node)
            below.implicit = True
        edge = Edge(below, role, node)
        node.children[role] = edge
        below.parents.append(edge)

    def _open_protocol(self, node: Node, options: dict[str, Any]) -> None:
        if node.driver in {"null-co", "null-aio"}:
            node.size = options.get("size", 1 << 30)
            return
        node.path = options["filename"]
        node.fd = self._descriptor(node)
        mode = os.fstat(node.fd).st_mode
        if node.driver == "file" and not S_ISREG(mode):
            raise QmpRefusal(f"'file' driver requires '{node.path}' to be a regular file")
        if node.driver == "host_device" and not (S_ISBLK(mode) or S_ISCHR(mode)):
            raise QmpRefusal(
                f"'host_device' driver requires '{node.path}' to be either a character or block device"
            )
        node.size = os.lseek(node.fd, 0, os.SEEK_END)
        if options.get("locking", "auto") != "off":
            node.locks = FileLocks(node.fd, node.path)

    def _descriptor(self, node: Node) -> int:
        flags = (os.O_RDONLY if node.read_only else os.O_RDWR) | os.O_CLOEXEC
        try:
            if node.path.startswith("/dev/fdset/"):
                return self._from_set(node, flags)
            return os.open(node.path, flags)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or 2
            raise QmpRefusal(f"Could not open '{node.path}': {os.strerror(number)}") from error

    def _from_set(self, node: Node, flags: int) -> int:
        number = int(node.path.removeprefix("/dev/fdset/"))
        try:
            fd = self._machine.fdsets.open(number, flags)
        except OSError as error:
            if self._machine.version >= (10, 0) and error.errno == 2:
                raise QmpRefusal(f"Failed to find fdset {node.path}") from error
            what = f"Could not dup FD for {node.path} flags {flags & os.O_ACCMODE:x}"
            raise QmpRefusal(f"{what}: {os.strerror(error.errno or 0)}") from error
        node.fdset = number
        return fd

    def _open_format(self, node: Node, options: dict[str, Any]) -> None:
        from pytest_qemuvm.sim.block.nodes import refresh

        below = node.child("file")
        assert below is not None
        refresh(node)
        node.size = options.get("size", below.size - options.get("offset", 0))
        if node.driver == "throttle":
            self._join_group(node, options["throttle-group"])
        if node.driver == "qcow2":
            from pytest_qemuvm.sim.block.qcow2 import Header

            if below.fd < 0:
                raise QmpRefusal("Image is not in qcow2 format")
            try:
                node.header = Header(below.fd)
            except ValueError as error:
                raise QmpRefusal(str(error)) from error
            node.size = node.header.size
            self._open_backing(node, options)

    def _join_group(self, node: Node, name: str) -> None:
        group = self._machine.objects.get(name)
        if group is None or group.kind != "throttle-group":
            raise NotModelled(f"the throttle group {name!r}, which is no object")
        node.holds = group
        group.users.append(node.name)

    def _open_backing(self, node: Node, options: dict[str, Any]) -> None:
        from pytest_qemuvm.sim.block.nodes import refresh

        backing = options.get("backing", node.header.backing or None)
        if backing is None:
            return
        if "backing" not in options:
            below = node.child("file")
            assert below is not None
            path = backing.removeprefix("file:")
            if not path.startswith("/"):
                path = os.path.join(os.path.dirname(below.path), path)
            file = {"driver": "file", "filename": path, "read-only": True}
            backing = {"driver": node.header.backing_format or "raw", "file": file, "read-only": True}
        try:
            self._use(node, "backing", backing)
        except QmpRefusal as refusal:
            if "backing" in options:
                raise
            raise QmpRefusal(f"Could not open backing file: {refusal.desc}") from refusal
        refresh(node)

    def remove(self, node: Node) -> None:
        """Do what ``blockdev-del`` does. Raises QmpRefusal."""
        if any(edge.role == "root" for edge in node.parents):
            raise QmpRefusal(f"Node {node.name} is in use")
        for edge in node.parents:
            if edge.role == "target":
                kind = next(job.kind for job in self._machine.jobs.values() if edge in job.edges)
                raise QmpRefusal(f"Node '{node.name}' is busy: block device is in use by block job: {kind}")
        check_not_below(node)
        if not node.monitor_owned:
            raise QmpRefusal(f"Node {node.name} is not owned by the monitor")
        if node.parents:
            raise QmpRefusal(f"Block device {node.name} is in use")
        self.close(node)

    def close(self, node: Node) -> None:
        """Close a node, and those below that nobody else has."""
        for edge in list(node.children.values()):
            if edge in edge.node.parents:
                detach(edge)
            if edge.node.implicit and not edge.node.parents:
                self.close(edge.node)
        node.children = {}
        if node.holds is not None:
            node.holds.users.remove(node.name)
            node.holds = None
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
            if node.fdset is not None:
                self._machine.fdsets.closed(node.fdset)
        if node in self.nodes:
            self.nodes.remove(node)

    def use(self, node: Node, user: str, perm: int, shared: int, role: str = "root") -> Edge:
        """Have a device or a job use a node. Raises QmpRefusal."""
        edge = Edge(node, role, user, perm, shared)
        attach(edge)
        return edge


def check_not_below(node: Node) -> None:
    """Raise QmpRefusal where a node is what another rests on."""
    for edge in node.parents:
        if edge.role == "backing" and isinstance(edge.user, Node):
            raise QmpRefusal(f"Node '{node.name}' is busy: node is used as backing hd of '{edge.user.name}'")


def _well_formed(name: str) -> bool:
    return (
        name[:1].isascii()
        and name[:1].isalpha()
        and all(letter.isascii() and (letter.isalnum() or letter in "-._") for letter in name)
    )
