"""What decides what may be sent to a VM's monitor, and who writes down what was: one for each run of a VM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.qmp.policy import Places
from pytest_qemuvm.qmp.warden import Warden

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.qmp.audit import AuditLog
    from pytest_qemuvm.qmp.schemas import SchemaSource


@dataclass(frozen=True, slots=True)
class Run:
    """What whoever runs the tests tells the harness of them; by itself there is one run without tests."""

    acting: Callable[[], str] = lambda: "session"
    """Return the test, module or session on whose behalf something is done now."""
    permitted: Callable[[], frozenset[str]] = frozenset
    """Return the QMP commands that the marks of the test that runs now permit."""
    artifacts: Path | None = None
    """Where what is kept of failed tests goes."""


@dataclass(frozen=True, slots=True)
class Wardens:
    """What the wardens of all VMs of a session have in common."""

    root: Path
    """The session's directory, in which each VM has its own."""
    run: Run
    audit: AuditLog
    schemas: SchemaSource
    disks: Callable[[], Iterable[Disk]]
    strict: bool

    qemu: tuple[str | None, str, str | None] = (None, "", None)
    """The binary, its fingerprint, and the cache that has its schema."""

    def rules(self) -> dict[str, Any]:
        """Return as plain data what another process has to know to judge as these wardens do."""
        return {
            "qemu": self.qemu,
            "strict": self.strict,
            "artifacts": None if self.run.artifacts is None else str(self.run.artifacts),
            "permitted": sorted(self.run.permitted()),
        }

    def of(self, vm: str) -> Warden:
        """Return a warden for the owner's connection to a VM's monitor.

        The VM's commands may lead to its own directory, to the artefacts, and to disks that no other VM has.
        Sockets may be anywhere in the session's directory: that is how one VM migrates to another.
        """
        own: list[str | os.PathLike[str]] = [self.root / vm]
        if self.run.artifacts is not None:
            own.append(self.run.artifacts)

        def disks() -> Iterable[Path]:
            return (disk.path for disk in self.disks() if disk.holder in (None, vm))

        return Warden(
            vm=vm,
            places=Places(self.root / vm, tuple(own), (self.root,), disks),
            permitted=self.run.permitted,
            nodeid=self.run.acting,
            schemas=self.schemas,
            audit=self.audit,
            strict=self.strict,
        )
