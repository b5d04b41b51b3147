"""``qemuvm ps``: the VMs, disks and networks of all sessions of the user on this host, and whose they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_qemuvm.cli.output import say
from pytest_qemuvm.host.paths import sessions_root
from pytest_qemuvm.host.sessions import SeenDisk, SeenSession, SeenVM, look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_HEAD = ("SESSION", "KIND", "NAME", "PID", "STATE", "OWNER")


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "ps",
        help="list the VMs and disks of all running sessions, and whose they are",
        description="Lists the sessions of this user below TMPDIR. A dead one is shown as such until "
        "`qemuvm gc`, or the next session, has removed what it left.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look and print; that there is nothing is no failure."""
    sessions = look(sessions_root())
    if arguments.json:
        say(json.dumps({"sessions": [asdict(session) for session in sessions]}, indent=2))
    elif sessions:
        say(table(sessions))
    else:
        say(f"no session below {sessions_root()}")
    return 0


def table(sessions: list[SeenSession]) -> str:
    """Return a line for each session, VM, disk and network, in columns."""
    lines = [_HEAD, *(line for session in sessions for line in _lines(session))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _lines(session: SeenSession) -> Iterator[tuple[str, ...]]:
    tag = session.tag
    state = f"{session.state}, dry-run" if session.mode == "dry-run" else session.state
    yield tag, "session", session.worker or "-", _number(session.pid), state, session.directory or "-"
    for vm in session.vms:
        yield tag, "vm", vm.name, _number(vm.pid), vm.state, _owner(vm)
    for disk in session.disks:
        yield tag, "disk", disk.name, "-", _disk_state(disk), disk.owner
    for network in session.networks:
        vms = ", ".join(f"{name} {ip}" if ip else name for name, ip in network.vms.items()) or "nobody"
        yield tag, "network", network.name, "-", f"{network.kind} {network.subnet}: {vms}", network.owner


def _number(pid: int | None) -> str:
    return "-" if pid is None else str(pid)


def _owner(vm: SeenVM) -> str:
    """Say for whom it was made, and in which test it was started where that is another thing."""
    if vm.test is None or vm.test == vm.owner:
        return vm.owner
    return f"{vm.owner} (started in {vm.test})"


def _disk_state(disk: SeenDisk) -> str:
    return f"open in {', '.join(disk.holders)}" if disk.holders else "available"
