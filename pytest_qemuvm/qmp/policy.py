"""Which commands a test may send: the class of each, and what is blocked unless it is asked for.

The table, ``classes.json``, says of every command of every supported QEMU its class with the reason. Blocked
outright are two; for the rest it depends on where their arguments lead (``reach.py``).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_qemuvm.errors import CommandBlocked, SpecError, nearest
from pytest_qemuvm.qmp.reach import reaches, reaches_of_image, reaches_of_unknown
from pytest_qemuvm.qmp.rewriting import rewritten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_qemuvm.qmp.reach import Reach
    from pytest_qemuvm.qmp.rewriting import Nodes

CommandClass = Literal["safe", "privileged", "memory-dump", "dangerous"]


class Entry(NamedTuple):
    """What the table says of a command."""

    class_: CommandClass
    reason: str
    disruptive: bool = False
    """It ends, resets or removes something: who sends it finds that in the log."""


_UNKNOWN = Entry("dangerous", "no supported QEMU is known to have it")
_UNKNOWN_QUERY = Entry("safe", "asks")

BLOCKED: Mapping[str, str] = {
    "human-monitor-command": "takes any text of the human monitor, past every rule about arguments",
    "inject-nmi": "injects a non-maskable interrupt, which most guests die of",
}
"""What is blocked whatever its arguments are."""


@cache
def table() -> Mapping[str, Entry]:
    """Return the class of every known command."""
    rows = json.loads(Path(__file__).with_name("classes.json").read_text(encoding="utf-8"))
    return {
        name: Entry(row["class"], row["reason"], row.get("disruptive", False)) for name, row in rows.items()
    }


def classify(command: str) -> Entry:
    """Return the class of a command; one that nobody knows is dangerous unless it only asks."""
    found = table().get(command)
    if found is not None:
        return found
    return _UNKNOWN_QUERY if command.startswith("query-") else _UNKNOWN


def checked_permission(command: object) -> str:
    """Return the name of a command that a mark permits. Raises SpecError for one that is in no QEMU."""
    known = table()
    if not isinstance(command, str) or (command not in known and not command.startswith("__")):
        raise SpecError(f"{command!r} is no QMP command", hint=nearest(str(command), known))
    return command


def _no_files() -> Iterable[str | os.PathLike[str]]:
    return ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where on the host the commands of one VM may lead; the empty one is nowhere."""

    base: str | os.PathLike[str] = "/nonexistent"
    """QEMU's working directory, from which relative paths start."""
    directories: tuple[str | os.PathLike[str], ...] = ()
    """In these, and below, it may read and write files."""
    sockets: tuple[str | os.PathLike[str], ...] = ()
    """In these, and below, it may listen and connect to unix sockets, as it may in ``directories``."""
    files: Callable[[], Iterable[str | os.PathLike[str]]] = field(default=_no_files)
    """Single files that are its own: disks."""

    def allow(self, reach: Reach) -> bool:
        """Return whether a command may lead there, symbolic links and ``..`` followed to their end."""
        if reach.kind not in ("file", "socket") or "\0" in reach.value:
            return False
        named = os.path.join(self.base, reach.value)  # noqa: PTH118  # pathlib would fold "x/.." too early
        if os.path.normpath(named).startswith(("/proc/", "/dev/fd/", "/dev/std")):
            # They name one thing to us and another to QEMU.
            return False
        target = os.path.realpath(named)
        below = (*self.directories, *(self.sockets if reach.kind == "socket" else ()))
        if any(target.startswith(os.path.realpath(directory) + os.sep) for directory in below):
            return True
        return any(target == os.path.realpath(path) for path in self.files())


class Wanted(NamedTuple):
    """One command that is to be carried out, by itself or as an action of a transaction."""

    command: str
    arguments: Mapping[str, Any]
    where: str
    """Where it stands in the arguments of what is sent; empty for that itself."""


def wanted(command: str, arguments: Mapping[str, Any]) -> Iterator[Wanted]:
    """Yield the command and, of a transaction, each of its actions."""
    yield Wanted(command, arguments, "")
    actions = arguments.get("actions") if command == "transaction" else None
    for index, action in enumerate(actions if isinstance(actions, (list, tuple)) else ()):
        if isinstance(action, dict) and isinstance(action.get("type"), str):
            data = action.get("data")
            found = data if isinstance(data, dict) else {}
            yield Wanted(action["type"], found, f"arguments.actions[{index}]")


def judge(command: str, arguments: Mapping[str, Any], places: Places, permitted: frozenset[str]) -> None:
    """Raise CommandBlocked unless the command, with every action in it, may be sent.

    ``permitted`` are the commands that a test's marks allow; to permit ``transaction`` permits what is in it.
    """
    if command in permitted:
        return
    for each in wanted(command, arguments):
        if each.command in permitted:
            continue
        inside = f" (in {each.where})" if each.where else ""
        if each.command in BLOCKED:
            raise _blocked(each, f"{each.command}{inside} is blocked: it {BLOCKED[each.command]}")
        known = each.command in table() or each.command.startswith("query-")
        found = reaches(each.command, each.arguments) if known else reaches_of_unknown(each.arguments)
        for reach in found:
            if not places.allow(reach):
                path = reach.path.replace("arguments", f"{each.where}.data", 1) if each.where else reach.path
                raise _blocked(each, f"{each.command} is blocked: {path} {_WHY[reach.kind]}: {reach.value!r}")


def judge_rewriting(
    command: str, arguments: Mapping[str, Any], nodes: Nodes | None, places: Places, permitted: frozenset[str]
) -> None:
    """Raise CommandBlocked where a command would change an image that may only be read.

    ``nodes`` are those of the QEMU that it is for; where they are not known, it might be any image.
    """
    if command in permitted:
        return
    this = Wanted(command, arguments, "")
    if nodes is None:
        raise _blocked(this, f"{command} is blocked: QEMU cannot be asked which images it would change")
    for path, image in rewritten(command, arguments, nodes):
        if not all(places.allow(reach) for reach in reaches_of_image(image, path)):
            raise _blocked(this, f"{command} is blocked: by {path} it would change an image: {image!r}")


_WHY = {
    "program": "runs a program of the host",
    "file": "is outside the VM's own directory, its disks and the artefacts",
    "socket": "is a socket outside the session's directory",
    "hardware": "is hardware of the host",
    "unknown": "leads who knows where",
}


def _blocked(each: Wanted, brief: str) -> CommandBlocked:
    return CommandBlocked(
        brief,
        f"class {classify(each.command).class_}: {classify(each.command).reason}",
        "if the test means it: allow_dangerous=True for this call, or "
        f"@pytest.mark.qemuvm_allow({each.command!r}); files have a place in vm.run_dir",
    )
