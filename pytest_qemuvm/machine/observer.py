"""The observer: checks a session's books against what is the case, and takes away what it finds."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.coherence import FactCollector, Facts, Finding, Ledger, Scene, apply
from pytest_qemuvm.coherence.cleaning import (
    clean_graph,
    remove_file,
    remove_network_device,
    remove_process,
)
from pytest_qemuvm.coherence.collect import ANSWER_SECONDS
from pytest_qemuvm.coherence.facts import VMFacts
from pytest_qemuvm.coherence.graph import read_graph
from pytest_qemuvm.errors import QemuVMError, QmpError, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.accounts import disk_entry, machine, vm_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_qemuvm.coherence import Collector, Graph, Rule
    from pytest_qemuvm.coherence.facts import VMEntry
    from pytest_qemuvm.machine.books import Books
    from pytest_qemuvm.machine.observed import Observed
    from pytest_qemuvm.machine.vm import VM


_LASTING = frozenset({"check_error", "foreign_lock", "template_modified", "broken_backing_chain"})
"""Kinds that there is no inverse for."""


class Observer:
    """What the fixture ``coherence`` gives.

    ``check`` compares now, ``start`` has it done again and again on a thread. What QEMU had when a VM was
    started, and what there was when the present test began, is no leak of the test's.
    """

    def __init__(self, books: Books, rules: Sequence[Rule], collectors: Mapping[str, Collector]) -> None:
        self._books = books
        self._rules = rules
        self._collector = FactCollector(books.tag, books.root, collectors)
        self._at_start: dict[str, tuple[int, Graph]] = {}
        self._at_begin: dict[str, tuple[int, Graph]] = {}
        self._before = Facts()
        self._checking = threading.RLock()
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()
        self.found: list[Finding] = []
        """What the periodic check has found since it was started, each once."""
        self.appeared: set[str] = set()
        """The kinds that any check has found since the present test began; the plugin empties it."""
        self._told: set[Finding] = set()
        self.started_by: str | None = None
        """The owner of the scope in which the periodic check was started."""

    def __repr__(self) -> str:
        return f"<Observer of {self._books.tag}, {'periodic' if self.running else 'on demand'}>"

    # What a test uses

    def check(self) -> list[Finding]:
        """Compare records, files, processes and every QEMU's graph now; return what does not agree.

        A test that has left nothing behind, and nothing unfinished, gets ``[]``.
        """
        return self._check(self._at_begin, self._before)

    def start(self, interval: float = 1.0, *, owner: str | None = None) -> None:
        """Check every ``interval`` seconds from now on, on a thread of its own; ``found`` gathers findings.

        Idempotent; a second call changes nothing. It ends by ``stop``, at the latest with the test.
        """
        if interval <= 0:
            raise SpecError(f"{interval!r} is no interval in seconds")
        with self._checking:
            if self._thread is not None:
                return
            self.found = []
            self.started_by = owner
            self._enough = threading.Event()
            self._thread = threading.Thread(
                target=self._observe, args=(interval, self._enough), name="qemuvm-coherence", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the periodic check; its thread has ended when this returns. Idempotent."""
        with self._checking:
            thread, self._thread = self._thread, None
            self._enough.set()
        if thread is not None:
            thread.join()

    @property
    def running(self) -> bool:
        """True while the periodic check is on."""
        return self._thread is not None

    # What the harness uses

    def note_start(self, vm: Observed) -> None:
        """Take down what a VM has from its start. A QEMU that does not answer now fails its start anyway."""
        graph = self._graph(vm)
        if graph is not None:
            self._at_start[vm.name] = self._at_begin[vm.name] = vm.record.starts, graph

    def note_deleted(self, vm: Observed) -> None:
        """Forget a VM."""
        self._at_start.pop(vm.name, None)
        self._at_begin.pop(vm.name, None)

    def begin(self) -> None:
        """Take down what there is: from here on, what is more is a leak of the test that comes."""
        for vm in self._books.vms():
            graph = self._graph(vm)
            if graph is not None:
                self._at_begin[vm.name] = vm.record.starts, graph
        with self._books.still:
            seen = self._collector.collect(Scene(), self._ledger({}))
        self._before = replace(seen, vms={}, failures=())

    def check_scope(self, vms: Sequence[VM] | None) -> list[Finding]:
        """Return what is to be reported at the end of a scope, each finding once in a session.

        At the end of a test these are all VMs, compared with the test's begin (None); at the end of a module
        or session its own, compared with their start.
        """
        if vms is None:
            findings = self.check()
        else:
            names = {vm.name for vm in vms}
            before = {name: seen for name, seen in self._at_start.items() if name in names}
            findings = self._check({**self._at_begin, **before}, self._before)
        return [finding for finding in findings if finding not in self._told]

    def clean(self, findings: Sequence[Finding]) -> dict[Finding, str]:
        """Take away what was found, as far as it still is; return what could not be, and why."""
        remains: dict[Finding, str] = {}
        vms = {vm.name: vm for vm in self._books.vms()}
        for name in dict.fromkeys(finding.vm for finding in findings if finding.vm in vms):
            assert name is not None
            of_vm = [finding for finding in findings if finding.vm == name]
            remains |= self._clean_vm(vms[name], of_vm)
        removals: dict[str, Callable[[Finding], None]] = {
            "orphan_process": remove_process,
            "zombie": remove_process,
            "orphan_tap": remove_network_device,
            **dict.fromkeys(
                ("orphan_disk", "orphan_socket", "orphan_pidfile", "orphan_lock"),
                partial(remove_file, root=self._books.root),
            ),
        }
        for finding in findings:
            if finding.kind in removals:
                try:
                    removals[finding.kind](finding)
                except (QemuVMError, OSError) as error:
                    remains[finding] = str(error)
        # What is gone now may be left anew by another test; what stays is told once.
        self._told.update(remains, (finding for finding in findings if finding.kind in _LASTING))
        return remains

    def _clean_vm(self, vm: VM, findings: list[Finding]) -> dict[Finding, str]:
        leaks = [finding for finding in findings if finding.kind.startswith("leaked_")]
        remains: dict[Finding, str] = {}
        live = vm.live
        if leaks and live is not None and live.alive:
            played = live.played_guest
            remains = clean_graph(leaks, live.qmp, played.eject_pending if played else lambda: None)
        if any(finding.kind in ("vm_state_mismatch", "unseen_panic") for finding in findings):
            vm.reconcile()
        return remains

    # How it looks

    def _check(self, graphs: Mapping[str, tuple[int, Graph]], before: Facts) -> list[Finding]:
        with self._checking, self._books.still:
            first = self._entries({})
            scene = Scene(
                machines=tuple(machine(vm) for vm in self._books.vms()),
                images={disk.name: (disk.path, disk.record.format) for disk in self._books.disks()},
                modified=self._books.modified_templates,
                seconds=ANSWER_SECONDS,
            )
            facts = self._collector.collect(scene, self._ledger(first))
            # Only what was the same before and after looking can be compared with what was seen.
            ledger = self._ledger(self._entries(first))
            runs = {entry.name: entry.run for entry in ledger.vms}
            known = {
                name: VMFacts(alive=True, graph=graph)
                for name, (run, graph) in dict(graphs).items()
                if runs.get(name) == run
            }
            findings = apply(self._rules, replace(before, vms=known), facts, ledger)
            self.appeared.update(finding.kind for finding in findings)
            return findings

    def _entries(self, earlier: Mapping[str, VMEntry]) -> dict[str, VMEntry]:
        entries = {}
        for vm in self._books.vms():
            entry = vm_entry(vm, changing=vm.is_changing)
            was = earlier.get(vm.name)
            # Not its process: that may end at any time, and then it is to be seen.
            if was and (was.changing, was.state, was.run, was.plugged) != (
                entry.changing,
                entry.state,
                entry.run,
                entry.plugged,
            ):
                entry = replace(entry, changing=True)
            entries[vm.name] = entry
        return entries

    def _ledger(self, entries: Mapping[str, VMEntry]) -> Ledger:
        books = self._books
        return Ledger(
            tag=books.tag,
            root=books.root,
            vms=tuple(entries.values()),
            disks=tuple(disk_entry(disk) for disk in books.disks()),
            disk_dir=books.disk_dir,
            files=books.own_files(),
            processes=books.own_processes(),
            taps=books.own_network_devices(),
        )

    def _graph(self, vm: Observed) -> Graph | None:
        live = vm.live
        if live is None or not live.alive or live.fails:
            return None
        try:
            return read_graph(live.qmp, Deadline.after(ANSWER_SECONDS))
        except QmpError:
            return None

    def _observe(self, interval: float, enough: threading.Event) -> None:
        while not enough.wait(interval):
            findings = self.check()
            # Looked at twice: in between, the test may be about to do what it has not recorded yet.
            again = self.check() if findings else []
            self.found += [finding for finding in findings if finding in again and finding not in self.found]
