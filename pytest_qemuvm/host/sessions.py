"""The sessions of the user on this host, as seen from outside: what they say, held against facts.

What a session recorded is what it made and for whom. Whether that is there, and who has it open, is looked
up: a record outlives whoever wrote it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_qemuvm.host import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class SeenVM:
    """A machine of a session that has been started."""

    name: str
    state: Literal["running", "pooled", "suspended", "ended"]
    """Of its process: running, waiting in the pool for a test, stopped by a signal, or gone."""
    pid: int | None
    """None where it has ended."""
    ticks: int | None
    """When that process started, in clock ticks since boot: with the pid, its identity."""
    owner: str
    """The test, module or session that it was made for."""
    test: str | None
    """The test that ran when it was started."""
    template: str
    memory: int
    """Bytes."""
    cpus: int
    monitor: str | None
    """The socket of its second monitor; None in a session of a version that had none."""


@dataclass(frozen=True, slots=True)
class SeenDisk:
    """A disk image of a session that exists."""

    name: str
    path: str
    size: int | None
    """Virtual size in bytes; None where it was not recorded."""
    owner: str
    holders: tuple[str, ...]
    """The VMs whose process has it open."""


@dataclass(frozen=True, slots=True)
class SeenNetwork:
    """A network of a session."""

    name: str
    kind: str
    subnet: str
    owner: str
    vms: dict[str, str | None]
    """Addresses by the names of the VMs that are connected; None where nobody has given one."""


@dataclass(frozen=True, slots=True)
class SeenSession:
    """A session that has a lease."""

    tag: str
    state: Literal["living", "dead"]
    """Dead: nobody holds its lease, and ``qemuvm gc`` removes what it left."""
    pid: int | None
    """Of its pytest."""
    worker: str | None
    directory: str | None
    """pytest's rootdir."""
    since: float | None
    """When it began, in seconds since the epoch."""
    vms: tuple[SeenVM, ...]
    disks: tuple[SeenDisk, ...]
    networks: tuple[SeenNetwork, ...] = ()
    mode: str | None = None
    """``real`` or ``dry-run``; None before it had anything."""


def look(root: Path) -> list[SeenSession]:
    """Return the sessions below a root; none where there is no such directory."""
    return [seen for tag in sweep.leases(str(root)) if (seen := _session(root, tag)) is not None]


def _session(root: Path, tag: str) -> SeenSession | None:
    path = f"{root}/{tag}{sweep.LEASE}"
    descriptor = sweep.seize(path)
    says = sweep.read_json(path)
    if descriptor is not None:
        os.close(descriptor)
    elif not says and not Path(path).exists():
        return None  # it ended while we looked
    record = sweep.read_json(f"{root}/{tag}/{sweep.RECORD}")
    if record.get("boot") != sweep.boot_id():
        record = {}
    return SeenSession(
        tag=tag,
        state="living" if descriptor is None else "dead",
        pid=says.get("pid"),
        worker=says.get("worker"),
        directory=says.get("directory"),
        since=says.get("since"),
        vms=tuple(_vms(record)),
        disks=disks_of(record),
        networks=tuple(SeenNetwork(**network) for network in record.get("networks", ())),
        mode=record.get("mode"),
    )


def disks_of(record: dict[str, Any]) -> tuple[SeenDisk, ...]:
    """Return the disks that a session's record tells of and that exist."""
    opened = {vm.name: _open_files(vm.pid) for vm in _vms(record) if vm.pid is not None}
    return tuple(_disks(record, opened))


def _vms(record: dict[str, Any]) -> Iterator[SeenVM]:
    for vm in record.get("vms", ()):
        pid, ticks = vm.get("process") or (None, None)
        if pid is not None and sweep.start_ticks(pid) != ticks:
            pid = None
        yield SeenVM(
            name=vm["name"],
            state=_state(pid, pooled=bool(vm.get("pooled"))),
            pid=pid,
            ticks=None if pid is None else ticks,
            owner=vm["owner"],
            test=vm["test"] or None,
            template=vm["template"],
            memory=vm["memory"],
            cpus=vm["cpus"],
            monitor=vm.get("monitor"),
        )


def _disks(record: dict[str, Any], opened: dict[str, set[str]]) -> Iterator[SeenDisk]:
    """Yield the session's disks, then those that belong to a VM; both only if they exist."""
    known = [(disk["name"], disk["path"], disk["size"], disk["owner"]) for disk in record.get("disks", ())]
    for vm in record.get("vms", ()):
        known += [(f"{vm['name']}/{Path(path).name}", path, None, vm["owner"]) for path in vm["disks"]]
    for name, path, size, owner in known:
        if Path(path).exists():
            holders = tuple(vm for vm, files in opened.items() if os.path.realpath(path) in files)
            yield SeenDisk(name, path, size, owner, holders)


def _state(pid: int | None, *, pooled: bool) -> Literal["running", "pooled", "suspended", "ended"]:
    if pid is None:
        return "ended"
    if _is_stopped(pid):
        return "suspended"
    return "pooled" if pooled else "running"


def _is_stopped(pid: int) -> bool:
    try:
        return sweep.stat(pid)[0] in (b"T", b"t")
    except OSError:
        return False


def _open_files(pid: int) -> set[str]:
    """Return the files that a process has open; QEMU has its images open and its kernel not."""
    found = set()
    with suppress(OSError):  # it has ended meanwhile
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found.add(str(link.readlink()))
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a session that no longer lives."""

    tag: str
    pids: tuple[int, ...]
    """Processes that carried its tag or that it had recorded."""
    files: tuple[str, ...]
    """Its directory and its lease, those that there were."""
    links: tuple[str, ...]
    """Network interfaces that it had recorded."""
    left: tuple[str, ...] = ()
    """What is still there after all."""


def collect(root: Path, *, dry_run: bool) -> list[Found]:
    """Remove what dead sessions have left, or only say what there is; the living are not touched.

    A directory without a lease is nobody's that we know: it goes only if no process is called by its tag.
    """
    found = []
    for tag in sweep.leases(str(root)):
        descriptor = sweep.seize(f"{root}/{tag}{sweep.LEASE}")
        if descriptor is None:
            continue  # it lives, or somebody else is just removing it
        processes, links = sweep.recorded(str(root), tag)
        known = {pid for pid, ticks in processes if sweep.start_ticks(pid) == ticks}
        pids = tuple(sorted(known | set(sweep.tagged(tag))))
        files = tuple(str(path) for path in _files(root, tag))
        if dry_run:
            os.close(descriptor)
            found.append(Found(tag, pids, files, tuple(links)))
            continue
        sweep.clear(str(root), tag, descriptor)
        found.append(Found(tag, pids, files, tuple(links), _left(root, tag, processes, links)))
    found += _ownerless(root, dry_run=dry_run)
    if not dry_run:
        sweep.remove_root(str(root))
    return found


def _files(root: Path, tag: str) -> list[Path]:
    return [path for path in (root / tag, root / f"{tag}{sweep.LEASE}") if os.path.lexists(path)]


def _left(root: Path, tag: str, processes: list[tuple[int, int]], links: list[str]) -> tuple[str, ...]:
    pids = {*(pid for pid, ticks in processes if sweep.start_ticks(pid) == ticks), *sweep.tagged(tag)}
    return (
        *(f"process {pid}" for pid in sorted(pids)),
        *(f"interface {name}" for name in links if Path("/sys/class/net", name).exists()),
        *map(str, _files(root, tag)),
    )


def _ownerless(root: Path, *, dry_run: bool) -> Iterator[Found]:
    for directory in sorted(root.glob("qv-*/")):
        # A session that is just beginning has its lease before its directory, so this order misses none.
        if (root / f"{directory.name}{sweep.LEASE}").exists() or _is_called(directory.name):
            continue
        if directory.is_symlink() or not directory.exists():
            continue
        if not dry_run:
            sweep.remove_tree(str(directory))
        left = (str(directory),) if directory.exists() and not dry_run else ()
        yield Found(directory.name, (), (str(directory),), (), left)


def _is_called(tag: str) -> bool:
    """Return whether any process carries the tag, in its environment or on its command line."""
    if sweep.tagged(tag):
        return True
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if tag.encode() in entry.read_bytes():
                return True
        except OSError:  # gone
            continue
    return False
