"""Which images a command has QEMU write to that it has open for reading only.

Pure. Whoever opens an image for writing names it, and is judged by that (``reach.py``). A few commands have
QEMU reopen for writing what it only reads, such as the images under a disk, and name a node or nothing at
all. For these QEMU is asked which nodes there are, and what is behind them.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

QUESTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("x-debug-query-block-graph", {}),
    ("query-named-block-nodes", {"flat": True}),
)
"""What ``Nodes`` is made of."""


class Rewritten(NamedTuple):
    """One image that a command would have QEMU reopen for writing."""

    path: str
    """The argument that says so, as in ``arguments.base-node``."""
    image: str
    """The image, in QEMU's words: a path, or where else it is."""


def reopens(command: str) -> bool:
    """Return whether a command may have QEMU write to what it has open for reading only."""
    return command in _RULES


def rewritten(command: str, arguments: Mapping[str, Any], nodes: Nodes) -> Iterator[Rewritten]:
    """Yield the images that a command would have reopened for writing; none for a node that is not there."""
    for key, node in _RULES[command](arguments, nodes):
        for image in nodes.read_only(node):
            yield Rewritten(f"arguments.{key}", image)


class _Node(NamedTuple):
    name: str
    backing: int | None
    below: tuple[int, ...]
    """The others that it rests on: of a format its file, of a filter what it filters."""


class Nodes:
    """The block nodes of one QEMU, by numbers, and which rests on which: made of answers to ``QUESTIONS``."""

    def __init__(self, graph: Mapping[str, Any], named: Iterable[Mapping[str, Any]]) -> None:
        edges: dict[int, dict[str, int]] = {}
        for edge in graph["edges"]:
            edges.setdefault(edge["parent"], {})[edge["name"]] = edge["child"]
        self._nodes: dict[int, _Node] = {}
        self._by_name: dict[str, int] = {}
        # A drive's name means the node behind it, unless a node has that name.
        for entry in sorted(graph["nodes"], key=lambda entry: bool(entry["type"] == "block-driver")):
            below = edges.get(entry["id"], {})
            if entry["type"] == "block-driver":
                others = tuple(child for role, child in below.items() if role != "backing")
                self._nodes[entry["id"]] = _Node(entry["name"], below.get("backing"), others)
                self._by_name[entry["name"]] = entry["id"]
            elif "root" in below:
                self._by_name[entry["name"]] = below["root"]
        self._entries = {entry["node-name"]: entry for entry in named}

    def find(self, name: object) -> int | None:
        """Return the node of that name, or behind the drive of that name."""
        return self._by_name.get(name) if isinstance(name, str) else None

    def chain(self, top: int) -> list[int]:
        """Return a node and those that it is an overlay on, the topmost first, without filters."""
        found: list[int] = []
        node: int | None = top
        while node is not None and node in self._nodes and node not in found:
            entry = self._nodes[node]
            if entry.backing is None and len(entry.below) == 1 and self._rests(entry.below[0]):
                (node,) = entry.below
                continue
            found.append(node)
            node = entry.backing
        return found

    def images(self, node: int) -> Iterator[Mapping[str, Any]]:
        """Yield what QEMU says of each image of a node; those that it is an overlay on are other nodes'."""
        entry = self._nodes.get(node)
        if entry is None:
            return
        if not entry.below and entry.name in self._entries:
            yield self._entries[entry.name]
        for below in entry.below:
            yield from self.images(below)

    def read_only(self, node: int) -> Iterator[str]:
        """Yield the images of a node that are open for reading only."""
        return (image["file"] for image in self.images(node) if image["ro"])

    def named(self, chain: list[int], file: object) -> list[int]:
        """Return the places in a chain that may be meant by a file's name; all where none seems to be.

        QEMU compares the name with what each overlay says of its backing file, which need not be its path.
        """
        last = PurePath(str(file)).name
        found = [
            place
            for place, node in enumerate(chain)
            if any(PurePath(image["file"]).name == last for image in self.images(node))
        ]
        return found or [*range(len(chain))]

    def _rests(self, node: int) -> bool:
        entry = self._nodes.get(node)
        return entry is not None and (entry.backing is not None or bool(entry.below))


def _commit(arguments: Mapping[str, Any], nodes: Nodes) -> Iterator[tuple[str, int]]:
    """Yield what is committed into, and the overlay that is given another backing file."""
    active = nodes.find(arguments.get("device"))
    if active is None:
        return
    chain = nodes.chain(active)
    if "base-node" in arguments:
        base = nodes.find(arguments["base-node"])
        if base is not None:
            yield "base-node", base
    elif "base" in arguments:
        yield from (("base", chain[place]) for place in nodes.named(chain, arguments["base"]))
    else:
        yield "device", chain[-1]
    if "top-node" in arguments:
        top = nodes.find(arguments["top-node"])
        tops = [place for place, node in enumerate(chain) if top is not None and node == nodes.chain(top)[0]]
        yield from (("top-node", chain[place - 1]) for place in tops if place)
    elif "top" in arguments:
        yield from (("top", chain[place - 1]) for place in nodes.named(chain, arguments["top"]) if place)


def _written(key: str) -> Callable[[Mapping[str, Any], Nodes], Iterator[tuple[str, int]]]:
    """Return a rule for commands that write to the node that an argument names."""

    def rule(arguments: Mapping[str, Any], nodes: Nodes) -> Iterator[tuple[str, int]]:
        node = nodes.find(arguments.get(key))
        if node is not None:
            yield key, nodes.chain(node)[0]

    return rule


def _reopen(arguments: Mapping[str, Any], nodes: Nodes) -> Iterator[tuple[str, int]]:
    options = arguments.get("options")
    for index, option in enumerate(options if isinstance(options, (list, tuple)) else ()):
        # Left out, it means for writing.
        if isinstance(option, dict) and option.get("read-only") is not True:
            node = nodes.find(option.get("node-name"))
            if node is not None:
                yield f"options[{index}].node-name", node


_RULES: Mapping[str, Callable[[Mapping[str, Any], Nodes], Iterator[tuple[str, int]]]] = {
    "block-commit": _commit,
    "block-stream": _written("device"),
    "change-backing-file": _written("image-node-name"),
    "blockdev-reopen": _reopen,
    "x-blockdev-amend": _written("node-name"),
}
