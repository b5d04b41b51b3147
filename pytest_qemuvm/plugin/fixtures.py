"""The fixtures. They only translate between pytest and the harness; nothing here knows how a VM is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_qemuvm.plugin.scope import end, owner_of
from pytest_qemuvm.plugin.state import STATE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.faults.chaos import Chaos
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.observer import Observer
    from pytest_qemuvm.machine.simulated import SimFaults
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plugin.plans import AssertPlan
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DiskFormat
    from pytest_qemuvm.spec.network import NetworkKind
    from pytest_qemuvm.spec.vm import Start, VMSpec


class VMFactory(Protocol):
    """What ``vm_factory`` gives: call it for a VM, as often as you like."""

    def __call__(self, name: str | None = None, *, start: bool | Start = True, **spec: Any) -> VM:
        """Return a new VM, started unless told otherwise; it is deleted when the fixture's scope ends.

        ``start`` may say how: ``"clone"``, ``"cold"`` or ``"auto"``.

        A relative path of ``image`` starts from the rootdir.
        """


class DiskFactory(Protocol):
    """What ``disk_factory`` gives."""

    def __call__(
        self,
        size: int | str | None = None,
        *,
        name: str | None = None,
        format: DiskFormat | None = None,  # noqa: A002  # QEMU's word
        template: str | Template | None = None,
        serial: str | None = None,
    ) -> Disk:
        """Return a new disk; it is deleted when the test ends.

        Without a ``template`` it is empty, of 64 MiB and qcow2 unless told otherwise; with one it is an
        overlay on the template's image and has its size. What ``qemuvm.yaml`` says of the name lies below.
        """


class TemplateFactory(Protocol):
    """What ``template_factory`` gives."""

    def __call__(
        self,
        name: str,
        *,
        base: str | Template = "tiny",
        image: str | os.PathLike[str] | None = None,
        format: DiskFormat | None = None,  # noqa: A002  # QEMU's word
        setup: str | Sequence[str] | Callable[[VM], object] | None = None,
        setup_timeout: float | None = None,
        **spec: Any,
    ) -> Template:
        """Return a new template: another one, ``base``, with keywords of a spec added.

        ``image`` is a disk image of yours that VMs and disks of the template get overlays on; its format must
        be said, and it is never written. A relative path starts from the rootdir. VMs of ``bare`` boot it.
        ``setup`` are commands for the guest, each of which may take ``setup_timeout`` seconds (60), or a
        function that is given the VM. Without an image it is done after each boot of each VM, because nothing
        of ``tiny`` outlives a boot; with one it is done once, now, and what it wrote to the disk becomes the
        template's.
        """


class NetworkFactory(Protocol):
    """What ``network_factory`` gives."""

    def __call__(
        self,
        name: str | None = None,
        *,
        kind: NetworkKind = "segment",
        subnet: str | None = None,
        addressing: bool = True,
        outward: bool = False,
        device: str | None = None,
    ) -> Network:
        """Return a new network, gone when the test ends; VMs are connected by ``nics=[network]``.

        ``segment`` is an Ethernet between the test's VMs, which the harness makes without privileges. With
        ``user`` each VM is alone on QEMU's user-mode networking, and ``outward`` lets it reach the host's
        network. ``bridge`` and ``tap`` are devices of the host, made where networks are real
        (``--qemu-network-dry-run=no``); else their VMs are on user-mode networking. Addresses are of
        ``subnet``, and are handed out unless ``addressing`` is False; ``device`` is a name for the bridge.
        """


@pytest.fixture(scope="session")
def qemuvm(pytestconfig: pytest.Config) -> Iterator[Harness]:
    """Give the harness of this session: its mode, its capabilities, and listings of its VMs."""
    state = pytestconfig.stash[STATE]
    yield state.open_harness()
    state.close()


# What factories make belongs to one of these three. Everything else of the test that uses a factory is torn
# down before them, so that what a test cleans up itself is no finding.


@pytest.fixture
def _qemuvm_of_test(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[Harness]:
    """End, after the test, what was made for it."""
    yield qemuvm
    end(request, qemuvm)


@pytest.fixture(scope="module")
def _qemuvm_of_module(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[Harness]:
    """End, after the module, what was made for it."""
    yield qemuvm
    end(request, qemuvm)


@pytest.fixture(scope="session")
def _qemuvm_of_session(request: pytest.FixtureRequest, qemuvm: Harness) -> Iterator[Harness]:
    """End, after the session, what was made for it."""
    yield qemuvm
    end(request, qemuvm)


@pytest.fixture
def vm_spec() -> VMSpec | Mapping[str, Any]:
    """Return what ``vm`` and ``vm_factory`` start from: a VMSpec or a dict of its keywords. To be overridden.

    The keys of the marker ``qemuvm`` are laid over it, and the keywords of ``vm_factory`` over both.
    """
    return {}


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest, _qemuvm_of_test: Harness, vm_spec: VMSpec | Mapping[str, Any]
) -> VMFactory:
    """Make VMs that live as long as the test: ``vm_factory(name=None, *, start=True, **spec)``."""
    return _factory(_qemuvm_of_test, request.node, vm_spec, list(request.node.iter_markers("qemuvm")))


@pytest.fixture(scope="module")
def module_vm_factory(request: pytest.FixtureRequest, _qemuvm_of_module: Harness) -> VMFactory:
    """Make VMs that live as long as the module: the same call as ``vm_factory``."""
    return _factory(_qemuvm_of_module, request.node, {}, list(request.node.iter_markers("qemuvm")))


@pytest.fixture(scope="session")
def session_vm_factory(request: pytest.FixtureRequest, _qemuvm_of_session: Harness) -> VMFactory:
    """Make VMs that live as long as the session: the same call as ``vm_factory``."""
    return _factory(_qemuvm_of_session, request.node, {}, [])


@pytest.fixture(scope="session")
def session_template_factory(request: pytest.FixtureRequest, _qemuvm_of_session: Harness) -> TemplateFactory:
    """Make templates that live as long as the session: the same call as ``template_factory``."""
    return _templates(_qemuvm_of_session, request.node)


@pytest.fixture
def template_factory(request: pytest.FixtureRequest, _qemuvm_of_test: Harness) -> TemplateFactory:
    """Make templates that live as long as the test: ``template_factory(name, *, base="tiny", ...)``."""
    return _templates(_qemuvm_of_test, request.node)


@pytest.fixture
def disk_factory(request: pytest.FixtureRequest, _qemuvm_of_test: Harness) -> DiskFactory:
    """Make disks that live as long as the test: ``disk_factory(size="64M", *, name=None, ...)``."""
    owner = request.node.nodeid

    def make(
        size: int | str | None = None,
        *,
        name: str | None = None,
        format: DiskFormat | None = None,  # noqa: A002  # QEMU's word
        template: str | Template | None = None,
        serial: str | None = None,
    ) -> Disk:
        keywords = {"size": size, "format": format, "template": template, "serial": serial}
        return _qemuvm_of_test.make_disk(name, owner, keywords)

    return make


@pytest.fixture
def network_factory(request: pytest.FixtureRequest, _qemuvm_of_test: Harness) -> NetworkFactory:
    """Make networks that live as long as the test: ``network_factory(name=None, *, kind="segment", ...)``."""
    return _networks(_qemuvm_of_test, request.node)


@pytest.fixture(scope="module")
def module_network_factory(request: pytest.FixtureRequest, _qemuvm_of_module: Harness) -> NetworkFactory:
    """Make networks that live as long as the module: the same call as ``network_factory``."""
    return _networks(_qemuvm_of_module, request.node)


@pytest.fixture(scope="session")
def session_network_factory(request: pytest.FixtureRequest, _qemuvm_of_session: Harness) -> NetworkFactory:
    """Make networks that live as long as the session: the same call as ``network_factory``."""
    return _networks(_qemuvm_of_session, request.node)


@pytest.fixture
def coherence(_qemuvm_of_test: Harness) -> Observer:
    """Give the observer, which compares records with what is the case: ``coherence.check()``."""
    return _qemuvm_of_test.observer


@pytest.fixture
def sim_faults(_qemuvm_of_test: Harness) -> Iterator[SimFaults]:
    """Have things go wrong in simulated machines: ``sim_faults(CrashAfter(3))``."""
    yield _qemuvm_of_test.sim_faults
    _qemuvm_of_test.sim_faults.clear()


@pytest.fixture
def chaos(request: pytest.FixtureRequest, _qemuvm_of_test: Harness) -> Iterator[Chaos]:
    """Have faults come and go by chance, from a seed: call it with what begins a fault."""
    from pytest_qemuvm.machine.faults.chaos import Chaos  # noqa: PLC0415  # few tests have faults by chance

    made = Chaos(_qemuvm_of_test.faults, owner_of(request.node))
    yield made
    made.close()


@pytest.fixture
def assert_plan(request: pytest.FixtureRequest, _qemuvm_of_test: Harness) -> AssertPlan:
    """Compare the test's VMs, and what was said to them, with a file: ``assert_plan("golden/x.json")``."""
    from pytest_qemuvm.plugin.plans import AssertPlan  # noqa: PLC0415  # few tests compare plans

    return AssertPlan(request.config.stash[STATE], _qemuvm_of_test, request.node)


@pytest.fixture
def vm(vm_factory: VMFactory) -> VM:
    """Give a VM of the test's own, started and ready."""
    return vm_factory()


@pytest.fixture
def qmp(vm: VM) -> Qmp:
    """Give the QMP monitor of ``vm``."""
    return vm.qmp


def _factory(
    harness: Harness, node: pytest.Item | pytest.Collector, base: Any, marks: list[pytest.Mark]
) -> VMFactory:
    from pytest_qemuvm.plugin.needs import from_root, keywords_from  # noqa: PLC0415
    from pytest_qemuvm.spec.vm import laid_over  # noqa: PLC0415

    root = node.config.rootpath
    common = keywords_from(base, marks, "the fixture vm_spec")
    owner = owner_of(node)

    def make(name: str | None = None, *, start: bool | Start = True, **spec: Any) -> VM:
        if not isinstance(start, bool):
            spec["start"] = start
        keywords = from_root(laid_over(common, spec), root)
        wanted = harness.spec_for(name, keywords, "vm_factory")
        return (harness.create_started if start else harness.create)(name, wanted, owner)

    return make


def _networks(harness: Harness, node: pytest.Item | pytest.Collector) -> NetworkFactory:
    from pytest_qemuvm.spec.network import NetworkSpec  # noqa: PLC0415

    owner = owner_of(node)

    def make(
        name: str | None = None,
        *,
        kind: NetworkKind = "segment",
        subnet: str | None = None,
        addressing: bool = True,
        outward: bool = False,
        device: str | None = None,
    ) -> Network:
        return harness.create_network(name, NetworkSpec(kind, subnet, addressing, outward, device), owner)

    return make


def _templates(harness: Harness, node: pytest.Item | pytest.Collector) -> TemplateFactory:
    from pytest_qemuvm.plugin.needs import from_root  # noqa: PLC0415
    from pytest_qemuvm.spec.template import TemplateSpec  # noqa: PLC0415

    owner = owner_of(node)

    def make(
        name: str,
        *,
        base: str | Template = "tiny",
        image: str | os.PathLike[str] | None = None,
        format: DiskFormat | None = None,  # noqa: A002  # QEMU's word
        setup: str | Sequence[str] | Callable[[VM], object] | None = None,
        setup_timeout: float | None = None,
        **spec: Any,
    ) -> Template:
        image = from_root({"image": image}, node.config.rootpath)["image"]
        template = TemplateSpec(base, image, format, setup, setup_timeout, spec)
        return harness.create_template(name, template, owner)

    return make
