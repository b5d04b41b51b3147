"""Nodes and the edges between them, and whose permissions go together."""

from __future__ import annotations

from pytest_qemuvm.sim.block.locks import ALL, CONSISTENT_READ, RESIZE, WRITE, WRITE_UNCHANGED, names
from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.locks import FileLocks
    from pytest_qemuvm.sim.objects import Object


class Edge:
    """The use of a node: by a node above it, by a device, or by a job."""

    def __init__(self, node: Node, role: str, user: Node | str, perm: int = 0, shared: int = ALL) -> None:
        self.node = node
        self.role = role
        """What the user calls it: ``file``, ``backing``, ``root``."""
        self.user = user
        """The node above, or QEMU's description of who it is."""
        self.perm = perm
        self.shared = shared

    def described(self) -> str:
        """Return the user as QEMU names it in an error."""
        who = f"node '{self.user.name}'" if isinstance(self.user, Node) else self.user
        return f"{who} (uses node '{self.node.name}' as '{self.role}' child)"


class Node:
    """A node: a file, a format over it, or something without either."""

    def __init__(self, name: str, driver: str, options: dict[str, Any]) -> None:
        self.name = name
        self.driver = driver
        self.options = options
        self.read_only = False
        self.children: dict[str, Edge] = {}
        self.parents: list[Edge] = []
        self.size = 0
        self.path = ""
        self.fd = -1
        self.fdset: int | None = None
        self.locks: FileLocks | None = None
        self.holds: Object | None = None
        """The object that it cannot do without."""
        self.header: Any = None
        """What an image of a format says of itself."""
        self.monitor_owned = False
        """Made by ``blockdev-add``, so that ``blockdev-del`` may remove it."""
        self.implicit = False

    @property
    def is_format(self) -> bool:
        """Whether it keeps metadata in the node below it."""
        return self.driver == "qcow2"

    def child(self, role: str) -> Node | None:
        """Return the node that is its ``file`` or ``backing``."""
        edge = self.children.get(role)
        return edge.node if edge is not None else None


def cumulative(node: Node) -> tuple[int, int]:
    """Return what all users of a node want, and what all of them allow to others."""
    perm, shared = 0, ALL
    for edge in node.parents:
        perm |= edge.perm
        shared &= edge.shared
    return perm, shared


def refresh(node: Node) -> None:
    """Work out anew who needs what below a node, whose users changed. Raises QmpRefusal, with no change."""
    planned: list[tuple[Edge, int, int]] = []
    locked: list[Node] = []
    try:
        _plan(node, planned, locked)
    except QmpRefusal:
        for edge, perm, shared in reversed(planned):
            edge.perm, edge.shared = perm, shared
        for below in locked:
            if below.locks is not None:
                below.locks.settle(*cumulative(below))
        raise
    for below in locked:
        if below.locks is not None:
            below.locks.settle(*cumulative(below))


def _plan(node: Node, planned: list[tuple[Edge, int, int]], locked: list[Node]) -> None:
    _check_conflicts(node)
    perm, shared = cumulative(node)
    if perm & (WRITE | WRITE_UNCHANGED) and node.read_only:
        raise QmpRefusal("Block node is read-only")
    if node.locks is not None:
        locked.append(node)
        node.locks.want(perm, shared)
    for edge in node.children.values():
        planned.append((edge, edge.perm, edge.shared))
        edge.perm, edge.shared = _of_child(node, edge.role, perm, shared)
        _plan(edge.node, planned, locked)


def _of_child(node: Node, role: str, perm: int, shared: int) -> tuple[int, int]:
    """Return what a node needs of a child, and allows to others there."""
    if role == "backing":
        wanted = perm & CONSISTENT_READ
        allowed = (WRITE | RESIZE) if shared & WRITE else 0
        return wanted, allowed | CONSISTENT_READ | WRITE_UNCHANGED
    if node.is_format:
        wanted = perm | CONSISTENT_READ
        if not node.read_only:
            wanted |= WRITE | RESIZE
        return wanted & ~WRITE_UNCHANGED, shared & ~(WRITE | RESIZE)
    return perm, shared


def _check_conflicts(node: Node) -> None:
    for first in reversed(node.parents):
        for second in reversed(node.parents):
            denied = second.perm & ~first.shared
            if first is not second and denied:
                raise QmpRefusal(
                    f"Permission conflict on node '{node.name}': permissions '{names(denied)}' are both "
                    f"required by {second.described()} and unshared by {first.described()}."
                )


def attach(edge: Edge) -> None:
    """Begin a use. Raises QmpRefusal, with no change."""
    edge.node.parents.append(edge)
    try:
        refresh(edge.node)
    except QmpRefusal:
        edge.node.parents.remove(edge)
        raise


def detach(edge: Edge) -> None:
    """End a use."""
    edge.node.parents.remove(edge)
    refresh(edge.node)


def move_users(old: Node, new: Node) -> None:
    """Have all who use a node, but for jobs, use another instead. Raises QmpRefusal, with no change."""
    moved = [edge for edge in old.parents if edge.role not in {"job", "target"} and edge.user is not new]
    _move(moved, old, new)
    try:
        refresh(new)
    except QmpRefusal:
        _move(moved, new, old)
        raise
    refresh(old)


def _move(edges: list[Edge], old: Node, new: Node) -> None:
    for edge in edges:
        old.parents.remove(edge)
        new.parents.append(edge)
        edge.node = new
