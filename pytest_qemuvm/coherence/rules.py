"""The rules: each compares what was before, what is now and what was recorded, and touches nothing.

A new kind of finding is a row in ``finding.HINTS`` and a rule here; another plugin brings its rules by the
hook ``pytest_qemuvm_coherence_rules``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.coherence.facts import Facts, Ledger, VMEntry, VMFacts
from pytest_qemuvm.coherence.finding import Finding

if TYPE_CHECKING:
    from pytest_qemuvm.coherence.facts import FileFact

Find = Callable[[Facts, Facts, Ledger], Iterable[Finding]]
"""``(before, after, ledger) -> findings``. ``before`` is what was seen when the scope of the check began."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with the kinds of findings that it may come to."""

    kinds: tuple[str, ...]
    find: Find


def vm_state(_before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Compare each VM's record with its process, and with what QEMU says of itself."""
    for entry, seen in _checked(after, ledger):
        if seen.alive == (entry.state == "stopped"):
            found = "a process that runs" if seen.alive else _how_it_ended(seen)
        elif seen.graph is not None and {entry.state, seen.graph.status} == {"running", "paused"}:
            found = f"QEMU says {seen.graph.status}"
        else:
            continue
        yield Finding("vm_state_mismatch", entry.name, f"recorded {entry.state}", found, vm=entry.name)


def _how_it_ended(seen: VMFacts) -> str:
    return (
        "no process" if seen.exit_status is None else f"no process: it ended with status {seen.exit_status}"
    )


_PARTS = (
    ("leaked_block_node", "block_nodes", "block node"),
    ("leaked_device", "devices", "device"),
    ("leaked_netdev", "netdevs", "network backend"),
    ("leaked_chardev", "chardevs", "character device"),
    ("leaked_object", "objects", "object"),
    ("leaked_job", "jobs", "job"),
    ("leaked_fdset", "fdsets", "set of descriptors"),
)


def leaks(before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Find what QEMU has more than before, and no helper has plugged."""
    for entry, seen in _checked(after, ledger):
        earlier = before.vms.get(entry.name)
        if seen.graph is None or earlier is None or earlier.graph is None:
            continue
        for kind, part, what in _PARTS:
            known = getattr(earlier.graph, part) | getattr(entry.plugged, part)
            for name in sorted(getattr(seen.graph, part) - known):
                yield Finding(
                    kind, f"{entry.name}: {what} {name}", "not there", "still there", vm=entry.name, key=name
                )


def panics(_before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Find guests that panicked without the test's knowing."""
    for entry, seen in _checked(after, ledger):
        if seen.unseen_panic is not None:
            said = seen.unseen_panic.strip() or "(nothing)"
            yield Finding(
                "unseen_panic",
                entry.name,
                "a guest that runs",
                f"it panicked; its console said last:\n{said}",
                vm=entry.name,
            )


def disks(_before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Compare each disk's record with its file, and with the images that QEMUs have open."""
    holders = _holders(after, ledger)
    for disk in ledger.disks:
        if not os.path.lexists(disk.path):
            yield Finding("missing_disk", disk.name, f"a file {disk.path}", "no file", key=disk.name)
            continue
        having = holders.get(str(disk.path), ())
        if disk.state == "attached" and disk.holder not in having:
            if not _is_changing(ledger, disk.holder):
                found = f"{_vm_list(having)} has it open" if having else "no VM has it open"
                expected = f"attached to {disk.holder}"
                yield Finding("disk_state_inconsistent", disk.name, expected, found, key=disk.name)
        elif disk.state == "available" and having and not any(_is_changing(ledger, vm) for vm in having):
            found = f"{_vm_list(having)} has it open"
            yield Finding("disk_state_inconsistent", disk.name, "available", found, key=disk.name)


def chains(_before: Facts, after: Facts, _ledger: Ledger) -> Iterator[Finding]:
    """Find disks that rest on what is not there any more, and templates that were written to."""
    for name, problem in after.chains.items():
        yield Finding("broken_backing_chain", name, "every image that it rests on", problem, key=name)
    for name, paths in after.modified.items():
        yield Finding("template_modified", name, "the files as they were", f"changed: {', '.join(paths)}")


def locks(_before: Facts, after: Facts, _ledger: Ledger) -> Iterator[Finding]:
    """Find disks that a process outside the session has locked."""
    for path, pids in after.lockers.items():
        found = f"locked by {', '.join(f'process {pid}' for pid in pids)}"
        yield Finding("foreign_lock", str(path), "locked by none but the session's VMs", found, key=pids)


def processes(before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Find processes of the session that nobody recorded."""
    recorded = {entry.process for entry in ledger.vms}
    changing = {f"guest={entry.name}@{ledger.tag}" for entry in ledger.vms if entry.changing}
    for process in sorted(after.processes - before.processes, key=lambda process: process.pid):
        starting = any(word.split(",")[0] in changing for word in process.argv)
        if process.pid in ledger.processes or starting or (process.pid, process.start) in recorded:
            continue
        if process.zombie:
            found = "it has ended, and nobody has waited for it"
            yield Finding("zombie", f"process {process.pid}", "not there", found, key=process)
        else:
            found = f"it runs: {' '.join(process.argv)[:200]}"
            yield Finding("orphan_process", f"process {process.pid}", "not there", found, key=process)


def files(before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Find files in the session's directory that nobody recorded."""
    known = {*ledger.files, *(disk.path for disk in ledger.disks)}
    run_dirs = {entry.run_dir for entry in ledger.vms}
    for entry in ledger.vms:
        known |= entry.sockets
    for file in sorted(after.files - before.files, key=lambda file: file.path):
        in_run_dir = not run_dirs.isdisjoint(file.path.parents)
        kind = _kind_of(file, in_run_dir=in_run_dir)
        if kind == "orphan_socket" and any(entry.changing for entry in ledger.vms):
            continue  # it may be that of a device that is just being plugged
        if kind is not None and file.path not in known:
            yield Finding(
                kind, str(file.path), "no record, no file", "a file without a record", key=file.path
            )


def _kind_of(file: FileFact, *, in_run_dir: bool) -> str | None:
    """Return what a file nobody recorded is; plain files in the directory of a VM are its own affair."""
    if file.is_socket:
        return "orphan_socket"
    named = {".pid": "orphan_pidfile", ".lock": "orphan_lock"}.get(file.path.suffix)
    return named or (None if in_run_dir else "orphan_disk")


def taps(before: Facts, after: Facts, ledger: Ledger) -> Iterator[Finding]:
    """Find network devices of the session that nobody recorded."""
    for name in sorted(after.taps - before.taps - ledger.taps):
        yield Finding("orphan_tap", name, "not there", "a network device of the host", key=name)


def failures(_before: Facts, after: Facts, _ledger: Ledger) -> Iterator[Finding]:
    """Say what could not be checked."""
    for failure in after.failures:
        yield Finding("check_error", failure.what, "facts", failure.error)


BUILT_IN = (
    Rule(("vm_state_mismatch",), vm_state),
    Rule(("unseen_panic",), panics),
    Rule(tuple(kind for kind, _, _ in _PARTS), leaks),
    Rule(("missing_disk", "disk_state_inconsistent"), disks),
    Rule(("broken_backing_chain", "template_modified"), chains),
    Rule(("foreign_lock",), locks),
    Rule(("orphan_process", "zombie"), processes),
    Rule(("orphan_disk", "orphan_socket", "orphan_pidfile", "orphan_lock"), files),
    Rule(("orphan_tap",), taps),
    Rule(("check_error",), failures),
)


def apply(rules: Iterable[Rule], before: Facts, after: Facts, ledger: Ledger) -> list[Finding]:
    """Return what all rules find; a rule that fails is a finding itself."""
    found: list[Finding] = []
    for rule in rules:
        try:
            found += rule.find(before, after, ledger)
        except Exception as error:  # noqa: BLE001  # also of strangers; a silent check would be worse than none
            what = f"the rule for {', '.join(rule.kinds)}"
            found.append(Finding("check_error", what, "an answer", f"{type(error).__name__}: {error}"))
    return found


def _checked(after: Facts, ledger: Ledger) -> Iterator[tuple[VMEntry, VMFacts]]:
    for entry in ledger.vms:
        if entry.name in after.vms and not entry.changing:
            yield entry, after.vms[entry.name]


def _holders(after: Facts, ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Return which VMs have which files open."""
    having: dict[str, tuple[str, ...]] = {}
    for entry in ledger.vms:
        seen = after.vms.get(entry.name)
        if seen is None:
            continue
        for path in seen.open_files | (seen.graph.images if seen.graph else frozenset()):
            having[path] = (*having.get(path, ()), entry.name)
    return having


def _is_changing(ledger: Ledger, name: str | None) -> bool:
    return any(entry.changing for entry in ledger.vms if entry.name == name)


def _vm_list(names: Iterable[str]) -> str:
    return ", ".join(f"VM {name}" for name in names)


def known_kinds(rules: Iterable[Rule]) -> frozenset[str]:
    """Return every kind that these rules may come to."""
    return frozenset(kind for rule in rules for kind in rule.kinds)
