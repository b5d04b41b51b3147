"""Finding a VM by its name among the living sessions of the user, from whatever process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_qemuvm.errors import AmbiguousName, NotRunning, VMNotFound, nearest
from pytest_qemuvm.host.paths import sessions_root
from pytest_qemuvm.host.sessions import look

if TYPE_CHECKING:
    from pytest_qemuvm.host.sessions import SeenSession, SeenVM


class Running(NamedTuple):
    """A machine that runs, and where it is to be reached."""

    session: str
    """The tag of its session."""
    name: str
    process: tuple[int, int]
    """(pid, start in clock ticks since boot)."""
    monitor: Path
    run_dir: Path
    """The VM's own directory."""


def find_vm(name: str, session: str | None = None, root: Path | None = None) -> Running:
    """Return the running VM of that name: of that session, of this process's own, or of the only one.

    Raises VMNotFound, with the nearest names, AmbiguousName where several sessions have one, and NotRunning
    where it has ended.
    """
    root = root or sessions_root()
    living = [seen for seen in look(root) if seen.state == "living"]
    if session is not None:
        tags = [seen.tag for seen in living]
        if session not in tags:
            hint = nearest(session, tags) if tags else None
            raise VMNotFound(f"no living session {session!r} below {root}", hint=hint)
        living = [seen for seen in living if seen.tag == session]
    # What waits in a pool is nobody's to talk to.
    found = [(seen, vm) for seen in living for vm in seen.vms if vm.name == name and vm.state != "pooled"]
    if not found:
        raise _not_found(name, living, root)
    # One that has ended is in the way of none that runs, and another session's not in that of our own.
    chosen = [(seen, vm) for seen, vm in found if vm.pid is not None] or found
    chosen = [(seen, vm) for seen, vm in chosen if seen.pid == os.getpid()] or chosen
    if len(chosen) > 1:
        raise AmbiguousName(
            f"{len(chosen)} sessions have a VM {name!r}",
            "\n".join(_whose(seen, vm) for seen, vm in chosen),
            "say which session is meant",
            sessions=[seen.tag for seen, _ in chosen],
        )
    ((seen, vm),) = chosen
    if vm.monitor is None:
        raise VMNotFound(f"VM {name!r} has no second monitor", _whose(seen, vm))
    if vm.pid is None or vm.ticks is None:
        raise NotRunning(f"VM {name!r} of session {seen.tag} is not running", _whose(seen, vm))
    return Running(seen.tag, name, (vm.pid, vm.ticks), Path(vm.monitor), root / seen.tag / name)


def _not_found(name: str, living: list[SeenSession], root: Path) -> VMNotFound:
    known = {vm.name for seen in living for vm in seen.vms}
    if not known:
        return VMNotFound(f"no VM {name!r}: nor any other below {root}", hint="is TMPDIR the same there?")
    return VMNotFound(f"no VM {name!r} in a living session", hint=nearest(name, known))


def _whose(seen: SeenSession, vm: SeenVM) -> str:
    where = " ".join(filter(None, (seen.worker, seen.directory)))
    return f"{seen.tag}: {vm.state}, made for {vm.owner} (pytest {seen.pid}, {where})"
