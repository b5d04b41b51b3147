"""The fixtures. They only translate between pytest and the harness; nothing here knows how a VM is made."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_qemuvm.plugin.state import STATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DiskFormat
    from pytest_qemuvm.spec.vm import VMSpec


class VMFactory(Protocol):
    """What ``vm_factory`` gives: call it for a VM, as often as you like."""

    def __call__(self, name: str | None = None, *, start: bool = True, **spec: Any) -> VM:
        """Return a new VM, started unless told otherwise; it is deleted when the fixture's scope ends."""


class DiskFactory(Protocol):
    """What ``disk_factory`` gives."""

    def __call__(
        self,
        size: int | str = "64M",
        *,
        name: str | None = None,
        format: DiskFormat = "qcow2",  # noqa: A002  # QEMU's word
        serial: str | None = None,
    ) -> Disk:
        """Return a new, empty disk; it is deleted when the test ends."""


@pytest.fixture(scope="session")
def qemuvm(pytestconfig: pytest.Config) -> Iterator[Harness]:
    """Give the harness of this session: its mode, its capabilities, and listings of its VMs."""
    state = pytestconfig.stash[STATE]
    yield state.open_harness()
    state.close()


@pytest.fixture
def vm_spec() -> VMSpec | Mapping[str, Any]:
    """Return what ``vm`` and ``vm_factory`` start from: a VMSpec or a dict of its keywords. To be overridden.

    The keys of the marker ``qemuvm`` are laid over it, and the keywords of ``vm_factory`` over both.
    """
    return {}


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest, qemuvm: Harness, vm_spec: VMSpec | Mapping[str, Any]
) -> Iterator[VMFactory]:
    """Make VMs that live as long as the test: ``vm_factory(name=None, *, start=True, **spec)``."""
    marks = list(request.node.iter_markers("qemuvm"))
    with _factory(qemuvm, request.node, vm_spec, marks) as factory:
        yield factory


@pytest.fixture(scope="module")
def module_vm_factory(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[VMFactory]:
    """Make VMs that live as long as the module: the same call as ``vm_factory``."""
    with _factory(qemuvm, request.node, {}, list(request.node.iter_markers("qemuvm"))) as factory:
        yield factory


@pytest.fixture(scope="session")
def session_vm_factory(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[VMFactory]:
    """Make VMs that live as long as the session: the same call as ``vm_factory``."""
    with _factory(qemuvm, request.node, {}, []) as factory:
        yield factory


@pytest.fixture
def disk_factory(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[DiskFactory]:
    """Make disks that live as long as the test: ``disk_factory(size="64M", *, name=None, ...)``."""
    from pytest_qemuvm.spec.devices import DiskSpec  # noqa: PLC0415

    owner = request.node.nodeid

    def make(
        size: int | str = "64M",
        *,
        name: str | None = None,
        format: DiskFormat = "qcow2",  # noqa: A002  # QEMU's word
        serial: str | None = None,
    ) -> Disk:
        return qemuvm.create_disk(DiskSpec(size, serial=serial, format=format), name, owner)

    yield make
    _each(qemuvm.disks_owned_by(owner), "discard", f"disks of {owner}")


@pytest.fixture
def vm(vm_factory: VMFactory) -> VM:
    """Give a VM of the test's own, started and ready."""
    return vm_factory()


@pytest.fixture
def qmp(vm: VM) -> Qmp:
    """Give the QMP monitor of ``vm``."""
    return vm.qmp


@contextmanager
def _factory(
    harness: Harness, node: pytest.Item | pytest.Collector, base: Any, marks: list[pytest.Mark]
) -> Iterator[VMFactory]:
    """Give a factory whose VMs are deleted on leaving; what goes wrong then is raised all at once."""
    from pytest_qemuvm.plugin.needs import spec_from  # noqa: PLC0415

    common = spec_from(base, marks, "the fixture vm_spec")
    owner = node.nodeid or "session"

    def make(name: str | None = None, *, start: bool = True, **spec: Any) -> VM:
        made = harness.create(name, common.with_keywords(spec, "vm_factory"), owner)
        if start:
            made.start()
        return made

    try:
        yield make
    finally:
        _each(harness.owned_by(owner), "delete", f"VMs of {owner}")


def _each(things: Sequence[VM | Disk], end: str, what: str) -> None:
    """End all of them by the method of that name; what goes wrong is raised when all have been tried."""
    errors: list[Exception] = []
    for thing in things:
        try:
            getattr(thing, end)()
        except Exception as error:  # noqa: BLE001  # all of them are raised below
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{what} could not be deleted in order", errors)
