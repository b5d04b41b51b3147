"""Collecting facts: each collector sees one thing, and one that fails says so instead of keeping silent.

A new fact is a field of ``Facts`` and a row of ``_COLLECTORS``; another plugin brings its collectors by the
hook ``pytest_qemuvm_coherence_facts``, and finds what they return in ``Facts.extra``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.coherence.facts import Facts, Failure, Graph, Ledger, VMFacts
from pytest_qemuvm.coherence.graph import ask_for_graph
from pytest_qemuvm.coherence.host_facts import (
    ProcessScan,
    files_below,
    lockers,
    network_devices,
    open_files,
)
from pytest_qemuvm.errors import QmpDisconnected
from pytest_qemuvm.host.chains import chain_of
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm.qmp import Qmp

ANSWER_SECONDS = 5.0
"""How long a QEMU may take to answer a check: it takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM as a check can look at it."""

    name: str
    alive: Callable[[], bool]
    pid: int | None
    exit_status: Callable[[], int | None]
    qmp: Qmp | None
    unseen_panic: Callable[[], str | None]
    asked: bool = True
    """Whether it is asked what it has: one that was told to fail might do so at the question, and one that is
    frozen does not hear it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to look at: live handles, unlike ledger and facts."""

    machines: tuple[Machine, ...] = ()
    images: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    """Path and format of each disk's image, by the disk's name."""
    modified: Callable[[], Mapping[str, tuple[str, ...]]] = dict
    """Return the changed files of templates."""
    seconds: float = ANSWER_SECONDS


Collector = Callable[[Scene, Ledger], Any]


class FactCollector:
    """Collects the facts of one session."""

    def __init__(self, tag: str, root: Path, extra: Mapping[str, Collector] | None = None) -> None:
        self._tag = tag
        self._root = root
        self._scan = ProcessScan(tag)
        self._extra = extra or {}

    def collect(self, scene: Scene, ledger: Ledger) -> Facts:
        """Return everything that is seen now."""
        failures: list[Failure] = []
        # All QEMUs at once, and they answer while the host is looked at.
        asked = [(machine, _ask(machine, scene.seconds)) for machine in scene.machines]
        ours = frozenset(entry.process[0] for entry in ledger.vms if entry.process)

        def of(what: str, collector: Callable[[], Any], default: Any) -> Any:
            try:
                return collector()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
                failures.append(Failure(what, f"{type(error).__name__}: {error}"))
                return default

        paths = [path for path, _ in scene.images.values()]
        collected: dict[str, Any] = {
            "processes": of("processes", self._scan.find, frozenset()),
            "files": of("files", lambda: files_below(self._root), frozenset()),
            "lockers": of("locks on disks", lambda: lockers(paths, ours), {}) if paths else {},
            "chains": of("images of disks", lambda: _broken_chains(scene.images), {}),
            "modified": of("templates", scene.modified, {}),
            "taps": of("network devices", lambda: network_devices(self._tag), frozenset()),
            "extra": {
                name: of(name, lambda collector=collector: collector(scene, ledger), None)  # type: ignore[misc]
                for name, collector in self._extra.items()
            },
        }
        vms = {machine.name: self._look_at(machine, graph, failures) for machine, graph in asked}
        return Facts(vms=vms, failures=tuple(failures), **collected)

    def _look_at(
        self, machine: Machine, answered: Callable[[], Graph | None] | None, failures: list[Failure]
    ) -> VMFacts:
        """Look at a VM; a QEMU that is alive and does not answer is a failure of the check."""
        if answered is None:
            return VMFacts(
                alive=False, exit_status=machine.exit_status(), unseen_panic=machine.unseen_panic()
            )
        graph: Graph | None = None
        try:
            graph = answered()
        except QmpDisconnected:
            return VMFacts(
                machine.alive(), exit_status=machine.exit_status(), unseen_panic=machine.unseen_panic()
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            failures.append(Failure(f"the graph of VM {machine.name}", f"{type(error).__name__}: {error}"))
        return VMFacts(
            alive=True,
            graph=graph,
            open_files=open_files(machine.pid) if machine.pid is not None else frozenset(),
            unseen_panic=machine.unseen_panic(),
        )


def _ask(machine: Machine, seconds: float) -> Callable[[], Graph | None] | None:
    """Ask a VM's QEMU for its graph and return what awaits that; None where it does not run."""
    if not machine.alive() or machine.qmp is None:
        return None
    if not machine.asked:
        return lambda: None
    try:
        return ask_for_graph(machine.qmp, Deadline.after(seconds))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return partial(_raise, error)


def _raise(error: Exception) -> Graph:
    raise error


def _broken_chains(images: Mapping[str, tuple[Path, str]]) -> dict[str, str]:
    broken = {}
    for name, (path, image_format) in images.items():
        if not path.exists():  # which is another finding
            continue
        try:
            chain_of(path, image_format)
        except Exception as error:  # noqa: BLE001  # a header that makes no sense may raise anything
            broken[name] = str(error).partition("\n")[0]
    return broken
