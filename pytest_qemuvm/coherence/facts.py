"""What is the case, and what was recorded: frozen values that rules compare.

``Facts`` are observed, the ``Ledger`` is what the harness believes. A new fact is one field here and one
collector in ``collect.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Graph:
    """What one QEMU has, by name."""

    status: str = ""
    """Its run state: ``running``, ``paused``, ``guest-panicked``..."""
    block_nodes: frozenset[str] = NOTHING
    """Nodes with a name of their own; QEMU's ``#block`` names come and go with these."""
    images: frozenset[str] = NOTHING
    """Paths of the files that its block nodes have open."""
    devices: frozenset[str] = NOTHING
    """Ids of devices; those without one by QEMU's own names."""
    netdevs: frozenset[str] = NOTHING
    chardevs: frozenset[str] = NOTHING
    objects: frozenset[str] = NOTHING
    jobs: frozenset[str] = NOTHING
    fdsets: frozenset[str] = NOTHING


@dataclass(frozen=True, slots=True)
class VMFacts:
    """What one VM is seen to be."""

    alive: bool
    """Its process runs."""
    graph: Graph | None = None
    """None where it does not run, or does not answer."""
    open_files: frozenset[str] = NOTHING
    """Paths that its process has open, as the kernel names them."""
    exit_status: int | None = None
    """Of the process that was started last, if it has ended; negative: the signal that killed it."""
    unseen_panic: str | None = None
    """What its console said last, where its guest panicked and the test was never told."""


@dataclass(frozen=True, slots=True)
class ProcessFact:
    """A process that carries the session's tag."""

    pid: int
    start: int
    """When it started, in clock ticks since the host's boot: with the pid, its identity."""
    zombie: bool
    argv: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class FileFact:
    """Something in the session's directory that is no directory."""

    path: Path
    is_socket: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A collector that failed: what it would have seen is unknown."""

    what: str
    error: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything observed at one moment."""

    vms: Mapping[str, VMFacts] = field(default_factory=dict)
    processes: frozenset[ProcessFact] = frozenset()
    files: frozenset[FileFact] = frozenset()
    lockers: Mapping[Path, tuple[int, ...]] = field(default_factory=dict)
    """Pids of processes that are none of ours and hold a lock on a disk's file."""
    chains: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the images that a disk rests on, by the disk's name; sound ones are left out."""
    modified: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files of a template that are not what they were, by the template's name."""
    taps: frozenset[str] = NOTHING
    """Network devices of the host that carry the session's tag."""
    failures: tuple[Failure, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What collectors of other plugins found, by their names."""


@dataclass(frozen=True, slots=True)
class VMEntry:
    """What was recorded of a VM."""

    name: str
    state: str
    """``stopped``, ``running`` or ``paused``."""
    run: int
    """How often it was started: what was seen in another run says nothing about this one."""
    process: tuple[int, int] | None
    """The pid and start of the process that was started for it."""
    changing: bool
    """Somebody was changing its state while facts were collected: nothing can be said about it."""
    run_dir: Path
    plugged: Graph
    """What ``hotplug`` and ``attach`` have added and not taken away."""
    sockets: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """What was recorded of a disk."""

    name: str
    path: Path
    state: str
    """``available`` or ``attached``."""
    holder: str | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the harness believes."""

    tag: str
    root: Path
    vms: tuple[VMEntry, ...] = ()
    disks: tuple[DiskEntry, ...] = ()
    disk_dir: Path = Path("disks@")
    files: frozenset[Path] = frozenset()
    """Files of the session's own in its directory."""
    processes: frozenset[int] = frozenset()
    """Pids of the session's own helpers."""
    taps: frozenset[str] = NOTHING
