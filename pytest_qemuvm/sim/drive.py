"""A device's use of a block node: what ``query-block`` calls a device."""

from __future__ import annotations

from pytest_qemuvm.sim.block import info
from pytest_qemuvm.sim.block.locks import CONSISTENT_READ, RESIZE, WRITE, WRITE_UNCHANGED
from pytest_qemuvm.sim.block.nodes import detach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.graph import Graph
    from pytest_qemuvm.sim.block.nodes import Edge, Node


class Drive:
    """The block backend of one device, with a medium or without."""

    def __init__(self, graph: Graph, device: str, path: str, *, removable: bool, share_rw: bool) -> None:
        self._graph = graph
        self.device = device
        """The id of the device."""
        self.path = path
        """Where it is in QOM."""
        self.removable = removable
        self._share_rw = share_rw
        self.tray_open = False
        self.edge: Edge | None = None

    @property
    def node(self) -> Node | None:
        """The medium."""
        return self.edge.node if self.edge is not None else None

    def insert(self, node: Node) -> None:
        """Use a node. Raises QmpRefusal where it is in use in a way that does not go together."""
        perm = CONSISTENT_READ
        if not node.read_only and not self.removable:
            perm |= WRITE
        shared = CONSISTENT_READ | WRITE_UNCHANGED | (0 if self.removable else RESIZE)
        if self._share_rw:
            shared |= WRITE
        self.edge = self._graph.use(node, f"block device '{self.path}'", perm, shared)

    def remove(self) -> None:
        """Use nothing any more."""
        edge, self.edge = self.edge, None
        if edge is not None:
            detach(edge)

    def described(self, version: tuple[int, int]) -> dict[str, Any]:
        """Return it as ``query-block`` does."""
        found: dict[str, Any] = {
            "device": "",
            "qdev": self.path,
            "type": "unknown",
            "removable": self.removable,
            "locked": False,
        }
        if self.removable:
            found["tray_open"] = self.tray_open
        if self.node is not None:
            found["inserted"] = info.block_device(self.node, version)
        found["io-status"] = "ok"
        return found
